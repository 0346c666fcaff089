"""Builds the search space of a task, with the cost of each choice in units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agentopt.core.cost import SubtaskCost, Unit
from agentopt.core.errors import CatalogError, TaskError
from agentopt.core.records import Evaluation
from agentopt.core.task import Subtask, Task, TokenLengths
from agentopt.models.catalog import ModelSpec
from agentopt.search.base import SearchSpace, SubtaskSpace


def needs_measuring(task: Task) -> bool:
    """Whether a subtask has no nominal token lengths, so that they must be measured on the baseline."""
    return any(s.tokens is None for s in task.subtasks)


def search_space(task: Task, specs: Mapping[str, ModelSpec], measured: Evaluation | None = None) -> SearchSpace:
    """Build the search space of a task.

    The cost limit is the task's `max_units`, or by default one pass of every subtask's largest model (as in AgentTTS).

    Args:
        task: The task.
        specs: Catalogue entries of its models, by name.
        measured: The baseline's evaluation; needed if `needs_measuring(task)`.

    Raises:
        TaskError: The baseline is above the cost limit, a choice would cost 0 units or less, or token lengths are
            neither given nor measured.
        CatalogError: A model has no parameter count.
    """
    subtasks = tuple(_subtask_space(s, task, specs, measured) for s in task.subtasks)
    default = sum(s.cost.units(s.largest_model, 1) for s in subtasks)
    space = SearchSpace(subtasks, default if task.max_units is None else task.max_units)
    if not space.affords(space.baseline):
        raise TaskError(
            f"the baseline must cost at most max_units = {space.max_units:g} units per example, "
            f"but costs {space.units(space.baseline):g}",
            where=f"task {task.name}: cost.max_units",
            remedy="raise it, or put a smaller model first",
        )
    return space


def unlimited_space(task: Task, specs: Mapping[str, ModelSpec]) -> SearchSpace:
    """Build the search space without a cost limit, for the dry run before token lengths are known.

    Its units have no meaning.

    Raises:
        CatalogError: A model has no parameter count.
    """
    placeholders = {s.name: replace(s, tokens=TokenLengths(1, 1)) for s in task.subtasks}
    alike = replace(task, unit=Unit(1, 1, 1), subtasks=tuple(placeholders.values()))
    return SearchSpace(tuple(_subtask_space(s, alike, specs, None) for s in alike.subtasks))


def _subtask_space(
    subtask: Subtask, task: Task, specs: Mapping[str, ModelSpec], measured: Evaluation | None
) -> SubtaskSpace:
    lengths = subtask.tokens or _measured_lengths(subtask, measured)
    parameters = {model: _parameters(specs[model]) for model in subtask.models}
    cost = SubtaskCost(lengths.prompt, lengths.completion, parameters, task.unit)
    _check_positive(subtask, cost)
    return SubtaskSpace(
        subtask.name, subtask.models, subtask.num_samples, subtask.system_prompt, cost, subtask.description
    )


def _check_positive(subtask: Subtask, cost: SubtaskCost) -> None:
    """Reject costs of 0 or less: the formula is affine, so a short pass may cost less than a large unit's prompt."""
    smallest = min(subtask.models, key=lambda model: cost.parameters[model])
    if (units := cost.units(smallest, subtask.num_samples[0])) <= 0:
        size, prompt, completion = cost.parameters[smallest], cost.prompt_tokens, cost.completion_tokens
        raise TaskError(
            f"every pass must cost more than 0 units, but {smallest} costs {units:.3g}",
            where=f"subtask {subtask.name}",
            remedy="set cost.unit to a pass of the size of the task's smallest, such as "
            f"{{parameters: {size:g}, prompt_tokens: {prompt:.0f}, completion_tokens: {completion:.0f}}}",
        )


def _parameters(spec: ModelSpec) -> float:
    if spec.parameters is None:
        raise CatalogError(
            "a model's parameter count is needed for costs in units, but none is given",
            where=f"models.{spec.name}.parameters",
            remedy="add it to the catalogue entry; an estimate is enough, because it sets the price in units only",
        )
    return spec.parameters


def _measured_lengths(subtask: Subtask, measured: Evaluation | None) -> TokenLengths:
    """Mean tokens of the prompt and of one response, over the examples that called the subtask."""
    uses = [r.subtasks[subtask.name] for r in (measured.results if measured else ()) if subtask.name in r.subtasks]
    if not uses:
        raise TaskError(
            "token lengths must be given or measurable, but no example reached this subtask",
            where=f"subtask {subtask.name}",
            remedy="add tokens: {prompt: ..., completion: ...}",
        )
    samples = subtask.num_samples[0]
    prompt = sum(use.prompt_tokens for use in uses) / len(uses)
    completion = sum(use.completion_tokens for use in uses) / len(uses) / samples
    return TokenLengths(prompt, max(completion, 1.0))
