"""What AgentTTS (arXiv 2508.00890) knows about test-time scaling, as pure functions of the search space.

Insight 1 (subtasks prefer different model sizes) gives the first trials. Insights 2 and 3 (the score peaks in the
sample count, and a better earlier subtask moves the later one's peak) give a neighbourhood to search from the best
trials: short steps in one sample count, or one other model.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from agentopt.candidate import Candidate
from agentopt.search.base import SearchSpace, SubtaskSpace
from agentopt.search.moves import step, swaps, with_fewer_samples, with_smaller_models


def initial_candidates(space: SearchSpace) -> list[Candidate]:
    """Every model of every subtask once, at the cost of one pass of that subtask's largest model (insight 1).

    For subtask i let B_i be the units of one pass of its largest model. Each of its models gets the greatest
    allowed sample count that B_i pays for, while the other subtasks use their largest model once. What is above the
    cost limit has the other subtasks' models sized down until it fits, then its own samples. Feasible and distinct.
    Source: METHODS, "Initialise" (the paper's algorithm 1, not the released code, which clips).
    """
    found = (_one_model(space, subtask, model) for subtask in space.subtasks for model in subtask.models)
    return list(dict.fromkeys(candidate for candidate in found if candidate is not None))


def _one_model(space: SearchSpace, subtask: SubtaskSpace, model: str) -> Candidate | None:
    budget = subtask.cost.units(subtask.largest_model, 1)
    count = subtask.nearest_num_samples(subtask.cost.num_samples_for(budget, model))
    others = {s.name: (s.largest_model, s.num_samples[0]) for s in space.subtasks if s.name != subtask.name}
    wanted = space.candidate({**others, subtask.name: (model, count)})
    fitting = with_smaller_models(space, wanted, only=others)
    if fitting is not None:
        return fitting
    smallest = {s.name: (_smallest_model(s), s.num_samples[0]) for s in space.subtasks if s.name != subtask.name}
    return with_fewer_samples(space, space.candidate({**smallest, subtask.name: (model, count)}), only=[subtask.name])


def _smallest_model(subtask: SubtaskSpace) -> str:
    return min(subtask.models, key=lambda model: subtask.cost.parameters[model])


def neighbourhood(space: SearchSpace, candidate: Candidate) -> list[Candidate]:
    """Affordable candidates near one: one or two steps in one sample count, or one other model.

    Another model keeps the sample counts where that is affordable. Where it is not, it comes twice: with as many
    samples of its own as fit, and with its samples kept and the others' lowered. Distinct, in a fixed order.
    """
    found: list[Candidate | None] = []
    for subtask in space.subtasks:
        stepped = (step(subtask, candidate, by) for by in (1, -1, 2, -2))
        found += [c for c in stepped if c is not None and space.affords(c)]
        others = [s.name for s in space.subtasks if s is not subtask]
        for swapped in swaps(subtask, candidate):
            found += [with_fewer_samples(space, swapped, only=only) for only in ([subtask.name], others)]
    return list(dict.fromkeys(c for c in found if c is not None and c != candidate))


def next_by_insight(
    space: SearchSpace, tried: Collection[Candidate], ranked: Sequence[Candidate], rng: random.Random
) -> Candidate | None:
    """What to try next: the first trials of insight 1, then the neighbourhoods of `ranked`, best candidate first.

    A free neighbour of the best one is drawn at random; when it has none left, of the next. None: all are tried.
    """
    for candidate in initial_candidates(space):
        if candidate not in tried:
            return candidate
    for parent in ranked:
        free = [c for c in neighbourhood(space, parent) if c not in tried]
        if free:
            return rng.choice(free)
    return None
