"""Parts of sentences in messages: counted nouns and lists of words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping


def counted(number: int, noun: str) -> str:
    """`1 response`, `2,000 responses`: a number and its regular noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def in_words(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`; empty without words."""
    *first, last = (*words,) or ("",)
    return f"{', '.join(first)} and {last}" if first else last


def failures_in_words(failures: Mapping[str, str], total: int, noun: str) -> list[str]:
    """`row-3: no answer`, or `8 of 8 rows: no answer` for failures with the same words.

    Args:
        failures: Name of each that failed -> why.
        total: Number of all of them, those that did not fail included.
        noun: What one of them is, such as `row`.
    """
    counts = Counter(failures.values())
    first = {why: name for name, why in reversed([*failures.items()])}
    of_all = counted(total, noun)
    return [f"{first[why] if count == 1 else f'{count:,} of {of_all}'}: {why}" for why, count in counts.items()]
