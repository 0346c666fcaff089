"""Separates what a model thought from what it answered."""

from __future__ import annotations

import re

THOUGHT_KEYS = (
    *("reasoning_content", "reasoning", "thinking", "thought", "thoughts", "reasoning_text", "thinking_content"),
    *("reasoning_details", "thinking_blocks"),
)
"""Fields of a message, and of a part of a stream, that hold thoughts: the same ones if there are several."""

_NAME = r"(?:(?:[a-z]+[:_])?think|thinking|ant_?thinking|thought)"
OPENING = re.compile(
    rf"(?:\A|^)[ \t]*(?:<\s*{_NAME}\s*>|(?-i:\[THINK\])|\u25c1think\u25b7|"
    r"<\|(?:START_THINKING|begin_of_thought|think(?:ing)?)\|>|<unused94>(?:thought)?|"
    r"(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)<\|message\|>)",
    re.IGNORECASE | re.MULTILINE,
)
"""A thought starts at the beginning of a line: within a line, a tag is quoted.

The forms are those of models' own chat templates, which a server passes on if it does not know them: most write
`<think>`, Magistral `[THINK]`, Kimi a triangle, Seed-OSS, LongCat and Cohere names of their own, MedGemma unused
tokens, OpenThinker `begin_of_thought`, gpt-oss channels.
"""
CLOSING = re.compile(
    rf"<\s*/\s*{_NAME}\s*>|(?-i:\[/THINK\])|\u25c1/think\u25b7|"
    r"<\|(?:END_THINKING|end_of_thought|/think(?:ing)?)\|>|<unused95>|"
    r"(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>",
    re.IGNORECASE,
)
LEADING = re.compile(r"\s*<(reasoning|thoughts|scratchpad)>(.*?)(?:</\1>|\Z)", re.IGNORECASE | re.DOTALL)
"""Tags of a thought at the start of a text, as Reka writes them. Elsewhere, they are elements of an answer."""
MARKS = ("<", "[", "\u25c1")
"""One of these is in every tag; most texts have none."""
AROUND_ANSWER = re.compile(
    r"\s*<\|(?:START_RESPONSE|END_RESPONSE|begin_of_solution|end_of_solution|return|end)\|>\s*", re.IGNORECASE
)
"""What some of these models write before and after the answer that follows a thought."""
QUOTED = re.compile(r"(?:\A|[\s(\[{])([`'\"])\Z")
"""The end of a text that a quotation begins after: a mark after a word ends one, such as in a thought."""


def split_thought(text: str) -> tuple[str, str]:
    """Split a model's text into thoughts and answer.

    A block such as `<think>...</think>` is a thought; one without an end is a thought that was cut off. The text before
    a closing tag without an opening one is a thought too: some chat templates write the opening tag into the prompt,
    and some models close a thought twice.

    Args:
        text: The content of a choice.

    Returns:
        The thoughts, joined by line breaks, and the rest of the text. A text without thoughts is returned unchanged.
    """
    if not any(mark in text for mark in MARKS):
        return "", text
    thoughts: list[str] = []
    rest = text
    if leading := LEADING.match(rest):
        thoughts.append(leading[2])
        rest = rest[leading.end() :]
    while closing := _first_closing(rest):
        opening = OPENING.search(rest, 0, closing.start())
        thoughts.append(rest[opening.end() if opening else 0 : closing.start()])
        rest = rest[: opening.start() if opening else 0] + rest[closing.end() :]
    if opening := OPENING.search(rest):
        thoughts.append(rest[opening.end() :])
        rest = rest[: opening.start()]
    if not thoughts:
        return "", text
    return "\n".join(filter(None, (thought.strip() for thought in thoughts))), AROUND_ANSWER.sub("", rest).strip()


def _first_closing(text: str) -> re.Match[str] | None:
    return next((tag for tag in CLOSING.finditer(text) if not _is_quoted(text, tag)), None)


def _is_quoted(text: str, tag: re.Match[str]) -> bool:
    mark = QUOTED.search(text[max(0, tag.start() - 2) : tag.start()])
    return mark is not None and text.startswith(mark[1], tag.end())
