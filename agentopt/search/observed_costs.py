"""The cost of a candidate that draws fewer samples, or calls another model, on some examples than on others."""

from __future__ import annotations

from agentopt.core.axes import CASCADE
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.cost import units
from agentopt.core.records import Evaluation
from agentopt.search.base import SearchSpace, SubtaskSpace


def observed_units(space: SearchSpace, candidate: Candidate, evaluation: Evaluation) -> float:
    """Nominal cost of an evaluated candidate per example, in the measure of the space.

    It is `space.units`; with costs in units, it has the samples that votes drew before they stopped, and the share of
    the examples that cascades escalated.

    Args:
        space: The space.
        candidate: The candidate.
        evaluation: Its evaluation.
    """
    if space.measure != "units":
        return space.units(candidate)
    return sum(_units(subtask, candidate[subtask.name], evaluation) for subtask in space.subtasks)


def _units(subtask: SubtaskSpace, choice: SubtaskChoice, evaluation: Evaluation) -> float:
    if not (subtask.stops or CASCADE in dict(choice.settings)):
        return subtask.units(choice)  # without the results, which a stored evaluation has to parse
    scored = [result.subtasks for result in evaluation.results if result.score is not None]
    uses = [subtasks[subtask.name] for subtasks in scored if subtask.name in subtasks]
    if not uses:
        return subtask.units(choice)
    escalated = sum(use.escalated for use in uses) / len(uses)
    drawn = sum(use.responses for use in uses) / len(uses) - escalated if subtask.stops else choice.num_samples
    cost = subtask.cost
    size = cost.parameters[choice.model]
    own = units(size, cost.prompt_tokens, cost.completion_tokens, drawn, unit=cost.unit)
    return own + (escalated * cost.units(subtask.big, 1) if escalated else 0.0)
