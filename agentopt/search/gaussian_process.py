"""Gaussian process over the search space: picks the affordable candidate with the greatest expected improvement.

The kernel encodes the insights of AgentTTS (arXiv 2508.00890) on test-time scaling. Within a subtask, two choices are
similar if their models have similar sizes (insight 1) and their sample counts are close on a logarithmic scale
(insight 2: the score rises, peaks and falls smoothly). Settings have effects of their own, and interact with the model.
Effects of subtasks add up, with a small interaction (insight 3: a better earlier subtask moves the later one's peak).
All affordable candidates are compared with each other, so at the cost limit samples of one subtask are traded for
samples of another.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentopt.core.axes import CASCADE, DEMOS, Axis
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.cost import CostMeasure
from agentopt.search.base import ESCALATED, SearchSpace, SubtaskSpace

Floats = NDArray[np.float64]
Points = NDArray[np.int64]
"""Candidates as an array of shape (n, subtasks): the place of each subtask's choice in `SubtaskSpace.choices`."""

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
SETTING, SETTING_BY_MODEL = 0.3, 0.2
"""Variance of a subtask's score due to one setting, and to the interaction of the setting and the model."""
RANK_SCALE = 1.0
"""Length scale of the similarity of an ordinal setting's values, in ranks."""
RANGE_SCALE = 0.5
"""Length scale of the similarity of a numeric setting's values that are not all positive, as a share of their range."""
INTERACTION = 0.1
"""Strength of the interaction between subtasks; 0 makes their effects additive."""
NOISE = 0.01
"""Noise variance of a score as a share of the variance of all scores, where it was not measured."""


LEAST_NOISE = 1e-4
"""Least noise variance of a measured score, as a share of the variance of all scores; keeps the equations solvable."""


class Grid:
    """The candidates of a search space as integer points, so that thousands are priced and compared in one step."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._parts = [_Part(subtask) for subtask in space.subtasks]

    def points(self, candidates: Sequence[Candidate]) -> Points:
        """Convert candidates of this space to points."""
        rows = [[part.place(c[part.subtask.name]) for part in self._parts] for c in candidates]
        return np.array(rows, dtype=np.int64).reshape(len(rows), len(self._parts))

    def candidate(self, point: Points) -> Candidate:
        """Convert one point to a candidate with seed prompts."""
        chosen = zip(self._space.subtasks, point.tolist(), strict=True)
        return Candidate(tuple((s.name, s.choice_at(place)) for s, place in chosen))

    def pool(self, rng: np.random.Generator) -> Points:
        """All affordable points in random order; in a space larger than `POOL`, the affordable ones of a sample."""
        sizes = [s.size for s in self._space.subtasks]
        if self._space.size <= POOL:
            points = np.stack(np.unravel_index(rng.permutation(self._space.size), sizes), axis=1)
        else:
            points = np.stack([part.sampled(rng) for part in self._parts], axis=1)
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
        each = [part.costs(measure)[points[:, i]] for i, part in enumerate(self._parts)]
        return np.asarray(self._space.total(measure, each, np.maximum), dtype=np.float64)

    def kernel(self, a: Points, b: Points) -> Floats:
        """Prior covariance of the scores of two sets of points, of shape (len(a), len(b))."""
        product = np.ones((len(a), len(b)))
        for i, part in enumerate(self._parts):
            product *= 1 + INTERACTION * part.covariance(a[:, i], b[:, i])
        return (product - 1) / INTERACTION

    @property
    def variance(self) -> float:
        """Prior variance of the score of any point."""
        return float((math.prod(1 + INTERACTION * part.variance for part in self._parts) - 1) / INTERACTION)


class _Part:
    """One subtask's choices by their place in `SubtaskSpace.choices`: their costs, and how alike they are.

    `_digits` has a row for the model, the sample count and each axis: the index of each choice's value.
    """

    def __init__(self, subtask: SubtaskSpace) -> None:
        self.subtask = subtask
        models, counts, axes = range(len(subtask.models)), subtask.num_samples, subtask.settings
        self._indices = {(m, single): _indices(subtask, m, single) for m in models for single in (False, True)}
        blocks = {key: _every(indices) for key, indices in self._indices.items()}
        of_each = [[(m, i, blocks[m, count == 1]) for i, count in enumerate(counts)] for m in models]
        sizes = np.array([[block.shape[1] for *_, block in of_model] for of_model in of_each])
        self._first = (np.cumsum(sizes) - sizes.ravel()).reshape(sizes.shape)
        heads = np.repeat(np.indices(sizes.shape).reshape(2, -1), sizes.ravel(), axis=1)
        self._digits = np.vstack([heads, np.hstack([block for of_model in of_each for *_, block in of_model])])
        self._similarity = [_model_similarity(subtask), _count_similarity(subtask), *map(_similarity_of, axes)]
        self.variance = MODEL + COUNT + BOTH + len(axes) * (SETTING + SETTING_BY_MODEL)

    def costs(self, measure: CostMeasure) -> Floats:
        """Cost of each choice in a measure, as `SubtaskSpace.cost_of` computes it."""
        s, names = self.subtask, [axis.name for axis in self.subtask.settings]
        if s.cost.varied or s.cost.seen or DEMOS in names:
            return np.array([s.cost_of(measure, choice) for choice in s.choices()])
        each = np.array([[s.cost.of(measure, model, n) for n in s.num_samples] for model in s.models])
        costs = each[self._digits[0], self._digits[1]]
        if CASCADE in names:
            escalates = self._digits[2 + names.index(CASCADE)] > 0
            costs = costs + escalates * ESCALATED * s.cost.of(measure, s.big, 1)
        return np.asarray(costs)

    def place(self, choice: SubtaskChoice) -> int:
        """The place of a choice of this space."""
        model, given = self.subtask.models.index(choice.model), dict(choice.settings)
        wanted = [axis.values.index(given.get(axis.name, axis.values[0])) for axis in self.subtask.settings]
        count = self.subtask.num_samples.index(choice.num_samples)
        return int(self._first[model, count] + _rank(self._indices[model, choice.num_samples == 1], wanted))

    def sampled(self, rng: np.random.Generator) -> Points:
        """Sample counts log-uniformly, all else uniformly: large counts rarely fit in the cost limit."""
        counts = np.array(self.subtask.num_samples)
        wanted = np.exp(rng.uniform(math.log(counts[0]), math.log(counts[-1] + 1), POOL))
        positions = np.searchsorted(counts, wanted, side="right") - 1
        models = rng.integers(len(self.subtask.models), size=POOL)
        digits = [rng.integers(len(axis.values), size=POOL) for axis in self.subtask.settings]
        places = self._first[models, positions]
        for (model, single), indices in self._indices.items():
            own = (models == model) & ((counts[positions] == 1) == single)
            places[own] += _rank(indices, [of[own] for of in digits])
        return np.asarray(places, dtype=np.int64)

    def covariance(self, a: Points, b: Points) -> Floats:
        """Prior covariance of the subtask's share of the scores at two sets of places."""
        # Many points share a choice of one subtask, so each choice is compared once.
        distinct, back = np.unique(b, return_inverse=True)
        models, counts, *settings = (
            similarity[np.ix_(digits[a], digits[distinct])]
            for similarity, digits in zip(self._similarity, self._digits, strict=True)
        )
        total = MODEL * models + COUNT * counts + BOTH * models * counts
        for setting in settings:
            total += SETTING * setting + SETTING_BY_MODEL * models * setting
        return np.asarray(total[:, back])


