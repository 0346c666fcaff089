"""Strategies that learn nothing: what any other has to beat."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterator, Sequence
from itertools import islice

from agentopt.core.candidate import Candidate
from agentopt.core.records import Trial
from agentopt.search.base import Proposal, SearchSpace
from agentopt.search.neighbourhood import affordable, nearest_untried

LISTABLE = 20_000
"""Up to this many affordable candidates they are listed; beyond, drawn or walked without a list."""


class RandomStrategy:
    """Uniform over the affordable untried candidates, seeded by (`seed`, number of trials).

    Exact where they can be listed; in larger spaces by rejection, and where rejection finds none within 10,000
    draws, the nearest untried neighbour of a random point.
    """

    def __init__(self, seed: int = 0, *, proposer: str = "random") -> None:
        self._seed, self._proposer = seed, proposer

    async def propose(self, space: SearchSpace, trials: Sequence[Trial], k: int) -> list[Proposal]:
        rng = random.Random(f"{self._seed} {len(trials)}")
        tried = {t.candidate for t in trials}
        listed = _listed(space)
        if listed is None:
            return [Proposal(c, self._proposer) for c in _drawn(space, tried, k, rng)]
        untried = [c for c in listed if c not in tried]
        return [Proposal(c, self._proposer) for c in rng.sample(untried, min(k, len(untried)))]


def _listed(space: SearchSpace) -> list[Candidate] | None:
    found = list(islice(affordable(space), LISTABLE + 1))
    return found if len(found) <= LISTABLE else None


def _drawn(space: SearchSpace, tried: Collection[Candidate], k: int, rng: random.Random) -> list[Candidate]:
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
    return space.candidate({s.name: (rng.choice(s.models), rng.choice(s.num_samples)) for s in space.subtasks})


class GridStrategy:
    """Every affordable candidate once, in a fixed order that is spread over the space from the start.

    The lexicographic list is walked with a stride near the golden ratio of its length, coprime to it. So every
    candidate comes exactly once, and any first few lie far apart: kinder than corner by corner when trials run out.
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
    """0 .. length - 1, each once, consecutive ones far apart."""
    stride = max(1, round(length * (math.sqrt(5) - 1) / 2))
    while math.gcd(stride, length) > 1:
        stride += 1
    return ((i * stride) % length for i in range(length))


def _at(space: SearchSpace, index: int) -> Candidate:
    """The candidate at a place of the lexicographic list, without making the list."""
    allocation = {}
    for s in reversed(space.subtasks):
        index, place = divmod(index, len(s.models) * len(s.num_samples))
        allocation[s.name] = (s.models[place // len(s.num_samples)], s.num_samples[place % len(s.num_samples)])
    return space.candidate(allocation)
