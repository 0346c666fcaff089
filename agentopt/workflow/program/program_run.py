"""State of one program run on one example: its calls, their token use and their failures."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from agentopt.core.errors import AgentoptError, ApiError, BudgetExceeded, ScorerError
from agentopt.core.records import Answer, SubtaskUse
from agentopt.core.task import Example, Subtask, Task, Value
from agentopt.models.openai_completion import Completion
from agentopt.models.openai_format import ChatCall, from_failure, no_such_model
from agentopt.workflow.base import CallSubtask
from agentopt.workflow.chat_calls import completion_of, subtasks_by_model, with_settings
from agentopt.workflow.tool_calls import CalledTools

GRACE_SECONDS = 2.0
"""Seconds that a program may continue after one of its calls failed permanently."""


class ProgramRun:
    """A program's run on one example.

    Args:
        task: The task whose subtasks the program calls.
        example: The example that the program runs on.
        call_subtask: Answers the calls.
        clock: Seconds.

    Attributes:
        outputs: Subtask name to the value of its last call that was answered with a text.
        uses: Subtask name to the use of all its calls.
        failure: The first failure of a call; a reached cap replaces any other.
        unusable: Why a call had no usable response; empty if none was without.
        refused: Why a call was refused; empty if none was.
    """

    def __init__(
        self, task: Task, example: Example, call_subtask: CallSubtask, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.example = example
        self.outputs: dict[str, Value | None] = dict.fromkeys(s.name for s in task.subtasks)
        self.uses: dict[str, SubtaskUse] = {}
        self.failure: Exception | None = None
        self.unusable = self.refused = ""
        self._subtasks: Mapping[str, Subtask] = subtasks_by_model(task)
        self._call_subtask = call_subtask
        self._occurrences: Counter[object] = Counter()
        self._clock, self._time = clock, _OwnTime(clock)
        self._failed_at = 0.0

    @property
    def models(self) -> list[str]:
        """The model names that the program may use."""
        return list(self._subtasks)

    @property
    def no_calls(self) -> str:
        """The note of a run in which no subtask was called."""
        note = "the program called none of its subtasks"
        return f"{note}: a call was refused, because {self.refused}" if self.refused else note

    def begin(self) -> None:
        """Start counting the program's time."""
        self._time = _OwnTime(self._clock)

    def seconds_left(self, timeout: float) -> float:
        """Return the rest of `timeout` seconds, not counting time in calls; after a failure at most a grace period."""
        most = min(timeout, self._failed_at + GRACE_SECONDS) if self.failure else timeout
        return most - self._time.seconds

    async def answer(self, call: ChatCall) -> Completion:
        """Answer one call.

        Raises:
            ApiError: If the call is refused or failed; `failure` or `unusable` may be set then.
        """
        if call.model not in self._subtasks:
            refusal = no_such_model(call.model, self._subtasks)
            problem = f"the program called a subtask that does not exist: {refusal.message}"
            remedy = f"map the name to a subtask by the `models` of the program: {{{call.model}: SUBTASK}}"
            self._fail(ScorerError(f"{problem}; remedy: {remedy}"))
            raise refusal
        subtask = with_settings(self._subtasks[call.model], call)
        occurrences = [self._occurrence(subtask, call) for _ in range(call.n)]
        with self._time.in_call():
            answers = await self._answers(subtask, call, occurrences)
        try:
            return completion_of(call, answers)
        except ApiError as error:
            self.unusable = error.message
            raise

    async def _answers(self, subtask: Subtask, call: ChatCall, occurrences: list[int]) -> list[Answer]:
        calls = (self._call_subtask(subtask, call.messages, occurrence=number) for number in occurrences)
        answers = []
        try:
            if isinstance(self.failure, BudgetExceeded):
                raise self.failure
            answers = await asyncio.gather(*calls)
        except Exception as failure:  # any failure: `ProgramRunner.run` raises it again
            self._fail(failure)
            known = failure if isinstance(failure, AgentoptError) else AgentoptError(repr(failure))
            raise from_failure(known) from failure
        for answer in answers:
            if not isinstance(answer.value, CalledTools):
                self.outputs[subtask.name] = answer.value
        self._count([answer.use for answer in answers], subtask.name)
        return answers

    def _count(self, uses: list[SubtaskUse], subtask: str) -> None:
        """Add the use of concurrent calls: their latency is that of the slowest."""
        before, slowest = self.uses.get(subtask, SubtaskUse()), max(use.seconds for use in uses)
        self.uses[subtask] = replace(sum(uses, before), seconds=before.seconds + slowest)

    def _fail(self, failure: Exception) -> None:
        if self.failure is None:
            self._failed_at = self._time.seconds
        if self.failure is None or isinstance(failure, BudgetExceeded):
            self.failure = failure

    def _occurrence(self, subtask: Subtask, call: ChatCall) -> int:
        """How often this run has made the same call before; each occurrence draws new responses."""
        settings = (subtask.max_tokens, subtask.temperature, subtask.top_p, subtask.stop, subtask.json_schema)
        tools = (subtask.tools, subtask.tool_choice, subtask.parallel_tool_calls)
        key = (subtask.name, call.messages, settings, tools)
        self._occurrences[key] += 1
        return self._occurrences[key] - 1


class _OwnTime:
    """Measures the time in which no call is in progress: waiting for an answer does not count."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._calls, self._before, self._since = clock, 0, 0.0, clock()

    @property
    def seconds(self) -> float:
        return self._before + (0.0 if self._calls else self._clock() - self._since)

    @contextmanager
    def in_call(self) -> Iterator[None]:
        self._before = self.seconds
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            self._since = self._clock()
