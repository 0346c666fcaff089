"""Builds the search space of a task, with the cost of each choice in USD, seconds or units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agentopt.core.axes import CASCADE
from agentopt.core.cost import CostMeasure, SubtaskCost, Unit, units
from agentopt.core.errors import NothingEvaluated, TaskError
from agentopt.core.message_text import counted, in_words
from agentopt.core.records import Evaluation
from agentopt.core.stop_reason import StopKind, StopReason
from agentopt.core.task import Subtask, Task, TokenLengths
from agentopt.models.catalog import ModelSpec
from agentopt.models.cost_measure import measure_of
from agentopt.models.request_fitting import choices_per_request
from agentopt.search.base import SearchSpace, SubtaskSpace


def needs_measuring(task: Task) -> bool:
    """Whether a subtask has no nominal token lengths, so that they must be measured on the baseline."""
    return any(s.tokens is None for s in task.subtasks)


def cost_measure(task: Task, specs: Mapping[str, ModelSpec]) -> CostMeasure:
    """The measure of the costs of the task's candidates; see `measure_of`."""
    return measure_of(task.cost_measure, _models(task, specs))


def check_costs(task: Task, specs: Mapping[str, ModelSpec]) -> None:
    """Check that the catalogue has what the task's measure and its limits need.

    Raises:
        TaskError: Costs in units need every model's parameter count, and costs or a limit in USD every model's price.
    """
    models = _models(task, specs)
    needed = {} if task.max_usd is None else {"max_usd": "usd"}
    if task.cost_measure is not None:
        needed["measure"] = task.cost_measure
    for name, measure in needed.items():
        if unknown := _unknown(models, measure):
            what = "parameter count" if measure == "units" else "price"
            field = {"measure": "cost_measure"}.get(name, name)
            raise TaskError(
                f"costs in {'units' if measure == 'units' else 'USD'} need every model's {what}, "
                f"but {_have(unknown)} none",
                where=f"task {task.name}: {_key(task, f'cost.{name}', field)}",
                remedy=f"add {'parameters' if measure == 'units' else 'usd_per_1m_prompt and usd_per_1m_completion'} "
                f"to the catalogue entry, or remove it ({_key(task, f'-c task.cost.{name}=null', f'{field}=None')})",
            )


def _is_known(spec: ModelSpec, measure: str) -> bool:
    return spec.parameters is not None if measure == "units" else spec.is_priced if measure == "usd" else True


def cost_note(task: Task, specs: Mapping[str, ModelSpec]) -> str | None:
    """A remark on a limit in units that is not applied, and on costs in seconds that the task does not set; or None.

    Args:
        task: The task.
        specs: Catalogue entries of its models, by name.
    """
    models, notes = _models(task, specs), []
    if task.max_units is not None and (unknown := _unknown(models, "units")):
        notes.append(
            f"{_have(unknown)} no parameter count, so {_key(task, 'cost.max_units', 'max_units')} is not applied"
        )
    if task.cost_measure is None and cost_measure(task, specs) == "seconds":
        unpriced = _unknown(models, "usd")
        reason = (
            f"{_have(unpriced)} no price" if unpriced else "no model has a price and not all have a parameter count"
        )
        counted = "; calls without a price count as 0 USD" if unpriced else ""
        notes.append(f"{reason}, so costs are in seconds{counted}")
    return "; ".join(notes) or None


def _unknown(models: Sequence[ModelSpec], measure: str) -> list[str]:
    """The models whose costs in the measure are not known."""
    return [spec.name for spec in models if not _is_known(spec, measure)]


def _have(names: Sequence[str]) -> str:
    return f"{in_words(names)} {'has' if len(names) == 1 else 'have'}"


def _models(task: Task, specs: Mapping[str, ModelSpec]) -> list[ModelSpec]:
    """The models of the subtasks, each once."""
    return [specs[name] for name in dict.fromkeys(model for subtask in task.subtasks for model in subtask.models)]


