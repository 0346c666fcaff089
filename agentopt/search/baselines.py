"""Strategies that ignore the scores: the baselines of every comparison."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterator, Sequence
from itertools import islice

from agentopt.core.axes import SettingValue
from agentopt.core.candidate import Candidate
from agentopt.core.records import Trial
from agentopt.search.base import Proposal, SearchSpace, SubtaskSpace
from agentopt.search.neighbourhood import affordable, nearest_untried

LISTABLE = 20_000
"""Most affordable candidates that are held in a list; larger spaces are sampled or enumerated without one."""


class RandomStrategy:
    """Samples uniformly from the untried affordable candidates.

    Spaces with more than `LISTABLE` affordable candidates are sampled by rejection; if 10,000 points give none, the
    proposal is the candidate nearest to a random point.

    Args:
        seed: Together with the number of trials, the seed of the random numbers.
        proposer: The `Proposal.proposer` of its proposals.
    """

    def __init__(self, seed: int = 0, *, proposer: str = "random") -> None:
        self._seed, self._proposer = seed, proposer

    async def propose(self, space: SearchSpace, trials: Sequence[Trial], k: int) -> list[Proposal]:
        rng = random.Random(f"{self._seed} {len(trials)}")
        tried = {t.candidate for t in trials}
        listed = _listed(space)
        if listed is None:
            return [Proposal(c, self._proposer) for c in _sampled(space, tried, k, rng)]
        untried = [c for c in listed if c not in tried]
        return [Proposal(c, self._proposer) for c in rng.sample(untried, min(k, len(untried)))]


def _listed(space: SearchSpace) -> list[Candidate] | None:
    found = list(islice(affordable(space), LISTABLE + 1))
    return found if len(found) <= LISTABLE else None


def _sampled(space: SearchSpace, tried: Collection[Candidate], k: int, rng: random.Random) -> list[Candidate]:
    found: dict[Candidate, None] = {}
    for _ in range(k):
        taken = {*tried, *found}
        points = (_point(space, rng) for _ in range(10_000))
        fits = next((c for c in points if c not in taken and space.affords(c)), None)
        candidate = fits or nearest_untried(space, _point(space, rng), taken)
        if candidate is not None:
            found[candidate] = None
    return list(found)


def _point(space: SearchSpace, rng: random.Random) -> Candidate:
    return space.candidate({s.name: _random_choice(s, rng) for s in space.subtasks})


def _random_choice(subtask: SubtaskSpace, rng: random.Random) -> tuple[str, int, dict[str, SettingValue]]:
    model, count = rng.choice(subtask.models), rng.choice(subtask.num_samples)
    return model, count, {axis.name: rng.choice(axis.values) for axis in subtask.settings}


class GridStrategy:
    """Proposes every affordable candidate once, in a fixed order in which successive candidates are far apart.

    The order is a walk through the lexicographic list with a stride near the golden ratio of its length and coprime
    to it, so that every candidate occurs exactly once and any prefix covers the whole space.
    """

    async def propose(self, space: SearchSpace, trials: Sequence[Trial], k: int) -> list[Proposal]:
        tried = {t.candidate for t in trials}
        free = (c for c in _spread(space) if c not in tried)
        return [Proposal(c, "grid") for c in islice(free, k)]


def _spread(space: SearchSpace) -> Iterator[Candidate]:
    listed = _listed(space)
    if listed is not None:
        return (listed[i] for i in _strides(len(listed)))
    return filter(space.affords, (_at(space, i) for i in _strides(space.size)))


def _strides(length: int) -> Iterator[int]:
    """Yield 0 to length - 1, each once, with successive numbers far apart."""
    stride = max(1, round(length * (math.sqrt(5) - 1) / 2))
    while math.gcd(stride, length) > 1:
        stride += 1
    return ((i * stride) % length for i in range(length))


def _at(space: SearchSpace, index: int) -> Candidate:
    """The candidate at an index of the lexicographic list, without building the list."""
    chosen = {}
    for s in reversed(space.subtasks):
        index, place = divmod(index, s.size)
        chosen[s.name] = s.choice_at(place)
    return Candidate.of({s.name: chosen[s.name] for s in space.subtasks})
