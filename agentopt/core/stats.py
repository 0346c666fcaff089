"""Statistics over scores: intervals, paired differences with a verdict, variance parts.

Pure functions of numbers. Everything random is seeded, so the same scores always give the same answer. scipy is
imported by the functions that use it, since it takes longer to load than all of agentopt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import WithJsonSchema

from agentopt.core.intervals import is_approximate, mean_ends, mean_p_value, paired_proportion_ends, proportion_ends
from agentopt.core.ties import TIE

Floats = NDArray[np.float64]
Verdict = Literal["better", "not distinguishable", "worse"]
Estimator = Literal["unbiased", "paper"]


Bound = Annotated[
    float, WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": ["Infinity", "-Infinity"]}]}, mode="serialization")
]
"""A number that may be infinite, which JSON has as a text."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided confidence interval, `low <= high`. Infinite ends mean that the data gives no bound.

    `approximate` marks the interval of few skewed values, which may cover less than its level (`is_approximate`).
    """

    low: Bound
    high: Bound
    confidence: float
    approximate: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of `a - b` over the `n` examples that both have scored, and its interval.

    `p_value` is two-sided, of the exact McNemar test for right-or-wrong scores, otherwise of the studentised mean.
    """

    mean: float
    interval: Interval
    n: int
    p_value: float