def _key(task: Task, in_file: str, in_python: str) -> str:
    """The setting as its author writes it: in the task file, or in Python."""
    return in_python if task.file is None else in_file


def search_space(
    task: Task,
    specs: Mapping[str, ModelSpec],
    measured: Evaluation | None = None,
    *,
    expected: Sequence[TokenLengths] | None = None,
) -> SearchSpace:
    """Build the search space of a task.

    With costs in units, the limit is the task's `max_units`, or by default one pass of every subtask's largest model
    (as in AgentTTS). Other costs have the limits that the task gives; that in units needs every model's size. They are
    those of the task's token lengths, or of the baseline's, until `with_measured_costs` has trials of a model. The unit
    is that of `with_fitting_unit`.

    Args:
        task: The task.
        specs: Catalogue entries of its models, by name.
        measured: The baseline's evaluation; needed if `needs_measuring(task)`.
        expected: The token lengths of each subtask, in place of measured ones.

    Raises:
        TaskError: The baseline is above the limit in units, a choice would cost 0 units or less by the lengths that the
            task gives, the catalogue lacks what the costs need, or token lengths are neither given nor measured.
        NothingEvaluated: Token lengths could not be measured, because a call or the parsing of a response before the
            subtask failed on every row.
    """
    check_costs(task, specs)
    measure = cost_measure(task, specs)
    lengths = expected or [s.tokens or measured_lengths(s, task, measured, measure) for s in task.subtasks]
    given = task
    if measure == "units" and needs_measuring(task):
        task = fitted_to(task, specs, lengths)
    each = zip(task.subtasks, lengths, strict=True)
    subtasks = tuple(_subtask_space(s, own, task, specs, measure) for s, own in each)
    limit = None if _unknown(_models(task, specs), "units") else task.max_units
    if measure == "units" and limit is None:
        limit = sum(s.cost.units(s.largest_model, 1) for s in subtasks)
    space = SearchSpace(subtasks, limit, measure, task.max_usd, task.max_seconds)
    if space.max_units is not None and (cost := space.cost(space.baseline, "units")) > space.max_units + 1e-9:
        own_limit = space.max_units
        if given.max_units is not None:  # in the unit that its author knows
            own_limit, cost = given.max_units, in_unit(cost, task.unit, given.unit, len(subtasks))
        raise TaskError(
            f"the baseline must cost at most max_units = {own_limit:g} units per example, but costs {cost:g}",
            where=f"task {task.name}: {_key(task, 'cost.max_units', 'max_units')}",
            remedy="raise it, or put a smaller model first",
        )
    return space


def with_fitting_unit(task: Task, specs: Mapping[str, ModelSpec], measured: Evaluation | None) -> Task:
    """The task with a unit in which every pass costs more than 0, if its token lengths have to be measured.

    Args:
        task: The task.
        specs: Catalogue entries of its models, by name.
        measured: The baseline's evaluation; needed if `needs_measuring(task)`.

    Raises:
        TaskError: Token lengths are not measured, or the catalogue lacks what the costs need.
        NothingEvaluated: They could not be, because something failed on every row.
    """
    check_costs(task, specs)
    if cost_measure(task, specs) != "units" or not needs_measuring(task):
        return task
    return fitted_to(task, specs, [s.tokens or measured_lengths(s, task, measured, "units") for s in task.subtasks])


def fitted_to(task: Task, specs: Mapping[str, ModelSpec], lengths: Sequence[TokenLengths]) -> Task:
    """The task with another unit, if a pass of these lengths costs 0 or less.

    The formula is affine, and a pass far smaller than the unit's prompt has a negative cost. The unit is then the
    cheapest of all passes, so that each costs at least one unit, and a limit in units allows the same candidates.

    Args:
        task: The task, whose models all have a parameter count.
        specs: Catalogue entries of its models, by name.
        lengths: The token lengths of each subtask.
    """
    passes = []
    for s, own in zip(task.subtasks, lengths, strict=True):
        size = min(specs[model].parameters or 0.0 for model in s.models)
        passes.append((units(size, own.prompt, own.completion, s.num_samples[0], unit=task.unit), size, own))
    cost, size, least = min(passes, key=lambda found: found[0])
    if cost > 0:
        return task
    unit, limit = Unit(size, least.prompt, least.completion), task.max_units
    if limit is not None:
        limit = max(in_unit(limit, task.unit, unit, len(task.subtasks)), 1e-9)
    return replace(task, unit=unit, max_units=limit)


