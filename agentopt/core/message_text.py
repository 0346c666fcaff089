"""Parts of sentences in messages: counted nouns, numbers and lists of words."""

from __future__ import annotations

import math
import re
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
    """`row-3: no answer`, or `8 of 8 rows: no answer (a, b, c, ...)` for failures with the same reason.

    Reasons that differ by what they quote after `got` alone are the same; the first is shown.

    Args:
        failures: Name of each that failed -> why.
        total: Number of all of them, those that did not fail included.
        noun: What one of them is, such as `row`.
    """
    alike: dict[str, dict[str, str]] = {}
    for name, why in failures.items():
        reason = without_example(why, name)
        alike.setdefault(_GOT.split(reason)[0], {})[name] = reason
    return [_in_words(same, total, noun) for same in alike.values()]


def without_example(why: str, example: str) -> str:
    """Return the reason of a failure without the id of its example, for lists that name it beside the reason.

    Args:
        why: The reason.
        example: The id.
    """
    return re.sub(rf",? on example {re.escape(example)}(?!\w)", "", why)


_GOT = re.compile(r", (?:but )?got ")
"""What comes before the text that a reason quotes."""


def _in_words(same: Mapping[str, str], total: int, noun: str) -> str:
    name, reason = next(iter(same.items()))
    if len(same) == 1:
        return f"{name}: {reason}"
    shown = ", ".join(list(same)[:FIRST]) + (", ..." if len(same) > FIRST else "")
    quoted = f"; the text is that of {name}" if len({*same.values()}) > 1 else ""
    return f"{len(same):,} of {counted(total, noun)}: {reason} ({shown}{quoted})"
