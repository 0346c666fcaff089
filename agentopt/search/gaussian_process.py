"""Prior of a Gaussian process over the search space: its points, and how alike their scores are.

`surrogate` proposes by it, `posterior` chooses by it. The kernel encodes the insights of AgentTTS (arXiv 2508.00890) on
test-time scaling. Within a subtask, two choices are similar if their models have similar sizes (insight 1) and their
sample counts are close on a logarithmic scale (insight 2: the score rises, peaks and falls smoothly). Settings have
effects of their own, and interact with the model. Effects of subtasks add up, with a small interaction (insight 3: a
better earlier subtask moves the later one's peak). All affordable candidates are compared with each other, so at the
cost limit samples of one subtask are traded for samples of another.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
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

POOL = 30_000
"""Most allocations that are compared; larger spaces are sampled."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """Parameters of the prior covariance; the defaults are those by which a finished search is judged.

    They were chosen on synthetic landscapes, see benchmarks/RESULTS.md; halving or doubling any one changes little.
    """

    model: float = 1.0
    """Variance of a subtask's score due to its model."""
    count: float = 0.5
    """Variance due to its sample count."""
    both: float = 0.5
    """Variance due to the interaction of the two."""
    shared_by_size: float = 0.7
    """Share of a model's effect that depends on its size only, and that models of similar size therefore share."""
    size_scale: float = 1.5
    """Length scale of the similarity of models, in the logarithm of the number of parameters."""
    count_scale: float = 0.9
    """Length scale of the similarity of sample counts, in the logarithm of the count."""
    interaction: float = 0.1
    """Strength of the interaction between subtasks, above 0; near 0 their effects add up."""


SETTING, SETTING_BY_MODEL = 0.3, 0.2
"""Variance of a subtask's score due to one setting, and to the interaction of the setting and the model."""
RANK_SCALE = 1.0
"""Length scale of the similarity of an ordinal setting's values, in ranks."""
RANGE_SCALE = 0.5
"""Length scale of the similarity of a numeric setting's values that are not all positive, as a share of their range."""
LARGER, RISE, PEAK = 0.65, 0.6, 6
"""Prior mean: how much better a model is whose size is one standard deviation above the mean of the subtask's models
(on the logarithmic scale); how much the score rises from one sample to the peak; and the peak's sample count."""
BELIEVED = 1.0
"""Prior mean by an agent's beliefs: how much better a model is that it ranks one standard deviation above the mean."""
NUMBER_SCALE = 0.9
"""Length scale of the similarity of a numeric setting's positive values, in their logarithm."""


