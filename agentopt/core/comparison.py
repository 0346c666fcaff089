"""The paired comparison of two evaluations, by groups of examples that repeat each other."""

from __future__ import annotations

from agentopt.core.duplicates import shared_by_group
from agentopt.core.records import Evaluation
from agentopt.core.stats import Difference, paired_difference


def shared_scores(a: Evaluation, b: Evaluation) -> tuple[dict[str, float], dict[str, float]]:
    """The scores of two evaluations on the examples that both scored; a group of examples has one score, their mean.

    Args:
        a: An evaluation.
        b: Another one on the same split. Its groups count too: records of earlier versions have none.
    """
    return shared_by_group(a.row_scores, b.row_scores, {**a.groups, **b.groups})


def compare(a: Evaluation, b: Evaluation, *, confidence: float = 0.95, seed: int = 0) -> Difference | None:
    """The mean difference `a - b` over the examples that both scored, each group counted once; None without any.

    Args:
        a: An evaluation.
        b: Another one on the same split.
        confidence: Nominal coverage of the interval.
        seed: Of the resampling.
    """
    of_a, of_b = shared_scores(a, b)
    return paired_difference(of_a, of_b, confidence=confidence, seed=seed) if of_a else None