def mean_interval(scores: Sequence[float], *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Compute the confidence interval of the mean of scores of independent examples.

    Scores that are all 0 or 1 get the exact binomial interval, others the bootstrap-t interval (Student's t below 10
    scores). The interval of equal scores, or of a single one, never has width 0; see `_without_spread`. See
    `core/intervals.py` for the coverage.

    Args:
        scores: One score per example.
        confidence: Nominal coverage.
        seed: Of the resampling.

    Raises:
        ValueError: There are no scores, or one is not finite.
    """
    values = _values(scores)
    if np.isin(values, (0.0, 1.0)).all():
        return Interval(*proportion_ends(int(values.sum()), len(values), confidence), confidence)
    return _real_interval(values, (0.0, 1.0), confidence, seed)


def paired_difference(
    a: Mapping[str, float], b: Mapping[str, float], *, confidence: float = 0.95, seed: int = 0
) -> Difference:
    """Compute the mean difference `a - b` over the shared examples, with its interval and p value.

    Differences that are all -1, 0 or 1 get Bonett and Price's interval and the exact McNemar test, others the
    bootstrap-t interval and its test.

    Args:
        a: Example id -> score.
        b: Example id -> score.
        confidence: Nominal coverage of the interval.
        seed: Of the resampling.

    Raises:
        ValueError: No example has both scores.
    """
    differences = _paired(a, b)
    mean, n = float(differences.mean()), len(differences)
    if np.isin(differences, (-1.0, 0.0, 1.0)).all():
        wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
        low, high = paired_proportion_ends(wins, losses, n, confidence)
        interval = Interval(float(low), float(high), confidence)
        return Difference(mean, interval, n, _sign_p_value(wins, wins + losses))
    return Difference(
        mean, _real_interval(differences, (-1.0, 1.0), confidence, seed), n, mean_p_value(differences, seed)
    )


def verdict(difference: Difference) -> Verdict:
    """Classify a difference: better or worse only if its interval excludes 0 and its test is significant.

    The interval alone would call five wins of five examples a gain; the exact test needs six.
    """
    if difference.p_value > 1 - difference.interval.confidence:
        return "not distinguishable"
    if difference.interval.low > 0:
        return "better"
    return "worse" if difference.interval.high < 0 else "not distinguishable"


def _values(scores: Sequence[float]) -> Floats:
    values = np.asarray(scores, dtype=float)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"an interval needs at least one score, and finite ones, but got {list(scores)[:5]}")
    return values


def _paired(a: Mapping[str, float], b: Mapping[str, float]) -> Floats:
    """Differences `a - b` of the shared ids, in the order of the ids so that the mappings' order is immaterial.

    Scores that tie have the difference 0: differences in the last digits of all rows would be significant.
    """
    differences = _values([a[key] - b[key] for key in sorted(a.keys() & b.keys())])
    return np.where(np.abs(differences) <= TIE, 0.0, differences)


def _without_spread(values: Floats, bounds: tuple[float, float], confidence: float) -> Interval:
    """Interval of a mean when all n values are the same one.

    The share of examples that would show another value is at most u, the exact binomial bound for 0 of n; those
    could lie anywhere within the bounds. A value outside the bounds leaves the mean unbounded.
    """
    value, (low, high) = float(values[0]), bounds
    if not low <= value <= high:
        return Interval(-np.inf, np.inf, confidence)
    _, share = proportion_ends(0, len(values), confidence)
    kept = (1 - share) * value
    return Interval(kept + share * low, kept + share * high, confidence)


def _real_interval(values: Floats, bounds: tuple[float, float], confidence: float, seed: int) -> Interval:
    """Interval of the mean of real values, cut to the bounds if all values are within them."""
    if np.ptp(values) == 0:
        return _without_spread(values, bounds, confidence)
    low, high = mean_ends(values, confidence, seed)
    if bounds[0] <= values.min() and values.max() <= bounds[1]:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Interval(low, high, confidence, is_approximate(values))


def _sign_p_value(wins: int, n: int) -> float:
    """The exact two-sided binomial test of `wins` in `n` against one half, as `scipy.stats.binomtest` gives it."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(wins, n - wins), n, 0.5)))


# ---- variance parts of repeated measurements: rewards of shape (N system prompts, K user prompts, M responses)


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Statistics of every cell (system prompt, user prompt), arrays of shape (..., N, K); leading axes are shuffles.

    Attributes:
        mean: Mean reward; NaN in an empty cell.
        variance: Variance of one response within the cell; NaN if unknown.
        count: Number of responses.
    """

    mean: Floats
    variance: Floats
    count: NDArray[np.int64]

    @property
    def noise(self) -> Floats:
        """Variance of the cell's mean that comes from drawing few responses."""
        return self.variance / np.maximum(self.count, 1)


def cells(rewards: Floats, estimator: Estimator = "unbiased") -> Cells:
    """Compute the means and within-cell variances of rewards.

    Args:
        rewards: Shape (N system prompts, K user prompts, M responses); NaN marks a missing response.
        estimator: `unbiased` divides by m - 1; a cell with one response takes the pooled variance of its user prompt,
            which is NaN if no cell of that user prompt has two responses. `paper` divides by m, as arXiv 2604.08801
            does with p(1 - p), which is too small by the factor (m - 1)/m.
    """
    offset = _offset(rewards)
    centred = rewards - offset[:, None]
    count = (~np.isnan(rewards)).sum(axis=2)
    return _cells(np.nansum(centred, axis=2), np.nansum(centred**2, axis=2), count, offset, estimator)


def shuffled_cells(rewards: Floats, estimator: Estimator, shuffles: int, rng: np.random.Generator) -> Cells:
    """Compute the cells after permuting the responses to each user prompt among the system prompts.

    This is the null hypothesis that the system prompt has no effect; every cell keeps its number of responses.

    Args:
        rewards: Shape (N, K, M); NaN marks a missing response.
        estimator: See `cells`.
        shuffles: Number of permutations, the leading axis of the result.
        rng: Source of the permutations.
    """
    n, k, _ = rewards.shape
    offset, present = _offset(rewards), ~np.isnan(rewards)
    count = present.sum(axis=2)
    sums, squares = np.zeros((2, shuffles, n, k))
    for column in range(k):
        pooled = rewards[:, column][present[:, column]] - offset[column]
        dealt = rng.permuted(np.broadcast_to(pooled, (shuffles, pooled.size)), axis=1)
        filled = np.flatnonzero(count[:, column])
        first = np.cumsum(count[filled, column]) - count[filled, column]
        sums[:, filled, column] = np.add.reduceat(dealt, first, axis=1)
        squares[:, filled, column] = np.add.reduceat(dealt**2, first, axis=1)
    return _cells(sums, squares, count, offset, estimator)


def _offset(rewards: Floats) -> Floats:
    """Mean reward of each user prompt; centring on it keeps the sums of squares precise."""
    present = (~np.isnan(rewards)).sum(axis=(0, 2))
    mean: Floats = np.nansum(rewards, axis=(0, 2)) / np.maximum(present, 1)
    return mean


def _cells(sums: Floats, squares: Floats, count: NDArray[np.int64], offset: Floats, estimator: Estimator) -> Cells:
    filled = np.maximum(count, 1)
    within = np.maximum(squares - sums**2 / filled, 0.0)
    mean = np.where(count > 0, sums / filled + offset, np.nan)
    if estimator == "paper":
        return Cells(mean, np.where(count > 0, within / filled, np.nan), count)
    spare = np.maximum(count - 1, 0)
    column_spare = spare.sum(axis=0)
    pooled = np.where(column_spare > 0, within.sum(axis=-2) / np.maximum(column_spare, 1), np.nan)
    own = within / np.maximum(spare, 1)
    variance = np.where(spare > 0, own, np.where(count > 0, pooled[..., None, :], np.nan))
    return Cells(mean, variance, count)