def _indices(subtask: SubtaskSpace, model: int, single: bool) -> list[Points]:
    """Of each setting, the indices of the values that make a difference to a model with one sample, or with more."""
    values = {axis.name: axis.values for axis in subtask.axes(subtask.models[model], 1 if single else 2)}
    return [
        np.array([axis.values.index(v) for v in values.get(axis.name, axis.values[:1])]) for axis in subtask.settings
    ]


def _every(indices: Sequence[Points]) -> Points:
    """All combinations in lexicographic order, shape (settings, combinations)."""
    grid = np.meshgrid(*indices, indexing="ij")
    return np.array([of_axis.ravel() for of_axis in grid], dtype=np.int64).reshape(len(indices), -1 if indices else 1)


def _rank(indices: Sequence[Points], wanted: Sequence[Any]) -> Any:
    """The place of combinations in `_every`; an index that makes no difference counts as one that does."""
    rank: Any = 0
    for known, index in zip(indices, wanted, strict=True):
        rank = rank * len(known) + np.minimum(np.searchsorted(known, index), len(known) - 1)
    return rank


def _model_similarity(subtask: SubtaskSpace) -> Floats:
    sizes = np.log([max(subtask.cost.size(model), 1e-12) for model in subtask.models])
    by_size = np.exp(-np.abs(np.subtract.outer(sizes, sizes)) / SIZE_SCALE)
    return np.asarray(SHARED_BY_SIZE * by_size + (1 - SHARED_BY_SIZE) * np.eye(len(sizes)))


def _count_similarity(subtask: SubtaskSpace) -> Floats:
    return _close(np.log(np.array(subtask.num_samples, dtype=np.float64)), COUNT_SCALE)


def _similarity_of(axis: Axis) -> Floats:
    """Numbers are compared on a logarithmic scale if all are positive, else as shares of their range."""
    if axis.kind == "categorical":
        return np.eye(len(axis.values))
    if axis.kind == "ordinal":
        return _close(np.arange(len(axis.values), dtype=np.float64), RANK_SCALE)
    values = np.array([float(value) for value in axis.values])
    if (values > 0).all():
        return _close(np.log(values), COUNT_SCALE)
    return _close(values / (np.ptp(values) or 1.0), RANGE_SCALE)


def _close(values: Floats, scale: float) -> Floats:
    return np.asarray(np.exp(-0.5 * (np.subtract.outer(values, values) / scale) ** 2))


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
