"""One example through the DAG of subtasks. Owns the order of asking and what a missing value means."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from agentopt.core.errors import AgentoptError, BudgetExceeded, ScorerError, TaskError
from agentopt.core.records import Answer, SubtaskUse
from agentopt.core.task import ContextFunction, Example, Program, Subtask, Task, Value
from agentopt.models.base import Message
from agentopt.workflow.templates import CONTEXT, RESERVED

Prompt = str | tuple[Message, ...]
"""What a subtask is asked: a rendered user message, or the whole conversation that a program sent."""

Ask = Callable[[Subtask, str, Example], Awaitable[Answer]]
"""Answers one subtask on one example, given the rendered user message."""


@dataclass(frozen=True, slots=True)
class WorkflowResult:
    """One example's way through the workflow, by subtask in the task's order.

    `outputs` has None where nothing was parsable or the subtask was not asked; `uses` has only the subtasks that
    were asked. `note` says why a value is missing.
    """

    outputs: Mapping[str, Value | None]
    output: Value | None
    uses: Mapping[str, SubtaskUse] = field(default_factory=dict)
    note: str = ""


async def run_workflow(task: Task, example: Example, ask: Ask) -> WorkflowResult:
    """Run one example. Subtasks that do not read each other are asked at the same time.

    A subtask that reads a missing value is not asked, and its own value is missing. The first failure cancels what
    is still running and is raised as it is; a prompt that cannot be rendered is a `ScorerError`.
    """
    running: dict[str, asyncio.Task[Answer | None]] = {}

    async def answer(subtask: Subtask) -> Answer | None:
        outputs: dict[str, Value] = {}
        for name in subtask.reads:
            read = await running[name]
            if read is None or read.value is None:
                return None
            outputs[name] = read.value
        return await ask(subtask, await _prompt(subtask, example, outputs), example)

    try:
        async with asyncio.TaskGroup() as group:
            for subtask in task.subtasks:
                running[subtask.name] = group.create_task(answer(subtask))
    except BaseExceptionGroup as failures:
        # A cap ends the run, whatever else went wrong beside it.
        failure = next((f for f in failures.exceptions if isinstance(f, BudgetExceeded)), failures.exceptions[0])
    else:
        return _result(task, {name: done.result() for name, done in running.items()})
    # Outside the handler, so that the failure keeps its own cause instead of the group.
    raise failure


def _result(task: Task, answers: Mapping[str, Answer | None]) -> WorkflowResult:
    asked = {name: answer for name, answer in answers.items() if answer is not None}
    outputs = {name: answer.value if answer else None for name, answer in answers.items()}
    return WorkflowResult(
        outputs,
        outputs[task.output_subtask],
        {name: answer.use for name, answer in asked.items()},
        "; ".join(answer.note for answer in asked.values() if answer.note),
    )


async def _prompt(subtask: Subtask, example: Example, outputs: Mapping[str, Value]) -> str:
    try:
        if subtask.context is not None:
            outputs = {**outputs, CONTEXT: await _call(subtask.context, example.inputs, outputs)}
        return subtask.render(example.inputs, outputs)
    except AgentoptError as error:
        message = error.message if isinstance(error, TaskError) else str(error)
        raise ScorerError(f"the prompt of {subtask.name} on example {example.id}: {message}") from error
    except Exception as error:  # `context` and `render` may be a user's functions, which may raise anything
        problem = f"{type(error).__name__}: {error}"
        raise ScorerError(f"the prompt of {subtask.name} on example {example.id} failed: {problem}") from error


async def _call(function: ContextFunction, inputs: Mapping[str, Any], outputs: Mapping[str, Value]) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(inputs, outputs)
    result = await asyncio.to_thread(function, inputs, outputs)
    return await result if inspect.isawaitable(result) else result  # an object with an async `__call__`


def check_task(task: Task) -> None:
    """Raise `TaskError` for a task that cannot run: the rules that also hold for tasks built in Python."""
    where = f"task {task.name}"
    check_names([s.name for s in task.subtasks], where)
    seen: set[str] = set()
    for subtask in task.subtasks:
        _check_subtask(subtask, seen, where)
        seen.add(subtask.name)
    if task.output_subtask not in seen:
        known = ", ".join(sorted(seen))
        raise TaskError(f"`output` must name a subtask, but got {task.output!r}", where=where, remedy=f"known: {known}")
    check_metrics({name: metric.subtask for name, metric in task.metrics.items()}, seen, f"{where}, metrics")
    if task.program:
        _check_program(task.program, where)
    for split, examples in task.splits.items():
        _check_examples(examples, f"{where}, {split} split")


def check_names(names: Iterable[str], where: str) -> None:
    """Raise `TaskError` unless the subtasks' names are identifiers, none reserved, none twice, and at least one."""
    seen: set[str] = set()
    for name in names:
        if not name.isidentifier():
            rule = f"a subtask's name must be a word that templates can use, but got {name!r}"
            raise TaskError(rule, where=where, remedy="use letters, digits and _, and start with a letter")
        if name in RESERVED:
            raise TaskError(f"`{name}` is {RESERVED[name]}", where=where, remedy="rename the subtask")
        if name in seen:
            raise TaskError(f"two subtasks are called {name!r}", where=where, remedy="rename one of them")
        seen.add(name)
    if not seen:
        raise TaskError("a task needs at least one subtask", where=where, remedy="add one under `subtasks`")


