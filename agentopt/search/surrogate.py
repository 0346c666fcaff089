"""Surrogate of the scores: the affordable candidates with the greatest expected improvement or saving.

Two Gaussian processes with one kernel predict every candidate: the prior mean of the one follows insights 1 and 2 of
AgentTTS (arXiv 2508.00890), that of the other is constant. Each counts by its marginal likelihood, so that the insights
help while the scores agree with them. Work and memory are bounded, whatever the number of trials.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from agentopt.core.candidate import Candidate
from agentopt.core.ties import TIE
from agentopt.search.base import SearchSpace
from agentopt.search.gaussian_process import POOL, Floats, Grid, Kernel, Points

# Chosen on synthetic landscapes with seeds below 1,000; those above judge them, see benchmarks/RESULTS.md.
SEARCHING = Kernel(2.0, 0.25, 0.5, shared_by_size=0.8, size_scale=6.0, count_scale=1.8, interaction=0.035)
"""The kernel of a search: smoother than that by which its trials are judged, so that few of them suffice."""
DOUBT = math.exp(-2)
"""Prior odds that the insights do not hold."""
FAITH = 1.0
"""Prior odds that an agent's beliefs hold."""
NOISE = 0.01
"""Noise variance of a score as a share of the variance of all scores, where it was not measured."""
LEAST_NOISE = 1e-4
"""Least noise variance of a measured score, as a share of the variance of all scores; keeps the equations solvable."""
FIRST_SPREAD = 0.1
"""Standard deviation of the scores as long as they are all equal."""
LEVEL_PRECISION = 0.1
"""Prior precision of the constant part of the mean, in standard deviations of the scores."""
WINDOW = 200
"""Most scores that the surrogate is fitted to."""
WORK = 600_000
"""Most entries of the covariance of scores and pool; a long history is compared with a smaller pool."""
SHORTLIST = 500
"""Candidates among which the further ones of a batch are chosen."""
NEARBY = 1_000
"""Candidates near the best ones that are added to the sample of a large space."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Candidates of a space and what was measured of them.

    Attributes:
        candidates: The candidates.
        mean: Their scores, larger is better, shape (n,).
        noise: Variance of each score, shape (n,); NaN where it was not measured.
    """

    candidates: Sequence[Candidate]
    mean: Floats
    noise: Floats

    def of(self, places: Sequence[int]) -> Scores:
        """Those at the given places."""
        return Scores([self.candidates[i] for i in places], self.mean[list(places)], self.noise[list(places)])


