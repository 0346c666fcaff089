"""Separates what a model thought from what it answered."""

from __future__ import annotations

import re

OPENING = re.compile(
    r"(?:\A|^)[ \t]*(?:<(?:think|thinking|thought|seed:think)>|(?-i:\[THINK\])|\u25c1think\u25b7|"
    r"<\|START_THINKING\|>|(?:<\|start\|>assistant)?<\|channel\|>analysis<\|message\|>)",
    re.IGNORECASE | re.MULTILINE,
)
"""A thought starts at the beginning of a line: within a line, a tag is quoted.

The forms are those of models' own chat templates, which a server passes on if it does not know them: most write
`<think>`, Magistral `[THINK]`, Kimi a triangle, Seed-OSS and Cohere names of their own, gpt-oss channels.
"""
CLOSING = re.compile(
    r"</(?:think|thinking|thought|seed:think)>|(?-i:\[/THINK\])|\u25c1/think\u25b7|<\|END_THINKING\|>|"
    r"(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>",
    re.IGNORECASE,
)


def split_thought(text: str) -> tuple[str, str]:
    """Split a model's text into thoughts and answer.

    A block such as `<think>...</think>` is a thought; one without an end is a thought that was cut off. The text before
    a closing tag without an opening one is a thought too: some chat templates write the opening tag into the prompt.

    Args:
        text: The content of a choice.

    Returns:
        The thoughts, joined by line breaks, and the rest of the text. A text without thoughts is returned unchanged.
    """
    thoughts: list[str] = []
    rest = text
    first = OPENING.search(rest)
    closing = CLOSING.search(rest)
    if closing and (first is None or closing.start() < first.start()) and not _is_quoted(rest, closing):
        thoughts.append(rest[: closing.start()])
        rest = rest[closing.end() :]
    while opening := OPENING.search(rest):
        closing = CLOSING.search(rest, opening.end())
        thoughts.append(rest[opening.end() : closing.start() if closing else len(rest)])
        rest = rest[: opening.start()] + (rest[closing.end() :] if closing else "")
    if not thoughts:
        return "", text
    return "\n".join(thought.strip() for thought in thoughts), rest.strip()


def _is_quoted(text: str, tag: re.Match[str]) -> bool:
    return text[: tag.start()].endswith(("`", "'", '"')) or text[tag.end() :].startswith(("`", "'", '"'))
