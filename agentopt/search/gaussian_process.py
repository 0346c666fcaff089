"""Gaussian process over the search space: picks the affordable candidate with the greatest expected improvement.

The kernel encodes the insights of AgentTTS (arXiv 2508.00890) on test-time scaling. Within a subtask, two choices are
similar if their models have similar sizes (insight 1) and their sample counts are close on a logarithmic scale
(insight 2: the score rises, peaks and falls smoothly). Effects of subtasks add up, with a small interaction (insight 3:
a better earlier subtask moves the later one's peak). All affordable candidates are compared with each other, so at the
cost limit samples of one subtask are traded for samples of another.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentopt.core.candidate import Candidate
from agentopt.core.cost import CostMeasure
from agentopt.search.base import SearchSpace, SubtaskSpace

Floats = NDArray[np.float64]
Points = NDArray[np.int64]
"""Candidates as an array of shape (n, subtasks): the index of each subtask's choice in `models` x `num_samples`."""

POOL = 20_000
"""Most allocations that are compared; larger spaces are sampled."""

# Chosen on synthetic landscapes, see benchmarks/RESULTS.md; halving or doubling any one changes little.
MODEL, COUNT, BOTH = 1.0, 0.5, 0.5
"""Variance of a subtask's score due to its model, to its sample count, and to the interaction of the two."""
SHARED_BY_SIZE = 0.7
"""Share of a model's effect that depends on its size only, and that models of similar size therefore share."""
SIZE_SCALE = 1.5
"""Length scale of the similarity of models, in the logarithm of the number of parameters."""
COUNT_SCALE = 0.9
"""Length scale of the similarity of sample counts, in the logarithm of the count."""
INTERACTION = 0.1
"""Strength of the interaction between subtasks; 0 makes their effects additive."""
NOISE = 0.01
"""Noise variance of a score as a share of the variance of all scores, where it was not measured."""


LEAST_NOISE = 1e-4
"""Least noise variance of a measured score, as a share of the variance of all scores; keeps the equations solvable."""