def window(scores: Floats) -> list[int]:
    """Places of the scores that the surrogate is fitted to, ascending: all, or the best half and some of all others.

    Args:
        scores: Every score, shape (n,).
    """
    if len(scores) <= WINDOW:
        return list(range(len(scores)))
    order = np.argsort(-scores, kind="stable")
    others = order[WINDOW // 2 :]
    spread = others[np.linspace(0, len(others) - 1, WINDOW - WINDOW // 2).astype(np.int64)]
    return sorted({*order[: WINDOW // 2].tolist(), *spread.tolist()})


def most_promising(
    space: SearchSpace,
    scored: Scores,
    pending: Sequence[Candidate],
    tried: Collection[Candidate],
    seed: int,
    tolerances: Sequence[float | None] = (None,),
) -> list[Candidate]:
    """Find affordable candidates not in `tried` with the greatest expected improvement, or expected saving.

    Args:
        space: The space to search.
        scored: What was measured.
        pending: Candidates that are being evaluated; each counts with its predicted score, so that a batch spreads.
        tried: Candidates to leave out.
        seed: Orders equal candidates, and samples spaces larger than `POOL`.
        tolerances: One for each wanted candidate: the score that a cheaper one may lose, if the expected saving decides
            (unless none is cheaper), or None if the expected improvement decides.

    Returns:
        The candidates; fewer than wanted if the pool has no more untried ones.
    """
    grid, scored = Grid(space, SEARCHING), scored.of(window(scored.mean))
    observed = grid.points(scored.candidates)
    pool = _pool(grid, observed, scored.mean, tried, seed)
    found: list[Candidate] = []
    waiting = grid.points(pending)
    for tolerance in tolerances:
        if not len(pool):
            break
        if not len(observed):
            best, order = 0, np.arange(len(pool))
        else:
            gains = _gains(grid, observed, scored, waiting, pool, tolerance)
            order = np.argsort(-gains, kind="stable")[:SHORTLIST]
            best = int(order[0])
        found.append(grid.candidate(pool[best]))
        waiting, pool = np.vstack([waiting, pool[best : best + 1]]), pool[order[order != best]]
    return found


@dataclass(frozen=True, slots=True)
class Expectation:
    """The posterior of one candidate's score."""

    candidate: Candidate
    """The candidate."""
    mean: float
    """Posterior mean of its score."""
    deviation: float
    """Posterior standard deviation, without the noise of a measurement."""


def expectations(
    space: SearchSpace, scored: Scores, tried: Collection[Candidate], seed: int, count: int
) -> list[Expectation]:
    """The untried candidates with the greatest expected improvement, the greatest first.

    Args:
        space: The space to search.
        scored: What was measured; without a score there is no expectation.
        tried: Candidates to leave out.
        seed: As of `most_promising`.
        count: Most candidates to return.
    """
    if not len(scored.mean):
        return []
    grid, scored = Grid(space, SEARCHING), scored.of(window(scored.mean))
    observed = grid.points(scored.candidates)
    pool = _pool(grid, observed, scored.mean, tried, seed)
    predictions = list(predict(grid, observed, scored, observed[:0], pool))
    gains = np.asarray(sum(p.weight * expected_improvement(p) for p in predictions))
    weights, spread = np.array([p.weight for p in predictions]), predictions[0].spread
    each = np.stack([p.mean for p in predictions])
    mean = weights @ each
    deviation = np.sqrt(weights @ (np.stack([p.deviation for p in predictions]) ** 2 + (each - mean) ** 2))
    return [
        Expectation(grid.candidate(pool[i]), float(scored.mean.mean() + spread * mean[i]), float(spread * deviation[i]))
        for i in np.argsort(-gains, kind="stable")[:count]
    ]


def shares_behind(space: SearchSpace, scored: Scores, candidates: Sequence[Candidate], seed: int) -> list[float]:
    """Share of the affordable candidates that have a smaller expected improvement than each given one.

    Args:
        space: The space to search.
        scored: What was measured; without a score every share is 1.
        candidates: Candidates of the space.
        seed: As of `most_promising`.
    """
    if not len(scored.mean):
        return [1.0] * len(candidates)
    grid, scored = Grid(space, SEARCHING), scored.of(window(scored.mean))
    observed, asked = grid.points(scored.candidates), grid.points(candidates)
    pool = np.vstack([asked, _pool(grid, observed, scored.mean, (), seed)])
    gains = _gains(grid, observed, scored, observed[:0], pool, None)
    own, others = gains[: len(asked)], gains[len(asked) :]
    return [float((others < gain).mean()) if len(others) else 1.0 for gain in own]


def _pool(grid: Grid, observed: Points, scores: Floats, tried: Collection[Candidate], seed: int) -> Points:
    """The untried points that are compared, in random order."""
    rng = np.random.default_rng(seed)
    pool = grid.pool(rng)[: min(POOL, WORK // max(len(observed), 1))]
    if grid.is_sampled and len(observed):
        best = observed[np.argsort(-scores, kind="stable")[:10]]
        pool = np.vstack([grid.near(best, NEARBY, rng), pool])
    return pool[~np.isin(_keys(pool), _keys(grid.points(list(tried))))]


def _keys(points: Points) -> Points:
    """A hash of each point, shape (len(points),). That two of them are equal by chance has a probability of 2^-64."""
    weights = [pow(0x9E3779B97F4A7C15, i + 1, 2**64) for i in range(points.shape[1])]
    return points @ np.array(weights, dtype=np.uint64).view(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Posterior of noise-free scores under one prior mean, in standard deviations of the observed scores.

    Attributes:
        weight: Posterior probability of the prior mean.
        mean: Mean of each point of the pool, shape (m,).
        deviation: Its standard deviation, shape (m,).
        smoothed: Mean of each observed point, shape (n,).
        spread: Standard deviation of the observed scores.
    """

    weight: float
    mean: Floats
    deviation: Floats
    smoothed: Floats
    spread: float


def _gains(
    grid: Grid, observed: Points, scored: Scores, pending: Points, pool: Points, tolerance: float | None
) -> Floats:
    predictions = list(predict(grid, observed, scored, pending, pool))
    if tolerance is not None:
        costs = grid.costs(grid.space.measure, observed), grid.costs(grid.space.measure, pool)
        savings = sum(p.weight * expected_saving(p, *costs, tolerance) for p in predictions)
        if np.any(savings):
            return np.asarray(savings)
    return np.asarray(sum(p.weight * expected_improvement(p) for p in predictions))


def predict(grid: Grid, observed: Points, scored: Scores, pending: Points, pool: Points) -> Iterator[Prediction]:
    """Yield the posterior of the scores of `pool` and of the observed points under each prior mean.

    Args:
        grid: The space that the points belong to.
        observed: Points with a score, shape (n, subtasks), n at least 1.
        scored: What was measured of them.
        pending: Points that are being evaluated, shape (p, subtasks); they count with their predicted scores.
        pool: Points to compare, shape (m, subtasks).
    """
    from scipy.linalg import solve_triangular

    n, known = len(observed), np.vstack([observed, pending])
    spread = float(scored.mean.std()) or FIRST_SPREAD
    standard = (scored.mean - scored.mean.mean()) / spread
    noise = np.where(np.isnan(scored.noise), NOISE, np.maximum(scored.noise / spread**2, LEAST_NOISE))
    own = np.concatenate([noise, np.full(len(pending), NOISE)])
    factor = np.linalg.cholesky(grid.kernel(known, known) + np.diag(own))
    across = solve_triangular(factor, grid.kernel(known, pool), lower=True, overwrite_b=True)
    ones = solve_triangular(factor, np.ones(len(known)), lower=True)
    ahead = 1 - across.T @ ones
    variance = grid.variance - np.einsum("ij,ij->j", across, across) + ahead**2 / (ones @ ones + LEVEL_PRECISION)
    deviation = np.sqrt(np.maximum(variance, 1e-10))
    first, precision = factor[:n, :n], ones[:n] @ ones[:n] + LEVEL_PRECISION
    means, likelihoods = [], []
    for odds, ahead_observed, ahead_pool in _prior_means(grid, observed, pool):
        white = solve_triangular(first, standard - ahead_observed, lower=True)
        level = float(ones[:n] @ white / precision)
        likelihoods.append(math.log(odds) - 0.5 * float(white @ white - level**2 * precision))
        white = white - level * ones[:n]
        mean = across[:n].T @ white + level + ahead_pool
        means.append((mean, standard - noise * solve_triangular(first, white, lower=True, trans=1)))
    weights = np.exp(np.array(likelihoods) - max(likelihoods))
    for weight, (mean, smoothed) in zip((weights / weights.sum()).tolist(), means, strict=True):
        yield Prediction(weight, mean, deviation, smoothed, spread)


def _prior_means(grid: Grid, observed: Points, pool: Points) -> Iterator[tuple[float, Floats, Floats]]:
    """Yield each prior mean: its prior odds, and its values at the observed points and at the pool."""
    yield 1.0, grid.trend(observed), grid.trend(pool)
    yield DOUBT, np.zeros(len(observed)), np.zeros(len(pool))
    if grid.has_beliefs:
        yield FAITH, grid.beliefs(observed), grid.beliefs(pool)


def expected_improvement(predicted: Prediction) -> Floats:
    """Expected improvement of each point of `pool` over the best observed point, in standard deviations of the scores.

    The best point is the one with the highest posterior mean, so that a lucky measurement does not raise the threshold.
    Source: Jones, Schonlau, Welch, Journal of Global Optimization 13, 1998, eq. 15.

    Args:
        predicted: The posterior.

    Returns:
        Expected improvements, shape (m,).
    """
    from scipy.special import ndtr

    ahead = (predicted.mean - predicted.smoothed.max()) / predicted.deviation
    density = np.exp(-0.5 * ahead**2) / math.sqrt(2 * math.pi)
    return np.asarray(predicted.deviation * (ahead * ndtr(ahead) + density))


def expected_saving(predicted: Prediction, observed: Floats, pool: Floats, tolerance: float) -> Floats:
    """Expected saving over the cheapest observed point that is within the tolerance of the best one.

    The probability that a point is within the tolerance of the best one, times the logarithm of the ratio of the costs.

    Args:
        predicted: The posterior.
        observed: Cost of each observed point, shape (n,).
        pool: Cost of each point of the pool, shape (m,); 0 if it is not known.
        tolerance: Score that a cheaper point may lose.

    Returns:
        Expected savings, shape (m,); 0 for points that are not cheaper.
    """
    from scipy.special import ndtr

    needed = predicted.smoothed.max() - (tolerance + TIE) / predicted.spread
    least = max(float(observed[predicted.smoothed >= needed].min()), 1e-12)
    ratio = np.log(least / np.where(pool > 0, pool, least))
    return np.asarray(ndtr((predicted.mean - needed) / predicted.deviation) * np.maximum(ratio, 0.0))
