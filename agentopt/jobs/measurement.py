"""A candidate's measurement on a split: scores, costs, and the alarms that a champion raises by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentopt.core.cost import CostMeasure
from agentopt.core.records import Evaluation
from agentopt.core.stats import Difference, paired_difference, verdict


@dataclass(frozen=True, slots=True)
class Measurement:
    """A candidate's scores and costs on one split.

    Attributes:
        scores: Row -> score.
        usd: USD per example at current prices.
        units: Cost per example in the task's units.
        seconds: Mean latency per example; 0 if it is not known.
        complete: Whether every example has a score.
    """

    scores: Mapping[str, float]
    usd: float
    units: float
    seconds: float = 0.0
    complete: bool = True

    @classmethod
    def of(cls, evaluation: Evaluation) -> Measurement:
        """The measurement that an evaluation gives; fusion calls count to the costs."""
        units = evaluation.per_example("units") + evaluation.per_example("fusion_units")
        latencies = evaluation.latencies
        seconds = sum(latencies) / len(latencies) if latencies else 0.0
        return cls(evaluation.scores, evaluation.usd_per_example, units, seconds, evaluation.state == "complete")


def costs(*measurements: Measurement, measure: CostMeasure = "usd") -> tuple[float, ...]:
    """The costs per example in one measure.

    Costs in USD may be 0, those of a local model. A cost of 0 units is that of a pass which is too short for the unit,
    and 0 seconds are a latency that is not known, so neither is compared with another cost.

    Args:
        measurements: The measurements.
        measure: The measure of the task's costs. If it does not compare the measurements, the first of USD, units and
            seconds that does; costs are 0 if none does.
    """
    for name in dict.fromkeys((measure, "usd", "units", "seconds")):
        found = tuple(getattr(m, name) for m in measurements)
        if any(found) if name == "usd" else all(found):
            return found
    return (0.0,) * len(measurements)


def beats(a: Measurement, b: Measurement, confidence: float = 0.95) -> bool:
    """Whether `a` is significantly better than `b` in the paired comparison.

    Args:
        a: Measurement of the one candidate.
        b: Measurement of the other one, on the same examples.
        confidence: Confidence of the comparison.
    """
    return verdict(paired_difference(a.scores, b.scores, confidence=confidence)) == "better"


def alarms(champion: Measurement, recorded: Mapping[str, float], confidence: float = 0.95) -> list[str]:
    """The alarms that a champion raises by its measurement on the whole test split.

    Args:
        champion: The champion on the current test split.
        recorded: Row -> score at its promotion, of the rows that are unchanged since.
        confidence: Of the paired comparison.

    Returns:
        One sentence each: it has no score at all, or it is significantly worse than when it was promoted.
    """
    if not champion.scores:
        return ["the champion has no score on any example of the test split"]
    if not champion.scores.keys() & recorded.keys():
        return []
    difference = paired_difference(champion.scores, recorded, confidence=confidence)
    worse = verdict(difference) == "worse"
    return [f"the champion is worse than when it was promoted ({_shown(difference)})"] if worse else []


def _shown(difference: Difference) -> str:
    interval, mark = difference.interval, ", approximate" if difference.interval.approximate else ""
    return (
        f"{difference.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}{mark}] at {interval.confidence:.0%}, "
        f"n={difference.n}, p={difference.p_value:.2g}"
    )
