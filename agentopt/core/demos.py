"""Demonstrations: right responses to train examples, which a subtask's model is shown before its own input."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from agentopt.core.errors import TaskError
from agentopt.core.yaml_models import shown

DemosAs = Literal["messages", "prompt"]
"""Pairs of a user and an assistant message before the input, or text that follows the system prompt."""


@dataclass(frozen=True, slots=True)
class Demo:
    """One demonstration.

    Attributes:
        prompt: The user message of a train example.
        response: A response to it, in a run of the workflow whose score was high enough.
    """

    prompt: str
    response: str


@dataclass(frozen=True, slots=True)
class Demos:
    """How many demonstrations the search tries, and which ones.

    The baseline is run on train examples in a seeded order; of those that it answers right, the first ones are the
    demonstrations. Fewer are the first of more.

    Attributes:
        count: Numbers of demonstrations to try, ascending; the first is 0, the baseline's.
        shown_as: How a model is shown them.
        min_score: Least score of the whole workflow on an example that counts as right.

    Raises:
        TaskError: A value breaks a rule.
    """

    count: tuple[int, ...]
    shown_as: DemosAs = "messages"
    min_score: float = 1.0

    def __post_init__(self) -> None:
        counts = tuple(self.count) if isinstance(self.count, list | tuple) else ()
        object.__setattr__(self, "count", counts)
        whole = all(type(count) is int for count in counts)
        if not whole or len(counts) < 2 or counts[0] != 0 or any(a >= b for a, b in pairwise(counts)):
            rule = f"`count` must be ascending and start with 0, the baseline's, but got {shown(list(counts))}"
            raise TaskError(rule, where="demos", remedy="write it like (0, 2, 4)")
        if self.shown_as not in get_args(DemosAs):
            rule = f"`shown_as` must be messages or prompt, but got {shown(self.shown_as)}"
            raise TaskError(rule, where="demos", remedy='write shown_as="messages"')
        if not isinstance(self.min_score, int | float) or isinstance(self.min_score, bool):
            rule = f"`min_score` must be a number, but got {shown(self.min_score)}"
            raise TaskError(rule, where="demos", remedy="write min_score=1.0")


def check_demos(with_demos: Collection[str], where: str, *, is_program: bool) -> None:
    """Raise `TaskError` if subtasks of a program have demonstrations: the program writes its prompts.

    Args:
        with_demos: Names of the subtasks with `demos`.
        where: The task, for messages.
        is_program: Whether the task has a program.
    """
    if is_program and with_demos:
        rule = f"`demos` needs prompts that the task renders, but `{min(with_demos)}` is called by a program"
        raise TaskError(rule, where=where, remedy="remove `demos`, or write demonstrations into the program's prompts")


def demos_in_prompt(system_prompt: str, demos: Sequence[Demo]) -> str:
    """The system prompt with demonstrations after it.

    Args:
        system_prompt: The system prompt; may be empty.
        demos: The demonstrations.
    """
    blocks = [f"Input:\n{demo.prompt}\n\nResponse:\n{demo.response}" for demo in demos]
    return "\n\n".join(filter(None, [system_prompt, *blocks]))
