"""Formats numbers for people."""

from __future__ import annotations

from agentopt.core.budget import Caps, Usage
from agentopt.core.stats import Interval


def interval_in_words(interval: Interval, *, signed: bool = False) -> str:
    form = "+.2f" if signed else ".2f"
    return f"({interval.low:{form}} to {interval.high:{form}})"


def p_in_words(p_value: float) -> str:
    return "p<0.001" if p_value < 0.001 else f"p={p_value:.2g}"


def usage_cells(usage: Usage) -> tuple[str, str, str, str]:
    return f"{usage.calls:,}", f"{usage.prompt_tokens:,}", f"{usage.completion_tokens:,}", f"{usage.usd:.4f}"


def spend_in_words(spent: Usage, seconds: float, caps: Caps) -> str:
    """`12 of 100 calls, 3,400 tokens, 0.0012 of 0.5 USD, 35 of 600 s`."""
    shown = (
        (f"{spent.calls:,}", caps.calls, "calls"),
        (f"{spent.tokens:,}", caps.tokens, "tokens"),
        (f"{spent.usd:.4f}", caps.usd, "USD"),
        (f"{seconds:.0f}", caps.seconds, "s"),
    )
    return ", ".join(f"{value}{'' if cap is None else f' of {cap:,}'} {unit}" for value, cap, unit in shown)


def duration_in_words(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
