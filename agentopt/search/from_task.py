"""Builds the search space of a task, with the cost of each choice in units, in USD or in tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from agentopt.core.cost import TOKENS, CostMeasure, SubtaskCost, Unit
from agentopt.core.errors import NothingEvaluated, TaskError
from agentopt.core.phrases import counted, in_words
from agentopt.core.records import Evaluation
from agentopt.core.stop_reason import StopKind, StopReason
from agentopt.core.task import Subtask, Task, TokenLengths
from agentopt.models.catalog import ModelSpec
from agentopt.search.base import SearchSpace, SubtaskSpace


def needs_measuring(task: Task) -> bool:
    """Whether a subtask has no nominal token lengths, so that they must be measured on the baseline."""
    return any(s.tokens is None for s in task.subtasks)


def cost_measure(task: Task, specs: Mapping[str, ModelSpec]) -> CostMeasure:
    """The measure of the costs of the task's candidates.

    Units if every model of its subtasks has a parameter count, else USD if every price is known, else tokens.
    """
    models = [specs[name] for subtask in task.subtasks for name in subtask.models]
    if all(spec.parameters is not None for spec in models):
        return "units"
    return "USD per 1M examples" if all(spec.is_priced for spec in models) else "tokens"


def check_cost_limit(task: Task, specs: Mapping[str, ModelSpec]) -> None:
    """Check that a cost limit of the task is not ignored.

    Raises:
        TaskError: The limit is in units, but the costs can only be in tokens.
    """
    if task.max_units is None or cost_measure(task, specs) != "tokens":
        return
    unknown = [model for model in _without_parameters(task, specs) if not specs[model].is_priced]
    raise TaskError(
        f"a limit in units needs every model's parameter count, but {', '.join(unknown)} has neither that nor a price",
        where=f"task {task.name}: {_key(task, 'cost.max_units', 'max_units')}",
        remedy="add parameters or prices to the catalogue entry, or remove the limit "
        f"({_key(task, '-c task.cost.max_units=null', 'max_units=None')}) and cap the run by budget.tokens",
    )


def cost_note(task: Task, space: SearchSpace, specs: Mapping[str, ModelSpec]) -> str | None:
    """A remark on the costs of a space that are not in units; None if they are.

    Args:
        task: The task.
        space: Its search space.
        specs: Catalogue entries of its models, by name.
    """
    if space.measure == "units":
        return None
    name = _key(task, "cost.max_units", "max_units")
    limit = "" if task.max_units is None else f"; {name} is in units, so it is not applied"
    unknown = _without_parameters(task, specs)
    unit = f"{'has' if len(unknown) == 1 else 'have'} no parameter count, so costs are in {space.measure}"
    return f"{in_words(unknown)} {unit}{limit}"


def _without_parameters(task: Task, specs: Mapping[str, ModelSpec]) -> list[str]:
    """The models of the subtasks that have no parameter count, each once."""
    models = dict.fromkeys(model for subtask in task.subtasks for model in subtask.models)
    return [model for model in models if specs[model].parameters is None]


def _key(task: Task, in_file: str, in_python: str) -> str:
    """The setting as its author writes it: in the task file, or in Python."""
    return in_python if task.file is None else in_file


def search_space(task: Task, specs: Mapping[str, ModelSpec], measured: Evaluation | None = None) -> SearchSpace:
    """Build the search space of a task.

    The cost limit is the task's `max_units`, or by default one pass of every subtask's largest model (as in AgentTTS).
    There is none if the cost is not in units.

    Args:
        task: The task.
        specs: Catalogue entries of its models, by name.
        measured: The baseline's evaluation; needed if `needs_measuring(task)`.

    Raises:
        TaskError: The baseline is above the cost limit, a choice would cost 0 units or less, or token lengths are
            neither given nor measured.
        NothingEvaluated: Token lengths could not be measured, because a call or the parsing of a response before the
            subtask failed on every row.
    """
    measure = cost_measure(task, specs)
    subtasks = tuple(_subtask_space(s, task, specs, measured, measure) for s in task.subtasks)
    if measure != "units":
        return SearchSpace(subtasks, measure=measure)
    default = sum(s.cost.units(s.largest_model, 1) for s in subtasks)
    space = SearchSpace(subtasks, default if task.max_units is None else task.max_units)
    if not space.affords(space.baseline):
        raise TaskError(
            f"the baseline must cost at most max_units = {space.max_units:g} units per example, "
            f"but costs {space.units(space.baseline):g}",
            where=f"task {task.name}: {_key(task, 'cost.max_units', 'max_units')}",
            remedy="raise it, or put a smaller model first",
        )
    return space


def unlimited_space(task: Task, specs: Mapping[str, ModelSpec]) -> SearchSpace:
    """Build the search space without a cost limit, for the dry run before token lengths are known.

    Its costs have no meaning.
    """
    placeholders = {s.name: replace(s, tokens=TokenLengths(1, 1)) for s in task.subtasks}
    alike = replace(task, unit=Unit(1, 1, 1), subtasks=tuple(placeholders.values()))
    measure = cost_measure(task, specs)
    return SearchSpace(tuple(_subtask_space(s, alike, specs, None, measure) for s in alike.subtasks), measure=measure)


def _subtask_space(
    subtask: Subtask,
    task: Task,
    specs: Mapping[str, ModelSpec],
    measured: Evaluation | None,
    measure: CostMeasure,
) -> SubtaskSpace:
    lengths = subtask.tokens or _measured_lengths(subtask, task, measured)
    if measure == "units":
        sizes = {model: specs[model].parameters or 0.0 for model in subtask.models}
        cost = SubtaskCost(lengths.prompt, lengths.completion, sizes, task.unit)
        _check_positive(subtask, task, cost)
    else:
        prices = {model: TOKENS if measure == "tokens" else specs[model].prices for model in subtask.models}
        cost = SubtaskCost.priced(lengths.prompt, lengths.completion, prices)
    return SubtaskSpace(
        subtask.name, subtask.models, subtask.num_samples, subtask.system_prompt, cost, subtask.description
    )


def _check_positive(subtask: Subtask, task: Task, cost: SubtaskCost) -> None:
    """Reject costs of 0 or less: the formula is affine, so a short pass may cost less than a large unit's prompt."""
    smallest = min(subtask.models, key=lambda model: cost.parameters[model])
    if (units := cost.units(smallest, subtask.num_samples[0])) <= 0:
        size, prompt, completion = cost.parameters[smallest], cost.prompt_tokens, cost.completion_tokens
        raise TaskError(
            f"every pass must cost more than 0 units, but {smallest} costs {units:.3g}",
            where=f"subtask {subtask.name}",
            remedy=f"set {_key(task, 'cost.unit', 'unit')} to a pass of the size of the task's smallest, such as "
            + _key(
                task,
                f"{{parameters: {size:g}, prompt_tokens: {prompt:.0f}, completion_tokens: {completion:.0f}}}",
                f"agentopt.Unit(parameters={size:g}, prompt_tokens={prompt:.0f}, completion_tokens={completion:.0f})",
            ),
        )


