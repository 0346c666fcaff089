"""The first trials by insight 1 of AgentTTS (arXiv 2508.00890): subtasks prefer different model sizes."""

from __future__ import annotations

from dataclasses import replace

from agentopt.core.candidate import Candidate
from agentopt.search.base import SearchSpace, SubtaskSpace
from agentopt.search.neighbourhood import with_fewer_samples, with_smaller_models


def initial_candidates(space: SearchSpace) -> list[Candidate]:
    """Candidates that try every model of every subtask, each at the cost of one pass of the subtask's largest model.

    For subtask i let B_i be the cost of one pass of its largest (dearest) model. Each of its models gets the greatest
    allowed sample count that costs at most B_i, while the other subtasks use one sample of their largest model. If the
    candidate is above the cost limit, the other subtasks get smaller models until it fits, and then it gets fewer
    samples. Source: algorithm 1 of the paper (the released code clips the sample count instead).

    Returns:
        Distinct affordable candidates, at most one for each model of each subtask.
    """
    # By nominal costs: measured ones change with every trial, and each model is tried once.
    nominal = replace(
        space, subtasks=tuple(replace(s, cost=replace(s.cost, passes={}, varied={}, seen={})) for s in space.subtasks)
    )
    found = (_one_model(nominal, subtask, model) for subtask in nominal.subtasks for model in subtask.models)
    return list(dict.fromkeys(candidate for candidate in found if candidate is not None and space.affords(candidate)))


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
    return min(subtask.models, key=lambda model: subtask.cost.units(model, 1))
