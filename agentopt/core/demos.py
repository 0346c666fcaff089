"""Demonstrations: right answers to train examples, which a subtask's model is shown before its own input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, Protocol, get_args

from agentopt.core.errors import TaskError
from agentopt.core.yaml_models import shown

DemosAs = Literal["messages", "prompt"]
"""Pairs of a user and an assistant message before the input, or text that follows the system prompt."""

DemosFrom = Literal["responses", "targets", "both"]
"""Right responses of the baseline, targets, or the response if it is right and else the target."""


@dataclass(frozen=True, slots=True)
class Demo:
    """One demonstration.

    Attributes:
        prompt: The user message of a train example.
        response: A response to it whose score was high enough, or its target.
        example: Id of the train example; None if it is not known. Two demonstrations are equal whatever it is.
    """

    prompt: str
    response: str
    example: str | None = field(default=None, compare=False)

    def to_dict(self) -> dict[str, str]:
        """The demonstration as plain data; without `example` if that is not known."""
        example = {} if self.example is None else {"example": self.example}
        return {"prompt": self.prompt, "response": self.response, **example}


@dataclass(frozen=True, slots=True)
class Demos:
    """How many demonstrations the search tries, and which ones.

    Train examples are tried in a seeded order, and the first ones that have a right answer are the demonstrations.
    Fewer are the first of more.

    Attributes:
        count: Numbers of demonstrations to try, ascending; the first is 0, the baseline's.
        shown_as: How a model is shown them.
        min_score: Least score of the whole workflow on an example that counts as right.
        source: Where right answers are taken from: the baseline's `responses`, the `targets`, or `both`, which is the
            response if it is right and the target otherwise. Targets serve a subtask whose answer is the workflow's
            output and that reads no other subtask; the others have responses.

    Raises:
        TaskError: A value breaks a rule.
    """

    count: tuple[int, ...]
    shown_as: DemosAs = "messages"
    min_score: float = 1.0
    source: DemosFrom = "both"

    def __post_init__(self) -> None:
        counts = tuple(self.count) if isinstance(self.count, list | tuple) else ()
        object.__setattr__(self, "count", counts)
        whole = all(type(count) is int for count in counts)
        if not whole or len(counts) < 2 or counts[0] != 0 or any(a >= b for a, b in pairwise(counts)):
            rule = f"`count` must be ascending and start with 0, the baseline's, but got {shown(list(counts))}"
            raise TaskError(rule, where="demos", remedy="write it like [0, 2, 4]")
        if self.shown_as not in get_args(DemosAs):
            rule = f"`shown_as` must be messages or prompt, but got {shown(self.shown_as)}"
            raise TaskError(rule, where="demos", remedy='write shown_as="messages"')
        if not isinstance(self.min_score, int | float) or isinstance(self.min_score, bool):
            rule = f"`min_score` must be a number, but got {shown(self.min_score)}"
            raise TaskError(rule, where="demos", remedy="write min_score=1.0")
        if self.source not in get_args(DemosFrom):
            rule = f"`source` must be responses, targets or both, but got {shown(self.source)}"
            raise TaskError(rule, where="demos", remedy='write source="both"')


class _Subtask(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def reads(self) -> tuple[str, ...]: ...
    @property
    def demos(self) -> Demos | None: ...


def shows_targets(subtask: _Subtask, output: str) -> bool:
    """Whether targets may be demonstrations of a subtask: its answer to the inputs alone is the workflow's output.

    The prompt of a subtask that reads another one depends on an answer that may be wrong, to which the target is no
    right response.

    Args:
        subtask: The subtask.
        output: Name of the subtask whose output is scored.
    """
    return bool(subtask.demos and subtask.demos.source != "responses") and subtask.name == output and not subtask.reads


def check_demos(subtasks: Sequence[_Subtask], output: str, where: str, *, is_program: bool) -> None:
    """Raise `TaskError` if subtasks cannot have the demonstrations that they declare.

    Args:
        subtasks: All subtasks of the task.
        output: Name of the subtask whose output is scored.
        where: The task, for messages.
        is_program: Whether the task has a program, which writes its prompts itself.
    """
    for subtask in subtasks:
        if is_program and subtask.demos:
            rule = f"`demos` needs prompts that the task renders, but `{subtask.name}` is called by a program"
            remedy = "remove `demos`, or write demonstrations into the program's prompts"
            raise TaskError(rule, where=where, remedy=remedy)
        if subtask.demos and subtask.demos.source == "targets" and not shows_targets(subtask, output):
            reads = f"reads {', '.join(subtask.reads)}" if subtask.name == output else f"is not the output, {output}"
            rule = f"targets are answers to the inputs alone, so no demonstrations of `{subtask.name}`, which {reads}"
            raise TaskError(rule, where=where, remedy="write `from: responses`, or leave it out")


def demos_in_prompt(system_prompt: str, demos: Sequence[Demo]) -> str:
    """The system prompt with demonstrations after it.

    Args:
        system_prompt: The system prompt; may be empty.
        demos: The demonstrations.
    """
    blocks = [f"Input:\n{demo.prompt}\n\nResponse:\n{demo.response}" for demo in demos]
    return "\n\n".join(filter(None, [system_prompt, *blocks]))