def check_metrics(judged: Mapping[str, str], names: Iterable[str], where: str) -> None:
    """Raise `TaskError` unless the subtask that each metric judges is one of `names`."""
    known = sorted(names)
    for metric, name in judged.items():
        if name not in known:
            rule = f"a metric must name a subtask, but got {name!r}"
            raise TaskError(rule, where=f"{where}.{metric}.subtask", remedy=f"known: {', '.join(known)}")


def _check_program(program: Program, where: str) -> None:
    if bool(program.command) == bool(program.function):
        rule = "a program must be either a command or a function"
        raise TaskError(rule, where=f"{where}, program", remedy="give one of the two")
    if program.timeout <= 0 or program.concurrency < 1:
        rule = f"a program needs time and at least one place, but got {program.timeout:g} s, {program.concurrency}"
        raise TaskError(rule, where=f"{where}, program", remedy="make `timeout` and `concurrency` positive")


def _check_subtask(subtask: Subtask, earlier: set[str], where: str) -> None:
    where = f"{where}, subtask {subtask.name}"
    if late := sorted(set(subtask.reads) - earlier):
        rule = f"`reads` must name earlier subtasks, but got {', '.join(late)}"
        raise TaskError(rule, where=where, remedy="order the subtasks so that each comes after all it reads")
    if subtask.context and CONTEXT in subtask.reads:
        rule = f"`{CONTEXT}` must be either a subtask or the result of the context function, but got both"
        raise TaskError(rule, where=where, remedy=f"rename the subtask `{CONTEXT}`")
    if not subtask.models or len(set(subtask.models)) != len(subtask.models):
        rule = f"`models` must be given, none twice, but got {list(subtask.models)}"
        raise TaskError(rule, where=where, remedy="list each model's catalogue name once")
    counts = subtask.num_samples
    if not counts or counts[0] < 1 or any(a >= b for a, b in pairwise(counts)):
        rule = f"`num_samples` must be positive and ascending, but got {list(counts)}"
        raise TaskError(rule, where=where, remedy="write them like (1, 2, 3, 5, 8)")


def _check_examples(examples: tuple[Example, ...], where: str) -> None:
    if not examples:
        raise TaskError("there are no examples", where=where, remedy="add examples, or leave the split out")
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise TaskError(f"two examples have the id {example.id!r}", where=where, remedy="give each its own id")
        seen.add(example.id)
