"""An evaluation as text: the `repr` of `Evaluation`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agentopt.core.message_text import counted
from agentopt.core.usd_text import format_usd
from agentopt.core.yaml_models import shortened


def evaluation_text(evaluation: Any) -> str:
    """Return the score, the cost and the failures of an `Evaluation`, a line each."""
    return "\n".join("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in _lines(evaluation))


def _lines(evaluation: Any) -> Iterator[str]:
    repeats = f", {evaluation.repeats} repeats" if evaluation.repeats > 1 else ""
    rows = counted(evaluation.planned, f"{evaluation.split} example")
    yield f"Evaluation on {rows}: {evaluation.outcome}{repeats}"
    yield f"  score {'-' if evaluation.score is None else f'{evaluation.score:.3f}'}"
    yield from (
        f"  {shortened(name)} {sum(of.values()) / len(of):.3f}" for name, of in evaluation.metrics.items() if of
    )
    usd, median, high = evaluation.usd_per_example, evaluation.latency(0.5), evaluation.latency(0.95)
    seconds = "" if median is None else f", {median:.2f} s (p50) and {high:.2f} s (p95)"
    yield f"  {format_usd(1000 * usd)} USD per 1,000 requests{seconds}"
    for what, reasons in (("without a score", evaluation.errors), ("left out", evaluation.left_out)):
        if reasons:
            row, reason = next((row, getattr(reason, "reason", reason)) for row, reason in reasons.items())
            yield f"  {counted(len(reasons), 'example')} {what}; the first, {shortened(row)}: {shortened(reason)}"
