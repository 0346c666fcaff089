"""Cascades: a small model answers first, and a big one if the small one's samples are not reliable. Pure.

Replays need no call: the samples of both models on every example are at hand, so each threshold has its score and cost.
Choose a threshold on validation rows (`choose`), and compare it with the big model alone on test rows (`prove`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist, fmean, stdev

from agentopt.core.duplicates import Groups, shared_by_group
from agentopt.core.gate import MARGIN, GateVerdict, gate_verdict
from agentopt.core.stats import Difference, paired_difference
from agentopt.workflow.escalation import Reason, agreement, reason_to_escalate
from agentopt.workflow.vote_stopping import Vote


@dataclass(frozen=True, slots=True)
class CascadeRow:
    """Both models on one example.

    Attributes:
        id: The example's id.
        votes: The votes of the small model's samples.
        small_score: Score of the small model's answer.
        big_score: Score of the big model's answer.
        small_cost: Cost of the small model's samples, such as USD.
        big_cost: Cost of the big model's, in the same measure.
        passes: Whether the small model's answer passes the check, if there is one.
    """

    id: str
    votes: tuple[Vote, ...]
    small_score: float
    big_score: float
    small_cost: float
    big_cost: float
    passes: bool = True


@dataclass(frozen=True, eq=False)
class CascadeOutcome:
    """A cascade at one threshold, on some rows.

    Attributes:
        threshold: The smallest agreement that is kept.
        scores: Example id -> score.
        reasons: Example id -> why it escalates, of the examples that do.
        cost: Mean cost of an example; one that escalates pays both models.
        saved: Share of the big model's cost that is saved; negative if the cascade costs more.
    """

    threshold: float
    scores: Mapping[str, float]
    reasons: Mapping[str, Reason]
    cost: float
    saved: float

    @property
    def escalated(self) -> float:
        """Share of the examples that escalate."""
        return len(self.reasons) / len(self.scores)


@dataclass(frozen=True)
class CascadeProof:
    """A cascade against the big model alone, on rows that did not choose its threshold.

    Attributes:
        outcome: The cascade on these rows.
        difference: Cascade less big model, with its interval.
        verdict: That of the release gate.
    """

    outcome: CascadeOutcome
    difference: Difference
    verdict: GateVerdict

    @property
    def is_recommended(self) -> bool:
        """Whether the cascade costs less and its score is superior or non-inferior."""
        return self.outcome.saved > 0 and self.verdict in ("superior", "non-inferior")


def replay(rows: Sequence[CascadeRow], threshold: float) -> CascadeOutcome:
    """Replay a cascade.

    Args:
        rows: Both models on each example; at least one, and the big model's cost is not 0 on all.
        threshold: The smallest agreement that is kept.
    """
    found = {row.id: reason_to_escalate(row.votes, threshold, passes=row.passes) for row in rows}
    reasons = {example: reason for example, reason in found.items() if reason}
    scores = {row.id: row.big_score if row.id in reasons else row.small_score for row in rows}
    cost = sum(row.small_cost + (row.big_cost if row.id in reasons else 0.0) for row in rows)
    of_big = sum(row.big_cost for row in rows)
    return CascadeOutcome(threshold, scores, reasons, cost / len(rows), 1 - cost / of_big)


def thresholds(rows: Sequence[CascadeRow]) -> list[float]:
    """Every threshold at which another set of the rows escalates, ascending: 0, and each agreement but the lowest.

    A threshold above the highest agreement is left out: the big model alone gives the same answers at a lower cost.
    """
    return [0.0, *sorted({agreement(row.votes) for row in rows})[1:]]


def choose(rows: Sequence[CascadeRow], *, tolerance: float, groups: Groups | None = None) -> CascadeOutcome | None:
    """The cascade with the largest saving that is likely to last, of those with the score of the big model.

    A cascade is eligible if it costs less and its mean score is within the tolerance of the big model's. Of these, the
    share saved times the probability that the true difference is within the tolerance is largest: the cheapest alone
    would often be one whose score was lucky on these rows.

    Args:
        rows: Validation rows.
        tolerance: Score that the cascade may be below the big model.
        groups: Row id -> group; a group counts as one row.

    Returns:
        The cascade; None if none is eligible. `prove` it on other rows: the best of several thresholds is optimistic.
    """
    chances = {o: _chance(rows, o, tolerance, groups or {}) for o in map(partial(replay, rows), thresholds(rows))}
    good = [outcome for outcome, chance in chances.items() if outcome.saved > 0 and chance >= 0.5]
    return max(good, key=lambda outcome: outcome.saved * chances[outcome], default=None)


def prove(
    rows: Sequence[CascadeRow], threshold: float, *, margin: float = MARGIN, groups: Groups | None = None
) -> CascadeProof:
    """Compare a cascade with the big model alone.

    Args:
        rows: Test rows, which did not choose the threshold.
        threshold: The smallest agreement that is kept.
        margin: Loss of score that is acceptable.
        groups: Row id -> group; a group counts as one row.
    """
    outcome = replay(rows, threshold)
    difference = paired_difference(*_against_big(rows, outcome, groups or {}))
    return CascadeProof(outcome, difference, gate_verdict(difference, margin))


def _against_big(
    rows: Sequence[CascadeRow], outcome: CascadeOutcome, groups: Groups
) -> tuple[dict[str, float], dict[str, float]]:
    return shared_by_group(outcome.scores, {row.id: row.big_score for row in rows}, groups)


def _chance(rows: Sequence[CascadeRow], outcome: CascadeOutcome, tolerance: float, groups: Groups) -> float:
    """Probability that the true difference to the big model is at least `-tolerance`, in the normal approximation."""
    ours, of_big = _against_big(rows, outcome, groups)
    differences = [ours[row] - of_big[row] for row in ours]
    # One row won and one lost are added, as in `gate.rows_needed`: equal rows do not imply zero variance.
    error = stdev([*differences, 1.0, -1.0]) / math.sqrt(len(differences))
    return NormalDist(-tolerance, error).cdf(fmean(differences))
