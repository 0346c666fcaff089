"""The types that the parts of a workflow share: prompts, draws, answers and results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from agentopt.core.axes import SettingValue
from agentopt.core.records import Answer, SubtaskUse
from agentopt.core.task import Example, Subtask, Value
from agentopt.models.base import Message
from agentopt.workflow.payments import Payment

Prompt = str | tuple[Message, ...]
"""The input of a subtask's model: a rendered user message, or the whole conversation that a program sent."""

MAX_REPEATS = 1000
"""Independent repeats of one prompt. A program that sends the same prompt again receives the repeats after these."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Which samples are drawn. Another seed or repeat index draws other responses to the same prompt.

    Attributes:
        seed: Part of every request, and so of its cache key.
        repeat: Index of the independent repeat, from 0 to `MAX_REPEATS - 1`.
        subtasks: The subtasks that `repeat` applies to; the others use repeat 0. None: all subtasks.
    """

    seed: int = 0
    repeat: int = 0
    subtasks: frozenset[str] | None = None

    def of(self, subtask: str, occurrence: int = 0) -> Draw:
        """The draw of one subtask's call.

        Args:
            subtask: The subtask's name.
            occurrence: How often the same run has sent the same prompt before.
        """
        repeat = self.repeat if self.subtasks is None or subtask in self.subtasks else 0
        return Draw(self.seed, repeat + MAX_REPEATS * occurrence)


FIRST_DRAW = Draw()
"""Repeat 0 with seed 0."""


@dataclass(frozen=True, slots=True)
class SubtaskAnswer:
    """One answered subtask call.

    Attributes:
        subtask: The subtask's name.
        model: The model that drew the samples.
        user_message: The last message of the prompt.
        answer: The fused value and its use.
        seconds: Wall-clock time from the call to the answer.
        payments: What each response cost, those of a cascade's big model and of a fusion's model included.
    """

    subtask: str
    model: str
    user_message: str
    answer: Answer
    seconds: float
    payments: tuple[Payment, ...]


OnAnswer = Callable[[SubtaskAnswer], None]
"""Callback that receives every answered subtask call of a workflow."""


class CallSubtask(Protocol):
    """Answers one call of a subtask on the current example."""

    async def __call__(self, subtask: Subtask, prompt: Prompt, /, *, occurrence: int = 0) -> Answer:
        """Answer the call.

        Args:
            subtask: The subtask, with the settings of this call.
            prompt: The user message, or the conversation.
            occurrence: How often the same run has sent the same prompt before.
        """


@dataclass(frozen=True, slots=True)
class WorkflowResult:
    """The result of a workflow on one example.

    Attributes:
        outputs: Subtask name to value, in the task's order; None if no response was parsable or the subtask was not
            called.
        output: The workflow's output; None if it is missing.
        uses: Subtask name to use, of the called subtasks only.
        note: Why a value is missing.
        seconds: Latency of its model calls along the critical path; None if that of a call is not known.
        unparsed: Subtask name to the reason why none of its responses was parsable.
    """

    outputs: Mapping[str, Value | None]
    output: Value | None
    uses: Mapping[str, SubtaskUse] = field(default_factory=dict)
    note: str = ""
    seconds: float | None = None
    unparsed: Mapping[str, str] = field(default_factory=dict)

    @property
    def answer(self) -> Answer:
        """The output as one answer, with the use of all subtasks."""
        return Answer(self.output, sum(self.uses.values(), SubtaskUse()), self.note)


Knobs = Mapping[str, Mapping[str, SettingValue]]
"""Subtask -> knob -> value."""

NO_KNOBS: Knobs = {}


class WorkflowRunner(Protocol):
    """Runs a workflow on an example: the declared subtasks, or a program."""

    async def run(self, example: Example, call: CallSubtask, knobs: Knobs = NO_KNOBS) -> WorkflowResult:
        """Run one example. What `call` raises is raised as it is.

        Args:
            example: The example.
            call: Answers the calls of subtasks.
            knobs: The knobs of the candidate.
        """
