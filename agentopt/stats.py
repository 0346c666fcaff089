"""Statistics over scores: intervals of a mean, paired differences and their verdict, the early-stopping test.

Pure functions of numbers. Everything random is seeded, so the same scores always give the same answer. scipy is
imported by the functions that use it, since it takes longer to load than all of agentopt.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Verdict = Literal["better", "not distinguishable", "worse"]

RESAMPLES = 10_000
"""Bootstrap resamples, and the most sign flips of the early-stopping test (exact below that many)."""

_BATCH_ELEMENTS = 2_000_000
"""Numbers held at once while resampling: 16 MB."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A two-sided confidence interval, `low <= high`. Infinite ends say that the data bounds nothing."""

    low: float
    high: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of `a - b` over the `n` examples that both have scored, and its interval.

    `p_value` is two-sided, of the paired sign-flip test (for right-or-wrong scores: the exact McNemar test).
    """

    mean: float
    interval: Interval
    n: int
    p_value: float


def mean_interval(scores: Sequence[float], *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Confidence interval of the mean of scores of independent examples.

    Scores that are all 0 or 1 get Wilson's interval. Other scores get the BCa bootstrap, or the percentile
    bootstrap where BCa is not defined. Scores that are all alike, also a single one, say nothing by
    resampling; see `_without_spread` for what they get, which is never an interval of no width.

    Raises ValueError when there are no scores.
    """
    values = _values(scores)
    if np.isin(values, (0.0, 1.0)).all():
        return _proportion(int(values.sum()), len(values), confidence, "wilson")
    if np.ptp(values) == 0:
        return _without_spread(values, (0.0, 1.0), confidence)
    return _bootstrap(values, confidence, seed)


def paired_difference(
    a: Mapping[str, float], b: Mapping[str, float], *, confidence: float = 0.95, seed: int = 0
) -> Difference:
    """How much better `a` is than `b`, by the examples (id -> score) that both have.

    The interval is the percentile bootstrap over examples with 10,000 resamples; where all differences are alike
    see `_without_spread`. Raises ValueError when no example has both scores.
    """
    differences = _paired(a, b)
    if np.ptp(differences) == 0:
        interval = _without_spread(differences, (-1.0, 1.0), confidence)
    else:
        means = _resampled_means(differences, seed)
        tail = (1 - confidence) / 2
        low, high = np.quantile(means, [tail, 1 - tail])
        interval = Interval(float(low), float(high), confidence)
    p_value = _sign_flip_p_value(differences, "two-sided", seed)
    return Difference(float(differences.mean()), interval, len(differences), p_value)


def verdict(difference: Difference) -> Verdict:
    """The difference in words: better or worse only where the interval leaves out 0 and the sign-flip test agrees.

    The bootstrap alone calls four examples won of four that differ a gain; the exact test needs six.
    """
    if difference.p_value > 1 - difference.interval.confidence:
        return "not distinguishable"
    if difference.interval.low > 0:
        return "better"
    return "worse" if difference.interval.high < 0 else "not distinguishable"


def loses(
    challenger: Mapping[str, float], incumbent: Mapping[str, float], *, level: float = 0.05, looks: int
) -> bool:
    """Whether the challenger, on the examples that both have scored so far, is worse than the incumbent.

    A one-sided paired test, asked at most `looks` times in the life of a trial. Each look tests at `level / looks`
    (Bonferroni), so a trial that is as good as the incumbent is stopped with probability `level` at most,
    however the looks depend on each other. False when the two share no example.

    Raises ValueError unless `looks >= 1`.
    """
    if looks < 1:
        raise ValueError(f"`looks >= 1` must hold, but got {looks}: pass the number of planned tests of a trial")
    if not challenger.keys() & incumbent.keys():
        return False
    return _sign_flip_p_value(_paired(challenger, incumbent), "less", seed=0) <= level / looks


def _values(scores: Sequence[float]) -> Floats:
    values = np.asarray(scores, dtype=float)
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"an interval needs at least one score, and finite ones, but got {list(scores)[:5]}")
    return values


def _paired(a: Mapping[str, float], b: Mapping[str, float]) -> Floats:
    """Differences `a - b` of the shared ids, in the order of the ids so that the mappings' order is immaterial."""
    shared = sorted(a.keys() & b.keys())
    return _values([a[key] - b[key] for key in shared])


def _proportion(successes: int, n: int, confidence: float, method: str) -> Interval:
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(confidence_level=confidence, method=method)
    return Interval(float(interval.low), float(interval.high), confidence)


def _without_spread(values: Floats, bounds: tuple[float, float], confidence: float) -> Interval:
    """Interval of a mean when all n values are the same one.

    The share of examples that would show another value is at most u, the exact binomial bound for 0 of n; those
    could lie anywhere within the bounds. A value outside the bounds leaves the mean unbounded.
    """
    value, (low, high) = float(values[0]), bounds
    if not low <= value <= high:
        return Interval(-np.inf, np.inf, confidence)
    share = _proportion(0, len(values), confidence, "exact").high
    kept = (1 - share) * value
    return Interval(kept + share * low, kept + share * high, confidence)


def _bootstrap(values: Floats, confidence: float, seed: int) -> Interval:
    from scipy.stats import DegenerateDataWarning, bootstrap

    options: dict[str, Any] = {
        "confidence_level": confidence,
        "n_resamples": RESAMPLES,
        "batch": max(1, _BATCH_ELEMENTS // len(values)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # it comes with NaN ends, which are looked for below
        found = bootstrap((values,), np.mean, method="BCa", rng=seed, **options).confidence_interval
    if not np.isfinite([found.low, found.high]).all():
        found = bootstrap((values,), np.mean, method="percentile", rng=seed, **options).confidence_interval
    return Interval(float(found.low), float(found.high), confidence)


def _resampled_means(values: Floats, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    batch = max(1, _BATCH_ELEMENTS // len(values))
    sizes = [min(batch, RESAMPLES - start) for start in range(0, RESAMPLES, batch)]
    return np.concatenate([values[rng.integers(len(values), size=(n, len(values)))].mean(axis=1) for n in sizes])


def _sign_flip_p_value(differences: Floats, alternative: Literal["less", "two-sided"], seed: int) -> float:
    """P value of 'the differences are symmetric about 0' against a mean below 0, or away from it.

    Differences of one size make it a binomial test on their signs (McNemar); otherwise signs are flipped, in every
    way there is where these are few. Zeros carry nothing and are dropped.
    """
    from scipy.stats import binomtest, permutation_test

    moved = differences[~np.isclose(differences, 0.0, atol=1e-12)]
    if moved.size == 0:
        return 1.0
    if np.allclose(np.abs(moved), abs(moved[0])):
        return float(binomtest(int((moved > 0).sum()), moved.size, alternative=alternative).pvalue)
    options = {"permutation_type": "samples", "alternative": alternative, "n_resamples": RESAMPLES}
    batch = max(1, _BATCH_ELEMENTS // moved.size)
    return float(permutation_test((moved,), np.mean, rng=seed, batch=batch, vectorized=True, **options).pvalue)
