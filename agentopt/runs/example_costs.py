"""What an example costs: of a candidate, and of one of its subtasks."""

from __future__ import annotations

from dataclasses import dataclass, fields

from agentopt.core.records import Evaluation, SubtaskUse
from agentopt.core.usd_text import USD_DIGITS, format_usd, rounded_usd


@dataclass(frozen=True, slots=True)
class ExampleCosts:
    """What a request to a candidate costs, measured on the validation split.

    Attributes:
        usd: Mean USD of an example at the catalogue's prices, fusion calls included.
        seconds_p50: Median latency of an example: the seconds of its model calls along the critical path, without
            retries and waits for a rate limit. None if it is not known.
        seconds_p95: 95th percentile of the latency.
    """

    usd: float
    seconds_p50: float | None = None
    seconds_p95: float | None = None

    @classmethod
    def of(cls, evaluation: Evaluation) -> ExampleCosts:
        """The measures of an evaluation, over its scored examples."""
        usd = round(evaluation.usd_per_example, USD_DIGITS)
        return cls(usd, evaluation.latency(0.5), evaluation.latency(0.95))

    def __str__(self) -> str:
        usd = f"{format_usd(1000 * self.usd)} USD per 1,000 requests"
        if self.seconds_p50 is None:
            return usd
        return f"{usd}, {self.seconds_p50:.2f} s (p50) and {self.seconds_p95:.2f} s (p95)"


@dataclass(frozen=True, slots=True)
class SubtaskCostShown:
    """Means per example of one subtask: tokens and USD of the samples, and of the fusion call apart."""

    prompt_tokens: float
    completion_tokens: float
    units: float
    usd: float
    fusion_tokens: float
    fusion_units: float
    fusion_usd: float

    @classmethod
    def of(cls, evaluation: Evaluation, subtask: str) -> SubtaskCostShown:
        """The means over the scored examples; 0 without any."""
        uses = [r.subtasks.get(subtask, SubtaskUse()) for r in evaluation.results if r.score is not None]
        means = {f.name: sum(getattr(use, f.name) for use in uses) / max(len(uses), 1) for f in fields(cls)}
        return cls(**rounded_usd(means))
