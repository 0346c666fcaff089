"""US dollars as text and in JSON."""

from __future__ import annotations

from collections.abc import Collection
from math import ceil, floor, log10
from typing import Any

from agentopt.core.message_text import in_words

USD_DIGITS = 12
"""Decimals of amounts in files. The mean cost of an example is often below 1e-6."""


def format_usd(usd: float) -> str:
    """`0.00463`, `0.0000061`, `12.3`, `1,235`: three significant digits, without an exponent or trailing zeros."""
    if not usd:
        return "0"
    decimals = max(0, 2 - floor(log10(abs(usd))))
    text = f"{usd:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if decimals else text


def usd_in_words(usd: float, unpriced: Collection[str] = ()) -> str:
    """`0.00463 USD`; `price unknown`, or `0.00463 USD without nano (price unknown)`, if some prices are not known.

    Args:
        usd: The amount, in which calls of models without a price count as 0.
        unpriced: Models that were called and have no price.
    """
    if not unpriced:
        return f"{format_usd(usd)} USD"
    return f"{format_usd(usd)} USD without {in_words(unpriced)} (price unknown)" if usd else "price unknown"


def usd_at_least(usd: float) -> str:
    """An amount rounded up to three significant digits, so that it suffices where `usd` does.

    Args:
        usd: The amount.
    """
    if not usd:
        return "0"
    step = 10 ** (floor(log10(abs(usd))) - 2)
    return format_usd(ceil(usd / step - 1e-6) * step)


def rounded_usd(data: Any) -> Any:
    """Plain data with its amounts in USD rounded to `USD_DIGITS`, which removes the noise of binary sums.

    Args:
        data: What JSON can represent. The name of an amount ends with `usd`.
    """
    if isinstance(data, dict):
        return {
            key: round(value, USD_DIGITS) if isinstance(value, float) and key.endswith("usd") else rounded_usd(value)
            for key, value in data.items()
        }
    return [rounded_usd(value) for value in data] if isinstance(data, list) else data
