"""Removes what a model writes around an answer: fences, labels, list markers, quotation marks, a JSON object."""

from __future__ import annotations

import re
from typing import Any

from agentopt.core.json_text import json_values

_FENCE_LINE = re.compile(r"[ \t]*(?:`{3,}|~{3,})[ \t]*[\w+.-]*[ \t]*")
_LABEL = re.compile(
    r"[\s*_>#]*(?:(?:so|thus|therefore|hence),?\s+)?(?:(?:the|my)\s+)?(?:(?:final|short|correct|best)\s+)?"
    r"answer[*_]*(?:\s+is[*_]*(?![^\W_])\s*:?|\s*[:=\uff1a])[*_]*\s*",
    re.IGNORECASE,
)
_MARKER = re.compile(r"\s*(?:[*_]{0,2}1[.)][*_]{0,2}|[-*+\u2022\u2023\u25e6\u2013\u2014])\s+")
_CODE_NAME = re.compile(r"[a-z][a-z0-9_]*")
"""What is between the underscores of a name such as `__init__`, which are no emphasis."""
_STRAIGHT = str.maketrans("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2018\u2019\u201a\u201b", '""""""\'\'\'\'')
_WRAPPERS = ("**", "__", "```", '"', "'", "`", "*", "_")
_ANSWER_KEYS = ("answer", "final_answer", "short_answer", "result", "output", "response")


def content_lines(text: str) -> list[str]:
    """Return the lines that are neither blank nor the start or end of a fenced block, without surrounding space."""
    return [line.strip() for line in text.splitlines() if line.strip() and not _FENCE_LINE.fullmatch(line)]


def bare_answer(text: str, *, first_line: bool) -> str:
    """Return the answer without what is written around it; empty if nothing is left.

    Removed are: a label (`Answer:`, `The answer is`), the marker of a list's first item (`1.`, `-`), quotation marks
    and emphasis around the whole, and a JSON object or list around one value. Curly quotation marks become straight.

    Args:
        text: A response.
        first_line: Whether only the first line with content is read; a label alone on its line is no content.
    """
    lines = content_lines(text)
    inside = _inside_json("\n".join(lines))
    if inside is not None:
        lines = content_lines(inside)
    while lines:
        lines[0] = _unwrapped(lines[0])
        if lines[0]:
            break
        lines = lines[1:]
    return "\n".join(lines[:1] if first_line else lines)


def _unwrapped(line: str) -> str:
    """The line without markers, labels and quotation marks, in whatever order they are nested."""
    line = line.translate(_STRAIGHT).strip()
    while True:
        before = line
        for mark in _WRAPPERS:
            inner = line.removesuffix(".") if line.endswith(f"{mark}.") else line
            between = inner[len(mark) : -len(mark)]
            if mark == "__" and _CODE_NAME.fullmatch(between):
                continue
            # "A" and "B" are not one pair.
            if len(inner) >= 2 * len(mark) and inner == f"{mark}{between}{mark}" and mark not in between:
                line = between.strip()
        for pattern in (_MARKER, _LABEL):
            if start := pattern.match(line):
                line = line[start.end() :].strip()
        if line == before:
            return line


def _inside_json(text: str) -> str | None:
    """The one value inside a JSON object or list that is the whole text; None if there is none."""
    if not text.startswith(("{", "[")):
        return None
    value: Any = next(json_values(text), None) if text.endswith(("}", "]")) else None
    while isinstance(value, dict | list):
        inner = list(value.values()) if isinstance(value, dict) else value
        if isinstance(value, dict) and len(value) > 1:
            inner = [value[key] for key in value if key.casefold() in _ANSWER_KEYS][:1]
        if len(inner) != 1:
            return None
        (value,) = inner
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
