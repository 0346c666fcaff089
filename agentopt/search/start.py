"""The first trials of a search, before its surrogate or its agent proposes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from agentopt.core.candidate import Candidate
from agentopt.search.base import SearchSpace
from agentopt.search.insights import initial_candidates
from agentopt.search.neighbourhood import fitted, with_smaller_models
from agentopt.search.settings import StartName

LEVEL = 0.8
"""Share, on the logarithmic scale, of the affordable samples that a crossed start draws."""


def largest(space: SearchSpace, seed: int) -> list[Candidate]:
    """One pass of every subtask's largest model; smaller ones until it is within the cost limits."""
    wanted = space.candidate({s.name: (s.largest_model, s.num_samples[0]) for s in space.subtasks})
    fitting = with_smaller_models(space, wanted)
    return [] if fitting is None else [fitting]


def crossed(space: SearchSpace, seed: int) -> list[Candidate]:
    """As many candidates as a subtask has models, each with another model in every subtask: a Latin square by seed."""
    rng = random.Random(f"start {seed}")
    count = max(len(s.models) for s in space.subtasks)
    columns = {}
    for s in space.subtasks:
        models = [s.models[i % len(s.models)] for i in range(count)]
        columns[s.name] = rng.sample(models, count)
    rows = ({name: models[i] for name, models in columns.items()} for i in range(count))
    found = (fitted(space, _with_samples(space, row)) for row in rows)
    return list(dict.fromkeys(candidate for candidate in found if candidate is not None))


def _with_samples(space: SearchSpace, models: Mapping[str, str]) -> Candidate:
    """The candidate with these models; each subtask has `LEVEL` of the samples that it could have alone."""
    single = {name: (model, space[name].num_samples[0]) for name, model in models.items()}
    wanted = {}
    for s in space.subtasks:
        alone = (n for n in s.num_samples if space.affords(space.candidate({**single, s.name: (models[s.name], n)})))
        wanted[s.name] = (models[s.name], s.nearest_num_samples(max(alone, default=1) ** LEVEL))
    return space.candidate(wanted)


STARTS: Mapping[StartName, Callable[[SearchSpace, int], list[Candidate]]] = {
    "largest": largest,
    "crossed": crossed,
    "paper": lambda space, seed: initial_candidates(space),
    "none": lambda space, seed: [],
}
"""The values of `search.start`."""


def first_candidates(space: SearchSpace, start: StartName, seed: int) -> list[Candidate]:
    """Distinct affordable candidates to try first.

    Args:
        space: The search space.
        start: A key of `STARTS`.
        seed: Seeds the crossed start.
    """
    # By nominal costs: measured ones change with every trial, and would change the start with them.
    nominal = tuple(replace(s, cost=replace(s.cost, passes={}, varied={}, seen={})) for s in space.subtasks)
    return [c for c in STARTS[start](replace(space, subtasks=nominal), seed) if space.affords(c)]
