"""Parts of sentences in messages: counted nouns, numbers and lists of words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal

FIRST = 3
"""Names that a list of failures has at most for one reason."""


def counted(number: int, noun: str) -> str:
    """`1 response`, `2,000 responses`: a number and its regular noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def plain_number(number: float, separator: str = "") -> str:
    """`0.0000002`, `1.5`, `2000000`: ten significant digits, as a setting takes them, without an exponent.

    Args:
        number: The number.
        separator: Of thousands.
    """
    text = f"{Decimal(f'{number:.10g}'):,f}".replace(",", separator)
    return text.rstrip("0").rstrip(".") if "." in text else text


def three_digits(number: float) -> str:
    """`0.524`, `52,500`, `under 0.001`: three significant digits, without an exponent."""
    if number < 0.001:
        return "under 0.001" if number else "0"
    return plain_number(float(f"{number:.3g}"), ",") if math.isfinite(number) else "infinite"


def in_words(words: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`; empty without words."""
    *first, last = (*words,) or ("",)
    return f"{', '.join(first)} and {last}" if first else last


def failures_in_words(failures: Mapping[str, str], total: int, noun: str) -> list[str]:
    """`row-3: no answer`, or `8 of 8 rows: no answer (a, b, c, ...)` for failures with the same words.

    Args:
        failures: Name of each that failed -> why.
        total: Number of all of them, those that did not fail included.
        noun: What one of them is, such as `row`.
    """
    names: dict[str, list[str]] = {}
    for name, why in failures.items():
        names.setdefault(why, []).append(name)
    return [
        f"{same[0]}: {why}" if len(same) == 1 else f"{len(same):,} of {counted(total, noun)}: {why} ({_first(same)})"
        for why, same in names.items()
    ]


def _first(names: list[str]) -> str:
    return ", ".join(names[:FIRST]) + (", ..." if len(names) > FIRST else "")