def _why_never_called(subtask: Subtask, task: Task, measured: Evaluation) -> NothingEvaluated | None:
    """The exception for a subtask that was never called because of failed calls, or responses, before it."""
    kept = "start a new run, because a run keeps its task; answers that were paid for are kept"
    failures = Counter(failure.kind for failure in measured.failures.values())
    if unscored := measured.why_unscored:
        return NothingEvaluated(
            StopReason(StopKind.FAILED, detail=unscored), failures, remedy=f"fix the cause, then {kept}"
        )
    notes = [
        (other.name, note.removeprefix(f"{other.name}: "))
        for result in measured.results
        for other in task.subtasks
        for note in result.feedback.split("; ")
        if note.startswith(f"{other.name}: ")
    ]
    if not notes:
        return None
    name, first = notes[0]
    count, rows = sum(other == name for other, _ in notes), counted(len(measured.results), "row")
    cause = (
        f"no response of `{name}` could be parsed on {'any' if count == len(measured.results) else count} of {rows}, "
        f"so `{subtask.name}` was never called; the first: {first}"
    )
    remedy = f"correct the prompt or the parser of `{name}`, or put a stronger model first in its `models`; then {kept}"
    return NothingEvaluated(StopReason(StopKind.FAILED, detail=cause), failures, remedy=remedy)


def _measured_lengths(subtask: Subtask, task: Task, measured: Evaluation | None) -> TokenLengths:
    """Mean tokens of the prompt and of one response, over the examples that called the subtask."""
    uses = [r.subtasks[subtask.name] for r in (measured.results if measured else ()) if subtask.name in r.subtasks]
    if not uses:
        if measured and (cause := _why_never_called(subtask, task, measured)):
            raise cause
        raise TaskError(
            "token lengths must be given or measurable, but no example reached this subtask",
            where=f"subtask {subtask.name}",
            remedy=f"add {_key(task, 'tokens: {prompt: ..., completion: ...}', 'tokens=TokenLengths(...)')}",
        )
    samples = subtask.num_samples[0]
    prompt = sum(use.prompt_tokens for use in uses) / len(uses)
    completion = sum(use.completion_tokens for use in uses) / len(uses) / samples
    return TokenLengths(prompt, max(completion, 1.0))
