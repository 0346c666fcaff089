"""The first trials, from what AgentTTS (arXiv 2508.00890) knows: subtasks prefer different model sizes (insight 1)."""

from __future__ import annotations

from agentopt.core.candidate import Candidate
from agentopt.search.base import SearchSpace, SubtaskSpace
from agentopt.search.neighbourhood import with_fewer_samples, with_smaller_models


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