def in_unit(cost: float, before: Unit, after: Unit, subtasks: int) -> float:
    """A cost of an example in another unit.

    Args:
        cost: The cost in the unit `before`.
        before: The unit of `cost`.
        after: The unit of the returned cost.
        subtasks: Number of subtasks; the cost of each has the unit's prompt subtracted.
    """
    work = before.parameters * (cost * before.completion_tokens + subtasks * before.prompt_tokens)
    return (work / after.parameters - subtasks * after.prompt_tokens) / after.completion_tokens


def unit_note(before: Task, after: Task) -> str | None:
    """A remark on a unit that `with_fitting_unit` has replaced; None if it has not."""
    if after.unit == before.unit:
        return None
    unit = after.unit
    return (
        "the task's unit is too large: a pass of the smallest model would cost 0 units or less. One unit is now a pass "
        f"of {unit.parameters / 1e6:.4g}M parameters over {unit.prompt_tokens:.0f} prompt and "
        f"{unit.completion_tokens:.0f} completion tokens; for another one, set {_key(before, 'cost.unit', 'unit')}"
    )


def unlimited_space(task: Task, specs: Mapping[str, ModelSpec]) -> SearchSpace:
    """Build the search space without a cost limit, for the dry run before token lengths are known.

    Its costs have no meaning.
    """
    alike = replace(task, unit=Unit(1, 1, 1))
    measure = cost_measure(task, specs)
    lengths = TokenLengths(1, 1)
    return SearchSpace(
        tuple(_subtask_space(s, lengths, alike, specs, measure) for s in alike.subtasks), measure=measure
    )


def _subtask_space(
    subtask: Subtask, lengths: TokenLengths, task: Task, specs: Mapping[str, ModelSpec], measure: CostMeasure
) -> SubtaskSpace:
    models = {model: specs[model] for model in subtask.models}
    sizes = {model: spec.parameters for model, spec in models.items() if spec.parameters is not None}
    is_priced = all(spec.is_priced for spec in models.values())
    cost = SubtaskCost(
        lengths.prompt,
        lengths.completion,
        sizes if len(sizes) == len(models) else {},
        task.unit,
        {model: spec.prices for model, spec in models.items()} if is_priced else None,
        measure,
        {model: choices_per_request(spec) for model, spec in models.items()},
    )
    if measure == "units":
        _check_positive(subtask, task, cost)
    return SubtaskSpace(
        subtask.name,
        subtask.models,
        subtask.num_samples,
        subtask.system_prompt,
        cost,
        subtask.description,
        tuple(task.reads[subtask.name]),
        subtask.settings,
        _lacking(subtask, specs),
        subtask.cascade.big if subtask.cascade else "",
        subtask.fusion.options.get("stop") is not None,
    )


def _lacking(subtask: Subtask, specs: Mapping[str, ModelSpec]) -> dict[str, tuple[str, ...]]:
    """Model -> the settings that do not apply to it. Raises `TaskError` if one applies to none of the models."""
    takers = {
        "temperature": [model for model in subtask.models if specs[model].supports.temperature is not False],
        "effort": [model for model in subtask.models if specs[model].has_effort],
        CASCADE: [subtask.cascade.small] if subtask.cascade else [],
    }
    for name in [axis.name for axis in subtask.settings] + (["effort"] if subtask.effort else []):
        if not takers.get(name, subtask.models):
            rule = f"`{name}` must apply to one of the models, but none of {in_words(list(subtask.models))} has it"
            remedy = f"remove it, or set {name if name != 'effort' else 'reasoning_effort'} in a catalogue entry"
            raise TaskError(rule, where=f"subtask {subtask.name}", remedy=remedy)
    found = {
        model: tuple(a.name for a in subtask.settings if model not in takers.get(a.name, subtask.models))
        for model in subtask.models
    }
    return {model: names for model, names in found.items() if names}