class Grid:
    """The allocations of a search space as integer points, so that thousands are priced and compared in one step."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._similarity = [(_model_similarity(s), _count_similarity(s)) for s in space.subtasks]

    def points(self, candidates: Sequence[Candidate]) -> Points:
        """Convert candidates of this space to points."""
        rows = [[_index(s, candidate) for s in self._space.subtasks] for candidate in candidates]
        return np.array(rows, dtype=np.int64).reshape(len(rows), len(self._space.subtasks))

    def candidate(self, point: Points) -> Candidate:
        """Convert one point to a candidate with seed prompts."""
        choices = {}
        for s, index in zip(self._space.subtasks, point.tolist(), strict=True):
            model, count = divmod(index, len(s.num_samples))
            choices[s.name] = (s.models[model], s.num_samples[count])
        return self._space.candidate(choices)

    def pool(self, rng: np.random.Generator) -> Points:
        """All affordable points in random order; in a space larger than `POOL`, the affordable ones of a sample."""
        sizes = [len(s.models) * len(s.num_samples) for s in self._space.subtasks]
        if self._space.size <= POOL:
            points = np.stack(np.unravel_index(rng.permutation(self._space.size), sizes), axis=1)
        else:
            points = np.stack([self._sampled(s, rng) for s in self._space.subtasks], axis=1)
        within = np.ones(len(points), dtype=bool)
        for measure, most in self._space.limits:
            within &= self.costs(measure, points) <= most
        return np.asarray(points[within], dtype=np.int64)

    def costs(self, measure: CostMeasure, points: Points) -> Floats:
        """Cost of each point in a measure, shape (len(points),).

        Args:
            measure: The measure.
            points: Points of the space.
        """
        of_choices = (
            np.array([s.cost.of(measure, model, n) for model in s.models for n in s.num_samples])
            for s in self._space.subtasks
        )
        each = [costs[points[:, i]] for i, costs in enumerate(of_choices)]
        return np.asarray(self._space.total(measure, each, np.maximum), dtype=np.float64)

    def _sampled(self, subtask: SubtaskSpace, rng: np.random.Generator) -> Points:
        """Sample models uniformly and sample counts log-uniformly: large counts rarely fit in the cost limit."""
        counts = np.array(subtask.num_samples)
        wanted = np.exp(rng.uniform(math.log(counts[0]), math.log(counts[-1] + 1), POOL))
        positions = np.searchsorted(counts, wanted, side="right") - 1
        return np.asarray(rng.integers(len(subtask.models), size=POOL) * len(counts) + positions, dtype=np.int64)

    def kernel(self, a: Points, b: Points) -> Floats:
        """Prior covariance of the scores of two sets of points, of shape (len(a), len(b))."""
        product = np.ones((len(a), len(b)))
        for i, (models, counts) in enumerate(self._similarity):
            (model_a, count_a), (model_b, count_b) = (np.divmod(points[:, i], len(counts)) for points in (a, b))
            by_model, by_count = models[np.ix_(model_a, model_b)], counts[np.ix_(count_a, count_b)]
            product *= 1 + INTERACTION * (MODEL * by_model + COUNT * by_count + BOTH * by_model * by_count)
        return (product - 1) / INTERACTION

    @property
    def variance(self) -> float:
        """Prior variance of the score of any point."""
        return float(((1 + INTERACTION * (MODEL + COUNT + BOTH)) ** len(self._space.subtasks) - 1) / INTERACTION)


def _index(subtask: SubtaskSpace, candidate: Candidate) -> int:
    choice, counts = candidate[subtask.name], subtask.num_samples
    return subtask.models.index(choice.model) * len(counts) + counts.index(choice.num_samples)


def _model_similarity(subtask: SubtaskSpace) -> Floats:
    sizes = np.log([max(subtask.cost.size(model), 1e-12) for model in subtask.models])
    by_size = np.exp(-np.abs(np.subtract.outer(sizes, sizes)) / SIZE_SCALE)
    return np.asarray(SHARED_BY_SIZE * by_size + (1 - SHARED_BY_SIZE) * np.eye(len(sizes)))


def _count_similarity(subtask: SubtaskSpace) -> Floats:
    counts = np.log(np.array(subtask.num_samples, dtype=np.float64))
    return np.asarray(np.exp(-0.5 * (np.subtract.outer(counts, counts) / COUNT_SCALE) ** 2))


def most_promising(
    space: SearchSpace,
    scored: Sequence[tuple[Candidate, float]],
    pending: Collection[Candidate],
    tried: Collection[Candidate],
    seed: int,
    noise: Floats | None = None,
    *,
    tolerance: float | None = None,
) -> Candidate | None:
    """Find the affordable candidate not in `tried` with the greatest expected improvement, or expected saving.

    Args:
        space: The space to search.
        scored: Candidates and their scores, larger is better.
        pending: Candidates that are being evaluated; each counts with its predicted score, so that a batch spreads.
        tried: Candidates to leave out.
        seed: Orders equal candidates, and samples spaces larger than `POOL`.
        noise: Variance of each score, shape (len(scored),); NaN if it was not measured. Default: none was.
        tolerance: Score that a cheaper candidate may lose: the expected saving decides, unless none is cheaper. None:
            the expected improvement decides.

    Returns:
        The candidate, or None if the pool has no untried one.
    """
    grid = Grid(space)
    pool = grid.pool(np.random.default_rng(seed))
    known = {tuple(row) for row in grid.points(list(tried)).tolist()}
    pool = pool[[tuple(row) not in known for row in pool.tolist()]]
    if not len(pool):
        return None
    if not scored:
        return grid.candidate(pool[0])
    observed = grid.points([candidate for candidate, _ in scored])
    scores = np.array([score for _, score in scored])
    predicted = predict(grid, observed, scores, grid.points(list(pending)), pool, noise)
    gains = expected_improvement(predicted)
    if tolerance is not None:
        costs = [grid.costs(space.measure, points) for points in (observed, pool)]
        savings = expected_saving(predicted, costs[0], costs[1], tolerance)
        gains = savings if savings.any() else gains
    return grid.candidate(pool[int(gains.argmax())])


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Posterior of noise-free scores, in standard deviations of the observed scores.

    Attributes:
        mean: Mean of each point of the pool, shape (m,).
        deviation: Its standard deviation, shape (m,).
        smoothed: Mean of each observed point, shape (n,).
        spread: Standard deviation of the observed scores.
    """

    mean: Floats
    deviation: Floats
    smoothed: Floats
    spread: float


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

    needed = predicted.smoothed.max() - tolerance / predicted.spread
    least = max(float(observed[predicted.smoothed >= needed].min()), 1e-12)
    ratio = np.log(least / np.where(pool > 0, pool, least))
    return np.asarray(ndtr((predicted.mean - needed) / predicted.deviation) * np.maximum(ratio, 0.0))


def predict(
    grid: Grid, observed: Points, scores: Floats, pending: Points, pool: Points, noise: Floats | None = None
) -> Prediction:
    """Posterior of the scores of `pool` and of the observed points.

    Args:
        grid: The space that the points belong to.
        observed: Points with a score, shape (n, subtasks).
        scores: Their scores, shape (n,).
        pending: Points that are being evaluated, shape (p, subtasks).
        pool: Points to compare, shape (m, subtasks).
        noise: Variance of each score, shape (n,); NaN, or no array, for `NOISE`.
    """
    spread = float(scores.std()) or 1.0
    standard = (scores - scores.mean()) / spread
    own = np.full(len(scores), NOISE)
    if noise is not None:
        own = np.where(np.isnan(noise), NOISE, np.maximum(noise / spread**2, LEAST_NOISE))
    known = np.concatenate([observed, pending])
    smoothed, _ = _posterior(grid, observed, standard, own, known)
    values = np.concatenate([standard, smoothed[len(observed) :]])
    mean, deviation = _posterior(grid, known, values, np.concatenate([own, np.full(len(pending), NOISE)]), pool)
    return Prediction(mean, deviation, smoothed[: len(observed)], spread)


def _posterior(grid: Grid, observed: Points, values: Floats, noise: Floats, points: Points) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the noise-free score at `points`."""
    covariance = grid.kernel(observed, observed) + np.diag(noise)
    across = grid.kernel(observed, points)
    solved = np.linalg.solve(covariance, np.column_stack([values, across]))
    mean = across.T @ solved[:, 0]
    variance = grid.variance - (across * solved[:, 1:]).sum(axis=0)
    return mean, np.sqrt(np.maximum(variance, 1e-12))
