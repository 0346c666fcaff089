"""A task's workflow: one example through the declared subtasks, or through the task's program."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from agentopt.core.axes import KNOBS, SettingValue, escalating
from agentopt.core.candidate import Candidate
from agentopt.core.errors import BudgetExceeded, ScorerError, TaskError, UnreadOutputError
from agentopt.core.records import Answer, latency
from agentopt.core.spans import current_span, span, within
from agentopt.core.task import ContextFunction, Example, Subtask, Task, Value
from agentopt.core.task_rules import CONTEXT
from agentopt.core.user_functions import located, name_of, reporting
from agentopt.models.base import ChatModel
from agentopt.models.catalog import ModelSpec
from agentopt.models.live_text import only_live_if
from agentopt.models.redaction import secrets_of
from agentopt.workflow.base import (
    NO_KNOBS,
    CallSubtask,
    Draw,
    Knobs,
    OnAnswer,
    Prompt,
    SubtaskAnswer,
    WorkflowResult,
    WorkflowRunner,
)
from agentopt.workflow.parsers import shown, whole_text
from agentopt.workflow.payments import KeptResponses, payment
from agentopt.workflow.program.program_runner import ProgramRunner
from agentopt.workflow.sampling import SubtaskSampler, configured
from agentopt.workflow.templates import Record


class Workflow:
    """A task's workflow, ready to run with any candidate.

    Args:
        task: The task; if it has a program, the program is the workflow.
        model: The client that all calls go through.
        specs: Model name to spec, for prices and limits.
        clock: Seconds, for the time that a call took.

    Attributes:
        calls: The number of subtask calls so far, whether they were answered or failed.
    """

    def __init__(
        self,
        task: Task,
        model: ChatModel,
        specs: Mapping[str, ModelSpec],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.calls = 0
        self._clock = clock
        self._sampler = SubtaskSampler(model, specs, task.unit)
        self._subtasks = task.subtasks
        self._runner: WorkflowRunner = SubtaskGraph(task)
        if task.program:
            self._runner = ProgramRunner(task, task.program, secrets=secrets_of(specs.values()))

    async def run(
        self, candidate: Candidate, example: Example, draw: Draw, *, on_answer: OnAnswer = lambda _: None
    ) -> WorkflowResult:
        """Run one example.

        Args:
            candidate: The model, sample count and system prompt of every subtask.
            example: The example; only its inputs are read.
            draw: Which samples are drawn.
            on_answer: Called after each answered subtask call.

        Raises:
            ModelError: If a call failed permanently.
            BudgetExceeded: If a cap was reached.
            ScorerError: If the program or a function of the task failed.
        """

        parent = current_span()

        async def call(subtask: Subtask, prompt: Prompt, /, *, occurrence: int = 0) -> Answer:
            drawn = draw.of(subtask.name, occurrence)
            # A program's calls arrive in tasks of the gateway.
            with within(parent), span(subtask.name, dict), located(f"example {example.id}"):
                return await self.answer(candidate, subtask, prompt, drawn, inputs=example.inputs, on_answer=on_answer)

        knobs = {s.name: configured(s, candidate[s.name]).knobs for s in self._subtasks}
        return await self._runner.run(example, call, knobs)

    async def answer(
        self,
        candidate: Candidate,
        subtask: Subtask,
        prompt: Prompt,
        draw: Draw,
        *,
        inputs: Mapping[str, Any],
        on_answer: OnAnswer = lambda _: None,
    ) -> Answer:
        """Call one subtask.

        Args:
            candidate: As for `run`.
            subtask: The subtask, with the settings of this call.
            prompt: The user message, or the conversation.
            draw: Which samples are drawn.
            inputs: The example's inputs, which the judge of `best_of` reads.
            on_answer: Called with the answer.

        Raises:
            ModelError: If a call failed permanently.
            BudgetExceeded: If a cap was reached.
            ScorerError: If the subtask's parser or fusion failed.
        """
        self.calls += 1
        choice, started, kept = candidate[subtask.name], self._clock(), KeptResponses(self._sampler.model)
        # Text that is parsed, fused, voted on or checked is known only at the end.
        live = choice.num_samples == 1 and subtask.parse in (str.strip, whole_text) and not escalating(subtask, choice)
        with only_live_if(live), located(f"subtask {subtask.name}"):
            answer = await replace(self._sampler, model=kept).answer(subtask, choice, prompt, inputs, draw)
        message = prompt if isinstance(prompt, str) else prompt[-1].content
        seconds = self._clock() - started
        payments = tuple(payment(self._sampler.specs[name], response) for name, response in kept.responses)
        on_answer(SubtaskAnswer(subtask.name, choice.model, message, answer, seconds, payments))
        return answer


class _Outputs(dict[str, Value]):
    """The outputs that a subtask reads. A missing one is reported with the remedy."""

    def __missing__(self, name: object) -> Value:
        known = f"has {', '.join(self)}" if self else "is empty"
        raise UnreadOutputError(
            f"the output of {name!r} was read, but the subtask's `reads` {known}; remedy: add it to `reads`"
        )


class SubtaskGraph:
    """The workflow of a task that declares its subtasks: a directed acyclic graph."""

    def __init__(self, task: Task) -> None:
        self._task = task

    async def run(self, example: Example, call: CallSubtask, knobs: Knobs = NO_KNOBS) -> WorkflowResult:
        """Run one example. Subtasks that do not read each other are called concurrently.

        A subtask that reads a missing value is not called, and its value is missing too. The first failure cancels
        the running calls and is raised unchanged.

        Args:
            example: The example.
            call: Answers the calls of subtasks.
            knobs: What prompts read as `knobs`; those of the task for a subtask without an entry.

        Raises:
            ScorerError: If a prompt cannot be rendered.
        """
        running: dict[str, asyncio.Task[Answer | None]] = {}

        async def answer(subtask: Subtask) -> Answer | None:
            outputs: dict[str, Value] = {}
            for name in subtask.reads:
                read = await running[name]
                if read is None or read.value is None:
                    return None
                outputs[name] = read.value
            prompt = await _prompt(subtask, example, _Outputs(outputs), knobs.get(subtask.name, subtask.knobs))
            return await call(subtask, prompt)

        try:
            async with asyncio.TaskGroup() as group:
                for subtask in self._task.subtasks:
                    running[subtask.name] = group.create_task(answer(subtask))
        except BaseExceptionGroup as failures:
            # A cap ends the run, whatever else failed at the same time.
            failure = next((f for f in failures.exceptions if isinstance(f, BudgetExceeded)), failures.exceptions[0])
        else:
            return _result(self._task, {name: done.result() for name, done in running.items()})
        # Outside the handler, so that the failure keeps its cause instead of the group.
        raise failure


def _result(task: Task, answers: Mapping[str, Answer | None]) -> WorkflowResult:
    called = {name: answer for name, answer in answers.items() if answer is not None}
    outputs = {name: answer.value if answer else None for name, answer in answers.items()}
    return WorkflowResult(
        outputs,
        outputs[task.output_subtask],
        {name: answer.use for name, answer in called.items()},
        "; ".join(answer.note for answer in called.values() if answer.note),
        latency({name: answer.use for name, answer in called.items()}, task.reads),
        {name: answer.note for name, answer in called.items() if answer.note},
    )


async def _prompt(
    subtask: Subtask, example: Example, outputs: Mapping[str, Value], knobs: Mapping[str, SettingValue]
) -> str:
    place = f"the prompt of {subtask.name} on example {example.id}"
    if knobs:
        outputs = _Outputs({**outputs, KNOBS: Record(knobs)})
    try:
        if subtask.context is not None:
            with reporting(f"{place}: the context function `{name_of(subtask.context)}` failed"):
                outputs = _Outputs({**outputs, CONTEXT: await _call(subtask.context, example.inputs, outputs)})
        with reporting(f"{place}: `{name_of(subtask.render)}` failed"):
            prompt = subtask.render(example.inputs, outputs)
    except UnreadOutputError as error:
        raise ScorerError(f"{place}: {error}") from error
    except TaskError as error:  # of a template; its remedy is for the time of loading
        raise ScorerError(f"{place}: {error.message}") from error
    if not isinstance(prompt, str):
        raise ScorerError(f"{place}: `{name_of(subtask.render)}` must return a string, but got {shown(prompt)}")
    return prompt


async def _call(function: ContextFunction, inputs: Mapping[str, Any], outputs: Mapping[str, Value]) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(inputs, outputs)
    result = await asyncio.to_thread(function, inputs, outputs)
    return await result if inspect.isawaitable(result) else result  # an object with an async `__call__`
