"""A model of the score over the whole search space, fitted on every trial: which affordable candidate to try next.

A Gaussian process whose kernel is what AgentTTS (arXiv 2508.00890) knows of test-time scaling. Within a subtask two
choices are alike when their models are of like size (insight 1) and their sample counts are near on a logarithmic scale
(insight 2: the score rises, peaks and falls smoothly). Subtasks add up, and interact a little (insight 3: a better
earlier subtask moves the later one's peak). Trying the greatest expected improvement trades samples of one subtask for
those of another at the cost limit without being told to, since every affordable candidate is compared with every other.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from agentopt.core.candidate import Candidate
from agentopt.search.base import SearchSpace, SubtaskSpace

Floats = NDArray[np.float64]
Points = NDArray[np.int64]
"""Candidates as an array of shape (n, subtasks): the place of each subtask's choice in `models` x `num_samples`."""

POOL = 20_000
"""Up to this many allocations all are compared; of larger spaces so many are drawn."""

# Chosen on synthetic landscapes, see benchmarks/RESULTS.md; halving or doubling any one changes little.
MODEL, COUNT, BOTH = 1.0, 0.5, 0.5
"""Variance of a subtask's score that is due to its model, to its sample count, and to how a model takes to samples."""
ALIKE_BY_SIZE = 0.7
"""The share of a model's effect that a model of nearly the same size has too."""
SIZE_SCALE = 1.5
"""Over which difference in the logarithm of the parameters models stop being alike."""
COUNT_SCALE = 0.9
"""Over which difference in the logarithm of the sample count scores stop being alike."""
INTERACTION = 0.1
"""How much subtasks interact: 0 adds their effects."""
NOISE = 0.01
"""Variance of the noise of a score, as a share of the variance of the scores."""


