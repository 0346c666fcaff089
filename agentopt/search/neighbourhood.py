"""Geometry of the search space: affordable candidates, their neighbours, and repairs to the cost limit.

Neighbours differ in one subtask: in its sample count or a setting by one step, or in its model. Cost rises with every
sample count and every model size, so the affordable candidates are connected: the breadth-first walk of
`nearest_untried` finds the nearest untried one if there is any.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from agentopt.core.axes import SettingValue
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.search.base import SearchSpace, SubtaskSpace


def without_limits(space: SearchSpace) -> SearchSpace:
    """The same space without its cost limits."""
    return replace(space, max_units=None, max_usd=None, max_seconds=None)


def affordable(space: SearchSpace) -> Iterator[Candidate]:
    """Yield every affordable candidate with seed prompts, in lexicographic order of the subtasks.

    Branches that cannot become affordable are skipped, so a tight limit in a huge space stays cheap.
    """
    choices = [list(s.choices()) for s in space.subtasks]
    costs = {
        limit: [{c: s.cost_of(limit[0], c) for c in of} for s, of in zip(space.subtasks, choices, strict=True)]
        for limit in space.limits
    }
    least = {limit: [min(of.values()) for of in each] for limit, each in costs.items()}

    def within(chosen: list[SubtaskChoice]) -> bool:
        """Whether the choices so far fit if all others are as cheap as they can be."""
        return all(
            space.total(measure, [each[i][c] for i, c in enumerate(chosen)] + least[measure, most][len(chosen) :])
            <= most + 1e-9 * abs(most)
            for (measure, most), each in costs.items()
        )

    def grow(chosen: list[SubtaskChoice]) -> Iterator[Candidate]:
        if len(chosen) == len(choices):
            yield Candidate(tuple((s.name, choice) for s, choice in zip(space.subtasks, chosen, strict=True)))
            return
        for choice in choices[len(chosen)]:
            if within([*chosen, choice]):
                yield from grow([*chosen, choice])

    return filter(space.affords, grow([]))


def step(subtask: SubtaskSpace, candidate: Candidate, by: int) -> Candidate | None:
    """The candidate with `subtask`'s sample count `by` positions further among the allowed ones; None past an end.

    Args:
        subtask: The subtask to change.
        candidate: The candidate to start from.
        by: Number of positions, negative for fewer samples.
    """
    counts = subtask.num_samples
    position = counts.index(candidate[subtask.name].num_samples) + by
    return with_num_samples(subtask, candidate, counts[position]) if 0 <= position < len(counts) else None


def with_num_samples(subtask: SubtaskSpace, candidate: Candidate, num_samples: int) -> Candidate:
    """The candidate with another sample count of `subtask`, and the settings that make a difference then.

    Args:
        subtask: The subtask to change.
        candidate: The candidate to start from.
        num_samples: The sample count.
    """
    choice = candidate[subtask.name]
    return _having(subtask, candidate, choice.model, num_samples, dict(choice.settings))


def with_other_models(subtask: SubtaskSpace, candidate: Candidate) -> Iterator[Candidate]:
    """Yield the candidate with each other model of `subtask`, in the order of its models."""
    for model in subtask.models:
        if model != candidate[subtask.name].model:
            yield with_model(subtask, candidate, model)


def with_model(subtask: SubtaskSpace, candidate: Candidate, model: str) -> Candidate:
    """The candidate with another model of `subtask`, and the settings that apply to it.

    Args:
        subtask: The subtask to change.
        candidate: The candidate to start from.
        model: The model.
    """
    choice = candidate[subtask.name]
    return _having(subtask, candidate, model, choice.num_samples, dict(choice.settings))


def _having(
    subtask: SubtaskSpace, candidate: Candidate, model: str, num_samples: int, settings: Mapping[str, SettingValue]
) -> Candidate:
    """The candidate with another choice, and its own system prompt."""
    new = subtask.choice(model, num_samples, settings)
    changes = {"model": model, "num_samples": num_samples, "settings": new.settings, "demos": new.demos}
    return candidate.having(subtask.name, **changes)


def with_other_settings(subtask: SubtaskSpace, candidate: Candidate) -> Iterator[Candidate]:
    """Yield the candidate with each neighbouring value of each setting; any other value of a categorical one."""
    choice = candidate[subtask.name]
    for axis in subtask.axes(choice.model, choice.num_samples):
        own = dict(choice.settings).get(axis.name, axis.values[0])
        others = [value for value in axis.values if value != own]
        if axis.kind != "categorical":
            ordered = axis.ordered
            place = ordered.index(own)
            others = [*ordered[place + 1 : place + 2], *ordered[max(place - 1, 0) : place]]
        for value in others:
            named = {**dict(choice.settings), axis.name: value}
            yield _having(subtask, candidate, choice.model, choice.num_samples, named)


def neighbours(space: SearchSpace, candidate: Candidate) -> Iterator[Candidate]:
    """Yield every affordable neighbour: one step in a sample count or a setting, or another model of one subtask."""
    for subtask in space.subtasks:
        stepped = (step(subtask, candidate, by) for by in (1, -1))
        moved = (*with_other_models(subtask, candidate), *with_other_settings(subtask, candidate))
        for neighbour in (*(s for s in stepped if s is not None), *moved):
            if space.affords(neighbour):
                yield neighbour


def with_fewer_samples(
    space: SearchSpace, candidate: Candidate, only: Collection[str] | None = None
) -> Candidate | None:
    """Lower sample counts until the candidate is affordable.

    Each iteration lowers, by one step, the costliest subtask that is not at its smallest count.

    Args:
        space: The space, whose sample counts are the steps.
        candidate: A candidate of the space, usually above the cost limit.
        only: Names of the subtasks that may change; all if None.

    Returns:
        The affordable candidate, or None if the smallest counts are above the limit too.
    """
    current = candidate
    while not space.affords(current):
        lower = _cheaper_by_one(space, current, [s for s in space.subtasks if only is None or s.name in only])
        if lower is None:
            return None
        current = lower
    return current


def _cheaper_by_one(space: SearchSpace, candidate: Candidate, subtasks: list[SubtaskSpace]) -> Candidate | None:
    lowered = [(_units_of(s, candidate), stepped) for s in subtasks if (stepped := step(s, candidate, -1))]
    return max(lowered, key=lambda pair: pair[0])[1] if lowered else None


def _units_of(subtask: SubtaskSpace, candidate: Candidate) -> float:
    return subtask.units(candidate[subtask.name])


def with_smaller_models(
    space: SearchSpace, candidate: Candidate, only: Collection[str] | None = None
) -> Candidate | None:
    """Take smaller models until the candidate is affordable.

    Each iteration gives the next cheaper model to the costliest subtask that has one.

    Args:
        space: The space, whose models are tried.
        candidate: A candidate of the space, usually above the cost limit.
        only: Names of the subtasks that may change; all if None.

    Returns:
        The affordable candidate, or None if the smallest models are above the limit too.
    """
    current = candidate
    while not space.affords(current):
        smaller = [
            (_units_of(s, current), s, model)
            for s in space.subtasks
            if (only is None or s.name in only) and (model := _next_smaller(s, current[s.name].model))
        ]
        if not smaller:
            return None
        _, subtask, model = max(smaller, key=lambda entry: entry[0])
        current = with_model(subtask, current, model)
    return current


def _next_smaller(subtask: SubtaskSpace, model: str) -> str | None:
    cost = {m: subtask.cost.units(m, 1) for m in subtask.models}
    return max((m for m in subtask.models if cost[m] < cost[model]), key=lambda m: cost[m], default=None)


def fitted(space: SearchSpace, candidate: Candidate) -> Candidate | None:
    """Make the candidate affordable: fewer samples first, then smaller models; None if nothing is affordable."""
    fewer = with_fewer_samples(space, candidate)
    if fewer is not None:
        return fewer
    least = candidate
    for s in space.subtasks:
        least = with_num_samples(s, least, s.num_samples[0])
    return with_smaller_models(space, least)


def nearest_untried(space: SearchSpace, start: Candidate, tried: Collection[Candidate]) -> Candidate | None:
    """Find the nearest affordable candidate that is not in `tried`, by breadth-first search.

    Args:
        space: The space to search.
        start: Where to start; it is made affordable first.
        tried: Candidates to skip.

    Returns:
        The candidate with the fewest steps from `start`, the first in the order of `neighbours` among equals; None if
        every affordable candidate was tried.
    """
    first = fitted(space, start)
    if first is None:
        # With two limits, steps that lower the one cost may raise the other.
        return next((candidate for candidate in affordable(space) if candidate not in tried), None)
    seen, queue = {first}, deque([first])
    while queue:
        candidate = queue.popleft()
        if candidate not in tried:
            return candidate
        fresh = [c for c in neighbours(space, candidate) if c not in seen]
        seen.update(fresh)
        queue.extend(fresh)
    return next((candidate for candidate in affordable(space) if candidate not in tried), None)
