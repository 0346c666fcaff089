"""Parts of sentences in messages: counted nouns and lists of words."""

from __future__ import annotations

from collections.abc import Iterable


def counted(number: int, noun: str) -> str:
    """`1 response`, `2,000 responses`: a number and its regular noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def in_words(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`; empty without words."""
    *first, last = (*words,) or ("",)
    return f"{', '.join(first)} and {last}" if first else last
