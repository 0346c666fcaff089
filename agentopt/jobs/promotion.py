"""The promotion rules, by which a challenger replaces the champion, and the alarms. Pure functions of measurements.

Three candidates are compared on the test split: the champion, the challenger and the champion's *anchor*, which is the
last champion that was promoted for being better. A champion that was promoted for its cost keeps the anchor of its
predecessor. The anchor prevents drift: "not distinguishable" is not transitive, so a chain of ever cheaper challengers
could each lose a little. With it, while data and prices are unchanged, the pair (mean score of the anchor, cost) moves
in one direction only, so no champion returns.

To add a rule, write a function of type `Rule`, insert it in `RULES`, and add its settings to `jobfile.PromotionRule`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from agentopt.core.records import Evaluation
from agentopt.core.stats import Difference, paired_difference, verdict
from agentopt.jobs.jobfile import PromotionRule


@dataclass(frozen=True, slots=True)
class Measurement:
    """A candidate's scores and costs on one split.

    Attributes:
        scores: Example id -> score.
        usd: USD per example at current prices.
        units: Cost per example in the task's units; compared if neither candidate costs USD.
        complete: Whether every example has a score.
    """

    scores: Mapping[str, float]
    usd: float
    units: float
    complete: bool = True

    @classmethod
    def of(cls, evaluation: Evaluation) -> Measurement:
        """The measurement that an evaluation gives; fusion calls count to the costs."""
        mean = evaluation.per_example
        usd, units = mean("usd") + mean("fusion_usd"), mean("units") + mean("fusion_units")
        return cls(evaluation.scores, usd, units, evaluation.state == "complete")

    @property
    def score(self) -> float:
        """Mean score; 0 without any."""
        return sum(self.scores.values()) / max(len(self.scores), 1)


@dataclass(frozen=True)
class Comparison:
    """A challenger beside the champion and its anchor, and the settings of the rules."""

    settings: PromotionRule
    champion: Measurement
    challenger: Measurement
    anchor: Measurement

    @cached_property
    def difference(self) -> Difference:
        """The challenger's scores minus the champion's, paired by example."""
        return _difference(self.challenger, self.champion, self.settings.confidence)

    @cached_property
    def is_worse_than_anchor(self) -> bool:
        """Whether the challenger is significantly worse than the anchor."""
        return verdict(_difference(self.challenger, self.anchor, self.settings.confidence)) == "worse"

    def __str__(self) -> str:
        return _shown(self.difference)


@dataclass(frozen=True, slots=True)
class Decision:
    """The result of the rules.

    Attributes:
        finding: The reason in one sentence.
        promotes: Whether the challenger replaces the champion.
        new_anchor: Whether a promoted challenger becomes its own anchor.
        difference: The comparison with the champion, if there was one.
        conclusive: False if another attempt may decide differently, because calls failed.
    """

    finding: str
    promotes: bool = False
    new_anchor: bool = False
    difference: Difference | None = None
    conclusive: bool = True


Rule = Callable[[Comparison], Decision | None]
"""Decides about a comparison, or returns None to leave it to the rules after it."""


def incomplete(comparison: Comparison) -> Decision | None:
    """Decides nothing unless all three candidates have a score on every example."""
    if comparison.champion.complete and comparison.challenger.complete and comparison.anchor.complete:
        return None
    return Decision("not every example of the test split has a score", conclusive=False)


def better(comparison: Comparison) -> Decision | None:
    """Promotes a challenger that is significantly better than the champion and has a higher mean than the anchor."""
    if verdict(comparison.difference) != "better":
        return None
    anchor = comparison.anchor
    if anchor is not comparison.champion and comparison.challenger.score <= anchor.score:
        finding = f"better ({comparison}), but not above the champion's anchor"
        return Decision(finding, difference=comparison.difference)
    finding = f"better on the test split ({comparison})"
    return Decision(finding, promotes=True, new_anchor=True, difference=comparison.difference)


def worse(comparison: Comparison) -> Decision | None:
    """Rejects a challenger that is significantly worse than the champion."""
    if verdict(comparison.difference) != "worse":
        return None
    return Decision(f"the challenger is worse ({comparison})", difference=comparison.difference)


def cheaper(comparison: Comparison) -> Decision | None:
    """Promotes a challenger that costs less by `cheaper_by`, unless it is significantly worse than the anchor."""
    share, least = saving(comparison.champion, comparison.challenger), comparison.settings.cheaper_by
    if least is None or share < least - 1e-9:  # a share may miss by rounding alone
        return None
    finding = f"not distinguishable ({comparison}) and cheaper by {share:.0%}"
    if comparison.is_worse_than_anchor:
        return Decision(f"{finding}, but worse than the anchor", difference=comparison.difference)
    return Decision(finding, promotes=True, difference=comparison.difference)


RULES: tuple[Rule, ...] = (incomplete, better, worse, cheaper)
"""Applied in this order; the first decision is final."""


def decide(
    settings: PromotionRule,
    champion: Measurement,
    challenger: Measurement,
    anchor: Measurement,
    rules: Sequence[Rule] = RULES,
) -> Decision:
    """Decide whether a challenger replaces the champion.

    Args:
        settings: The `promotion` section of the job file.
        champion: The champion on the test split.
        challenger: The challenger on the same split.
        anchor: The champion's anchor, or `champion` itself if it is its own.
        rules: Applied in order.

    Returns:
        The first rule's decision; without one, that the two are not distinguishable.
    """
    comparison = Comparison(settings, champion, challenger, anchor)
    for rule in rules:
        if decision := rule(comparison):
            return decision
    finding = f"not distinguishable ({comparison}), {_cost(saving(champion, challenger))}"
    return Decision(finding, difference=comparison.difference)


def _cost(share: float) -> str:
    """A saving that does not suffice, in words."""
    if share <= -0.05:
        return f"costs {1 - share:.1f} times as much"
    return f"cheaper by {share:.0%}" if share >= 0.005 else "not cheaper"


def saving(champion: Measurement, challenger: Measurement) -> float:
    """The share of the champion's cost that the challenger saves; negative if it costs more, 0 if the champion is free.

    Costs are in USD if either candidate has any, else in units.
    """
    measure = "usd" if champion.usd > 0 or challenger.usd > 0 else "units"
    before, after = getattr(champion, measure), getattr(challenger, measure)
    return 1 - after / before if before > 0 else 0.0


def beats(a: Measurement, b: Measurement, confidence: float = 0.95) -> bool:
    """Whether `a` is significantly better than `b` in the paired comparison."""
    return verdict(_difference(a, b, confidence)) == "better"


def alarms(
    champion: Measurement, recorded: Mapping[str, float], baseline: Measurement | None, confidence: float = 0.95
) -> list[str]:
    """The alarms that a champion raises.

    Args:
        champion: The champion on the current test split.
        recorded: Example id -> score at its promotion, of the examples that are unchanged since.
        baseline: The baseline on the current test split, if it was measured.
        confidence: Of the paired comparisons.

    Returns:
        One sentence each: it has no score at all, it is significantly worse than when it was promoted, or
        significantly worse than the baseline.
    """
    if not champion.scores:
        return ["the champion has no score on any example of the test split"]
    others = {"when it was promoted": Measurement(recorded, 0, 0), "the baseline": baseline}
    found = []
    for name, other in others.items():
        if other and champion.scores.keys() & other.scores.keys():
            difference = _difference(champion, other, confidence)
            if verdict(difference) == "worse":
                found.append(f"the champion is worse than {name} ({_shown(difference)})")
    return found


def _difference(a: Measurement, b: Measurement, confidence: float) -> Difference:
    return paired_difference(a.scores, b.scores, confidence=confidence)


def _shown(difference: Difference) -> str:
    interval = difference.interval
    return (
        f"{difference.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}] at {interval.confidence:.0%}, "
        f"n={difference.n}, p={difference.p_value:.2g}"
    )
