"""When a challenger becomes the champion, and when a champion raises an alarm. Pure functions of scores and costs.

Three measurements meet on the test split: the champion, the challenger, and the champion's *anchor*: the last one
that took the place for being better. A champion that came for its price has the anchor of the one before it. The
anchor is what keeps the place from wandering: "not distinguishable" is not transitive, so a row of ever cheaper
challengers could otherwise lose a little each time. With it, while data and prices stand still, the pair (mean score
of the anchor, cost) only moves one way, and so no champion comes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from agentopt.core.records import Evaluation
from agentopt.core.stats import Difference, paired_difference, verdict
from agentopt.jobs.jobfile import PromotionRule

Why = Literal["better", "cheaper"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """A candidate on the test split: scores by example id, and costs per example at today's prices.

    `complete` says that every example has a score. `usd` decides what is cheaper, `units` where nothing costs USD.
    """

    scores: Mapping[str, float]
    usd: float
    units: float
    complete: bool = True

    @classmethod
    def of(cls, evaluation: Evaluation) -> Measurement:
        mean = evaluation.per_example
        usd, units = mean("usd") + mean("fusion_usd"), mean("units") + mean("fusion_units")
        return cls(evaluation.scores, usd, units, evaluation.state == "complete")

    @property
    def score(self) -> float:
        return sum(self.scores.values()) / max(len(self.scores), 1)


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to promote, for which of the two reasons, and the finding in words.

    A decision that is not `conclusive` may be another one when what failed is asked again.
    """

    why: Why | None
    finding: str
    difference: Difference | None = None
    conclusive: bool = True


def decide(rule: PromotionRule, champion: Measurement, challenger: Measurement, anchor: Measurement) -> Decision:
    """Whether `challenger` takes the place of `champion`.

    Better: the paired comparison says so at the rule's confidence, and its mean is above the anchor's. Cheaper: it
    costs less by the rule's share, and cannot be told apart from the champion, nor be called worse than the anchor.
    Where an example of one has no score, nothing is decided.
    """
    if not (champion.complete and challenger.complete and anchor.complete):
        return Decision(None, "not every example of the test split has a score", conclusive=False)
    difference = _difference(challenger, champion, rule)
    found, shown = verdict(difference), _shown(difference)
    if found == "better":
        if anchor is not champion and challenger.score <= anchor.score:
            return Decision(None, f"better ({shown}), but not above the champion's anchor", difference)
        return Decision("better", f"better on the test split ({shown})", difference)
    if found == "worse":
        return Decision(None, f"the challenger is worse ({shown})", difference)
    return _decide_by_cost(rule, champion, challenger, anchor, difference)


def _decide_by_cost(
    rule: PromotionRule, champion: Measurement, challenger: Measurement, anchor: Measurement, difference: Difference
) -> Decision:
    share, shown = saving(champion, challenger), f"not distinguishable ({_shown(difference)})"
    if rule.cheaper_by is None or share < rule.cheaper_by - 1e-9:  # a share may miss by rounding alone
        return Decision(None, f"{shown}, {_cost(share)}", difference)
    if verdict(_difference(challenger, anchor, rule)) == "worse":
        return Decision(None, f"{shown} and cheaper by {share:.0%}, but worse than the anchor", difference)
    return Decision("cheaper", f"{shown} and cheaper by {share:.0%}", difference)


def _cost(share: float) -> str:
    """A saving that is not enough, in words."""
    if share <= -0.05:
        return f"costs {1 - share:.1f} times as much"
    return f"cheaper by {share:.0%}" if share >= 0.005 else "not cheaper"


def saving(champion: Measurement, challenger: Measurement) -> float:
    """By which share of the champion's cost the challenger is cheaper; negative where it costs more.

    In USD where either costs any, otherwise in units. A champion that costs nothing cannot be undercut.
    """
    measure = "usd" if champion.usd > 0 or challenger.usd > 0 else "units"
    before, after = getattr(champion, measure), getattr(challenger, measure)
    return 1 - after / before if before > 0 else 0.0


def beats(a: Measurement, b: Measurement, confidence: float = 0.95) -> bool:
    """Whether the paired comparison calls `a` better than `b`."""
    return verdict(_difference(a, b, PromotionRule(confidence=confidence))) == "better"


def alarms(
    champion: Measurement, recorded: Mapping[str, float], baseline: Measurement | None, confidence: float = 0.95
) -> list[str]:
    """What is wrong with a champion: it lost against its own `recorded` scores, or against the baseline.

    `recorded` holds only examples that are still the same as then. A champion without any score is an alarm too.
    """
    if not champion.scores:
        return ["the champion has no score on any example of the test split"]
    rule = PromotionRule(confidence=confidence)
    told = []
    if champion.scores.keys() & recorded.keys():
        difference = _difference(champion, Measurement(recorded, 0, 0), rule)
        if verdict(difference) == "worse":
            told.append(f"the champion is worse than when it was promoted ({_shown(difference)})")
    if baseline and champion.scores.keys() & baseline.scores.keys():
        difference = _difference(champion, baseline, rule)
        if verdict(difference) == "worse":
            told.append(f"the champion is worse than the baseline ({_shown(difference)})")
    return told


def _difference(a: Measurement, b: Measurement, rule: PromotionRule) -> Difference:
    return paired_difference(a.scores, b.scores, confidence=rule.confidence)


def _shown(difference: Difference) -> str:
    interval = difference.interval
    return (
        f"{difference.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}] at {interval.confidence:.0%}, "
        f"n={difference.n}, p={difference.p_value:.2g}"
    )