class Grid:
    """The candidates of a search space as integer points, so that thousands are priced and compared in one step.

    Args:
        space: The space.
        kernel: Parameters of the prior covariance.

    Attributes:
        space: The space.
    """

    def __init__(self, space: SearchSpace, kernel: Kernel = Kernel()) -> None:
        self.space, self._interaction = space, kernel.interaction
        self._parts = [_Part(subtask, kernel) for subtask in space.subtasks]

    def points(self, candidates: Sequence[Candidate]) -> Points:
        """Convert candidates of this space to points."""
        rows = [[part.place(c[part.subtask.name]) for part in self._parts] for c in candidates]
        return np.array(rows, dtype=np.int64).reshape(len(rows), len(self._parts))

    def candidate(self, point: Points) -> Candidate:
        """Convert one point to a candidate with seed prompts."""
        chosen = zip(self.space.subtasks, point.tolist(), strict=True)
        return Candidate(tuple((s.name, s.choice_at(place)) for s, place in chosen))

    def pool(self, rng: np.random.Generator) -> Points:
        """All affordable points in random order; in a space larger than `POOL`, the affordable ones of a sample."""
        sizes = [s.size for s in self.space.subtasks]
        if not self.is_sampled:
            points = np.stack(np.unravel_index(rng.permutation(self.space.size), sizes), axis=1)
        else:
            points = np.stack([part.sampled(rng) for part in self._parts], axis=1)
        return self._affordable(points)

    @property
    def is_sampled(self) -> bool:
        """Whether `pool` is a sample."""
        return self.space.size > POOL

    def near(self, points: Points, count: int, rng: np.random.Generator) -> Points:
        """Affordable points that differ from one of `points` in one subtask, drawn at random; at most `count`.

        Args:
            points: Points of the space, at least one.
            count: Number of points to draw.
            rng: Draws them.
        """
        drawn = points[rng.integers(len(points), size=count)]
        varied = rng.integers(len(self._parts), size=count)
        for i, part in enumerate(self._parts):
            drawn[varied == i, i] = part.sampled(rng)[: int((varied == i).sum())]
        return self._affordable(drawn)

    def _affordable(self, points: Points) -> Points:
        within = np.ones(len(points), dtype=bool)
        for measure, most in self.space.limits:
            within &= self.costs(measure, points) <= most
        return np.asarray(points[within], dtype=np.int64)

    def costs(self, measure: CostMeasure, points: Points) -> Floats:
        """Cost of each point in a measure, shape (len(points),).

        Args:
            measure: The measure.
            points: Points of the space.
        """
        each = [part.costs(measure)[points[:, i]] for i, part in enumerate(self._parts)]
        return np.asarray(self.space.total(measure, each, np.maximum), dtype=np.float64)

    def kernel(self, a: Points, b: Points) -> Floats:
        """Prior covariance of the scores of two sets of points, of shape (len(a), len(b))."""
        product = np.ones((len(a), len(b)))
        for i, part in enumerate(self._parts):
            product *= 1 + self._interaction * part.covariance(a[:, i], b[:, i])
        return (product - 1) / self._interaction

    @property
    def variance(self) -> float:
        """Prior variance of the score of any point."""
        product = math.prod(1 + self._interaction * part.variance for part in self._parts)
        return float((product - 1) / self._interaction)

    def trend(self, points: Points) -> Floats:
        """Prior mean of the scores of points in standard deviations, up to a constant, shape (len(points),).

        By insight 1 a larger model is better; by insight 2 the score rises with the samples, peaks and falls.

        Args:
            points: Points of the space.
        """
        return np.asarray(sum(part.trend[points[:, i]] for i, part in enumerate(self._parts)), dtype=np.float64)

    @property
    def has_beliefs(self) -> bool:
        """Whether an agent expected something of a subtask."""
        return any(part.subtask.belief for part in self._parts)

    def beliefs(self, points: Points) -> Floats:
        """Prior mean of the scores of points by the agent's beliefs, in the units of `trend`, shape (len(points),).

        Args:
            points: Points of the space.
        """
        return np.asarray(sum(part.belief[points[:, i]] for i, part in enumerate(self._parts)), dtype=np.float64)


class _Part:
    """One subtask's choices by their place in `SubtaskSpace.choices`: their costs, and how alike they are.

    `_digits` has a row for the model, the sample count and each axis: the index of each choice's value.
    """

    def __init__(self, subtask: SubtaskSpace, kernel: Kernel) -> None:
        self.subtask, self._kernel = subtask, kernel
        models, counts, axes = range(len(subtask.models)), subtask.num_samples, subtask.settings
        self._indices = {(m, single): _indices(subtask, m, single) for m in models for single in (False, True)}
        self._listed = {key: [of_axis.tolist() for of_axis in indices] for key, indices in self._indices.items()}
        blocks = {key: _every(indices) for key, indices in self._indices.items()}
        of_each = [[(m, i, blocks[m, count == 1]) for i, count in enumerate(counts)] for m in models]
        sizes = np.array([[block.shape[1] for *_, block in of_model] for of_model in of_each])
        self._first = (np.cumsum(sizes) - sizes.ravel()).reshape(sizes.shape)
        heads = np.repeat(np.indices(sizes.shape).reshape(2, -1), sizes.ravel(), axis=1)
        self._places: dict[tuple[str, int, Any], int] = {}
        self._digits = np.vstack([heads, np.hstack([block for of_model in of_each for *_, block in of_model])])
        counts_alike = _close(_logarithms(subtask.num_samples), kernel.count_scale)
        self._similarity = [_model_similarity(subtask, kernel), counts_alike, *map(_similarity_of, axes)]
        self.variance = kernel.model + kernel.count + kernel.both + len(axes) * (SETTING + SETTING_BY_MODEL)
        self.trend = (LARGER * _sizes(subtask))[heads[0]] + (RISE * _rise_and_fall(subtask))[heads[1]]
        of_models, of_counts = _believed(subtask)
        self.belief = (BELIEVED * of_models)[heads[0]] + (RISE * of_counts)[heads[1]]

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
        varied = choice.model, choice.num_samples, choice.settings
        if varied not in self._places:
            self._places[varied] = self._place(choice)
        return self._places[varied]

    def _place(self, choice: SubtaskChoice) -> int:
        model, given = self.subtask.models.index(choice.model), dict(choice.settings)
        wanted = [axis.values.index(given.get(axis.name, axis.values[0])) for axis in self.subtask.settings]
        count = self.subtask.num_samples.index(choice.num_samples)
        rank = 0
        for known, index in zip(self._listed[model, choice.num_samples == 1], wanted, strict=True):
            rank = rank * len(known) + min(bisect_left(known, index), len(known) - 1)
        return int(self._first[model, count]) + rank

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
        kernel = self._kernel
        total = kernel.model * models + kernel.count * counts + kernel.both * models * counts
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


