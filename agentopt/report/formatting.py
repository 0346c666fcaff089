"""Formats numbers for people."""

from __future__ import annotations

from agentopt.core.budget import Caps, Usage
from agentopt.core.intervals import APPROXIMATE_BELOW
from agentopt.core.message_text import plain_number
from agentopt.core.stats import Difference, Interval
from agentopt.core.usd_text import format_usd


def rounded(value: float, digits: int) -> float:
    """The value rounded for a text; never -0.0, which is shown as -0.00."""
    return round(value, digits) + 0.0


def format_interval(interval: Interval, *, signed: bool = False) -> str:
    """`(0.61 to 0.83)`, or `(0.61 to 0.83, approximate)`; with `signed`, `(+0.02 to +0.24)`."""
    form = "+.2f" if signed else ".2f"
    mark = ", approximate" if interval.approximate else ""
    return f"({rounded(interval.low, 2):{form}} to {rounded(interval.high, 2):{form}}{mark})"


APPROXIMATE = f"approximate: fewer than {APPROXIMATE_BELOW} scores, and skewed, or too few to see whether they are"
"""Explains the mark of an interval."""


def format_p_value(p_value: float) -> str:
    """`p=0.03`, or `p<0.001`."""
    return "p<0.001" if p_value < 0.001 else f"p={p_value:.2g}"


def format_difference(difference: Difference) -> str:
    """`+0.130 (+0.02 to +0.24) p=0.03`."""
    interval = format_interval(difference.interval, signed=True)
    return f"{rounded(difference.mean, 3):+.3f} {interval} {format_p_value(difference.p_value)}"


def usage_cells(usage: Usage) -> tuple[str, str, str, str]:
    """Calls, prompt tokens, completion tokens and USD, as cells of a table."""
    return f"{usage.calls:,}", f"{usage.prompt_tokens:,}", f"{usage.completion_tokens:,}", format_usd(usage.usd)


def format_spend(spent: Usage, seconds: float, caps: Caps) -> str:
    """`12 of 100 calls, 3,400 tokens, 0.00123 of 0.5 USD, 35 of 600 s`.

    Args:
        spent: The spend so far.
        seconds: Wall time so far.
        caps: The caps; only those that are set are shown.
    """
    parts = (
        (f"{spent.calls:,}", caps.calls, "call" if spent.calls == 1 and caps.calls is None else "calls"),
        (f"{spent.tokens:,}", caps.tokens, "token" if spent.tokens == 1 and caps.tokens is None else "tokens"),
        (format_usd(spent.usd), caps.usd, "USD"),
        (format_seconds(seconds, caps.seconds), caps.seconds, "s"),
    )
    capped = ((value, "" if cap is None else f" of {plain_number(cap, ',')}", unit) for value, cap, unit in parts)
    return ", ".join(f"{value}{of} {unit}" for value, of, unit in capped)


def format_seconds(seconds: float, cap: float | None) -> str:
    """`35`, or `0.4` of a cap below 10 s: never more than the cap, which a call or an import in progress may pass."""
    return f"{seconds:.0f}" if cap is None else plain_number(round(min(seconds, cap), 0 if cap >= 10 else 1))


def format_duration(seconds: float) -> str:
    """`0.03 s`, `35 s`, or `2 min 5 s`."""
    if 0 < seconds < 1:
        return f"{seconds:.1g} s" if seconds >= 0.001 else "0.001 s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