def _check_positive(subtask: Subtask, task: Task, cost: SubtaskCost) -> None:
    """Reject costs of 0 or less: the formula is affine, so a short pass may cost less than a large unit's prompt."""
    smallest = min(subtask.models, key=lambda model: cost.parameters[model])
    if (least := cost.units(smallest, subtask.num_samples[0])) <= 0:
        size, prompt, completion = cost.parameters[smallest], cost.prompt_tokens, cost.completion_tokens
        raise TaskError(
            f"every pass must cost more than 0 units, but {smallest} costs {least:.3g}",
            where=f"subtask {subtask.name}",
            remedy=f"set {_key(task, 'cost.unit', 'unit')} to a pass of the size of the task's smallest, such as "
            + _key(
                task,
                f"{{parameters: {size:g}, prompt_tokens: {prompt:.0f}, completion_tokens: {completion:.0f}}}",
                f"agentopt.Unit(parameters={size:g}, prompt_tokens={prompt:.0f}, completion_tokens={completion:.0f})",
            ),
        )


def _why_never_called(subtask: Subtask, measured: Evaluation) -> NothingEvaluated | None:
    """The exception for a subtask that was never called because of failed calls, or responses, before it."""
    kept = "start a new run, because a run keeps its task; answers that were paid for are kept"
    failures = Counter(failure.kind for failure in measured.failures.values())
    if unscored := measured.why_unscored:
        return NothingEvaluated(
            StopReason(StopKind.FAILED, detail=unscored), failures, remedy=f"fix the cause, then {kept}"
        )
    reasons = [each for result in measured.results for each in result.unparsed.items()]
    if not reasons:
        return None
    name, first = reasons[0]
    count, rows = sum(other == name for other, _ in reasons), counted(len(measured.results), "row")
    cause = (
        f"no response of `{name}` could be parsed on {'any' if count == len(measured.results) else count} of {rows}, "
        f"so `{subtask.name}` was never called; the first: {first}"
    )
    remedy = f"correct the prompt or the parser of `{name}`, or put a stronger model first in its `models`; then {kept}"
    return NothingEvaluated(StopReason(StopKind.FAILED, detail=cause), failures, remedy=remedy)


def measured_lengths(subtask: Subtask, task: Task, measured: Evaluation | None, measure: CostMeasure) -> TokenLengths:
    """Mean tokens of the prompt and of one response, over the examples that called the subtask.

    Unless costs are in units, without the thoughts: another model may have none.

    Args:
        subtask: One of the task's subtasks.
        task: The task.
        measured: The baseline's evaluation.
        measure: The measure of the costs.

    Raises:
        NothingEvaluated: Something failed before the subtask on every row.
        TaskError: No example reached the subtask.
    """
    uses = [r.subtasks[subtask.name] for r in (measured.results if measured else ()) if subtask.name in r.subtasks]
    if not uses:
        if measured and (cause := _why_never_called(subtask, measured)):
            raise cause
        raise TaskError(
            "token lengths must be given or measurable, but no example reached this subtask",
            where=f"subtask {subtask.name}",
            remedy=f"add {_key(task, 'tokens: {prompt: ..., completion: ...}', 'tokens=TokenLengths(...)')}",
        )
    samples = subtask.num_samples[0]
    prompt = sum(use.prompt_tokens for use in uses) / len(uses)
    thoughts = 0 if measure == "units" else sum(use.reasoning_tokens for use in uses)
    completion = (sum(use.completion_tokens for use in uses) - thoughts) / len(uses) / samples
    return TokenLengths(prompt, max(completion, 1.0))