def _rank(indices: Sequence[Points], wanted: Sequence[Points]) -> Any:
    """The places of combinations in `_every`; an index that makes no difference counts as one that does."""
    rank: Any = 0
    for known, index in zip(indices, wanted, strict=True):
        rank = rank * len(known) + np.minimum(np.searchsorted(known, index), len(known) - 1)
    return rank


def _model_similarity(subtask: SubtaskSpace, kernel: Kernel) -> Floats:
    sizes = _logarithms([max(subtask.cost.size(model), 1e-12) for model in subtask.models])
    by_size = np.exp(-np.abs(np.subtract.outer(sizes, sizes)) / kernel.size_scale)
    return np.asarray(kernel.shared_by_size * by_size + (1 - kernel.shared_by_size) * np.eye(len(sizes)))


def _sizes(subtask: SubtaskSpace) -> Floats:
    """The logarithm of each model's size, with mean 0 and standard deviation 1."""
    sizes = _logarithms([max(subtask.cost.size(model), 1e-12) for model in subtask.models])
    return np.asarray((sizes - sizes.mean()) / (sizes.std() or 1.0))


def _believed(subtask: SubtaskSpace) -> tuple[Floats, Floats]:
    """What an agent expects of each model and sample count; without its beliefs all are equal."""
    models, counts, belief = subtask.models, subtask.num_samples, subtask.belief
    if belief is None:
        return np.zeros(len(models)), np.zeros(len(counts))
    return np.array(belief.of_models(models)), np.array(belief.of_counts(counts))


def _rise_and_fall(subtask: SubtaskSpace) -> Floats:
    """0 at one sample, 1 at the peak, less beyond: two parabolas in the logarithm of each sample count."""
    place = _logarithms(subtask.num_samples) / math.log(PEAK)
    falling = np.maximum(1 - 0.6 * (place - 1) ** 2, -3)
    return np.where(place <= 1, place * (2 - place), falling)


def _logarithms(values: Sequence[float]) -> Floats:
    return np.log(np.array(values, dtype=np.float64))


def _similarity_of(axis: Axis) -> Floats:
    """Numbers are compared on a logarithmic scale if all are positive, else as shares of their range."""
    if axis.kind == "categorical":
        return np.eye(len(axis.values))
    if axis.kind == "ordinal":
        return _close(np.arange(len(axis.values), dtype=np.float64), RANK_SCALE)
    values = np.array([float(value) for value in axis.values])
    if (values > 0).all():
        return _close(np.log(values), NUMBER_SCALE)
    return _close(values / (np.ptp(values) or 1.0), RANGE_SCALE)


def _close(values: Floats, scale: float) -> Floats:
    return np.asarray(np.exp(-0.5 * (np.subtract.outer(values, values) / scale) ** 2))