class Grid:
    """The allocations of a search space as points, so that thousands are priced and compared at once."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._units = [
            np.array([s.cost.units(model, n) for model in s.models for n in s.num_samples]) for s in space.subtasks
        ]
        self._alike = [(_alike_models(s), _alike_counts(s)) for s in space.subtasks]

    def points(self, candidates: Sequence[Candidate]) -> Points:
        """The points of candidates of this space."""
        rows = [[_place(s, candidate) for s in self._space.subtasks] for candidate in candidates]
        return np.array(rows, dtype=np.int64).reshape(len(rows), len(self._units))

    def candidate(self, point: Points) -> Candidate:
        """The candidate of one point, with seed prompts."""
        choices = {}
        for s, place in zip(self._space.subtasks, point.tolist(), strict=True):
            model, count = divmod(place, len(s.num_samples))
            choices[s.name] = (s.models[model], s.num_samples[count])
        return self._space.candidate(choices)

    def pool(self, rng: np.random.Generator) -> Points:
        """Every affordable point in a random order; of a space larger than `POOL` those of so many that are drawn."""
        sizes = [len(units) for units in self._units]
        if self._space.size <= POOL:
            points = np.stack(np.unravel_index(rng.permutation(self._space.size), sizes), axis=1)
        else:
            points = np.stack([self._drawn(s, rng) for s in self._space.subtasks], axis=1)
        limit = math.inf if self._space.max_units is None else self._space.max_units + 1e-9
        units = sum(of[points[:, i]] for i, of in enumerate(self._units))
        return np.asarray(points[units <= limit], dtype=np.int64)

    def _drawn(self, subtask: SubtaskSpace, rng: np.random.Generator) -> Points:
        """Models evenly, sample counts evenly on a logarithmic scale: large ones rarely fit in the cost limit."""
        counts = np.array(subtask.num_samples)
        wanted = np.exp(rng.uniform(math.log(counts[0]), math.log(counts[-1] + 1), POOL))
        places = np.searchsorted(counts, wanted, side="right") - 1
        return np.asarray(rng.integers(len(subtask.models), size=POOL) * len(counts) + places, dtype=np.int64)

    def kernel(self, a: Points, b: Points) -> Floats:
        """Covariance of the scores of two sets of points, shape (len(a), len(b))."""
        product = np.ones((len(a), len(b)))
        for i, (models, counts) in enumerate(self._alike):
            (model_a, count_a), (model_b, count_b) = (np.divmod(points[:, i], len(counts)) for points in (a, b))
            by_model, by_count = models[np.ix_(model_a, model_b)], counts[np.ix_(count_a, count_b)]
            product *= 1 + INTERACTION * (MODEL * by_model + COUNT * by_count + BOTH * by_model * by_count)
        return (product - 1) / INTERACTION

    @property
    def variance(self) -> float:
        """The kernel of any point with itself."""
        return float(((1 + INTERACTION * (MODEL + COUNT + BOTH)) ** len(self._units) - 1) / INTERACTION)


def _place(subtask: SubtaskSpace, candidate: Candidate) -> int:
    choice, counts = candidate[subtask.name], subtask.num_samples
    return subtask.models.index(choice.model) * len(counts) + counts.index(choice.num_samples)


def _alike_models(subtask: SubtaskSpace) -> Floats:
    sizes = np.log([subtask.cost.parameters[model] for model in subtask.models])
    by_size = np.exp(-np.abs(np.subtract.outer(sizes, sizes)) / SIZE_SCALE)
    return np.asarray(ALIKE_BY_SIZE * by_size + (1 - ALIKE_BY_SIZE) * np.eye(len(sizes)))


def _alike_counts(subtask: SubtaskSpace) -> Floats:
    counts = np.log(np.array(subtask.num_samples, dtype=np.float64))
    return np.asarray(np.exp(-0.5 * (np.subtract.outer(counts, counts) / COUNT_SCALE) ** 2))


def most_promising(
    space: SearchSpace,
    scored: Sequence[tuple[Candidate, float]],
    pending: Collection[Candidate],
    tried: Collection[Candidate],
    seed: int,
) -> Candidate | None:
    """The affordable candidate not in `tried` with the greatest expected improvement; None where none is at hand.

    `scored` holds candidates and scores (larger is better), `pending` those whose score is awaited: they count as if
    they had come out as predicted, so that a batch spreads. `seed` orders equals, and draws from spaces larger than
    `POOL`.
    """
    grid = Grid(space)
    pool = grid.pool(np.random.default_rng(seed))
    known = {tuple(row) for row in grid.points(list(tried)).tolist()}
    pool = pool[[tuple(row) not in known for row in pool.tolist()]]
    if not len(pool):
        return None
    if not scored:
        return grid.candidate(pool[0])
    told = grid.points([candidate for candidate, _ in scored])
    scores = np.array([score for _, score in scored])
    gains = expected_improvement(grid, told, scores, grid.points(list(pending)), pool)
    return grid.candidate(pool[int(gains.argmax())])


def expected_improvement(grid: Grid, told: Points, scores: Floats, pending: Points, pool: Points) -> Floats:
    """By how much each point of `pool` is expected to pass the best point that was told, in standard deviations.

    The best is the highest *smoothed* score: a lucky measurement does not raise the bar. Source of the criterion:
    Jones, Schonlau, Welch, Journal of Global Optimization 13, 1998, eq. 15.
    """
    from scipy.special import ndtr

    standard = (scores - scores.mean()) / (scores.std() or 1.0)
    known = np.concatenate([told, pending])
    smoothed, _ = _posterior(grid, told, standard, known)
    values = np.concatenate([standard, smoothed[len(told) :]])
    mean, deviation = _posterior(grid, known, values, pool)
    ahead = (mean - smoothed[: len(told)].max()) / deviation
    density = np.exp(-0.5 * ahead**2) / math.sqrt(2 * math.pi)
    return np.asarray(deviation * (ahead * ndtr(ahead) + density))


def _posterior(grid: Grid, told: Points, values: Floats, points: Points) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the noise-free score at `points`."""
    covariance = grid.kernel(told, told) + NOISE * np.eye(len(told))
    across = grid.kernel(told, points)
    solved = np.linalg.solve(covariance, np.column_stack([values, across]))
    mean = across.T @ solved[:, 0]
    variance = grid.variance - (across * solved[:, 1:]).sum(axis=0)
    return mean, np.sqrt(np.maximum(variance, 1e-12))
