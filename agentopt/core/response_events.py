"""Warnings about the responses of a subtask; `core.events` has all events of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentopt.core.message_text import counted
from agentopt.core.observers import Event


@dataclass(frozen=True, slots=True)
class ResponsesIncomplete(Event):
    """More than a quarter of a subtask's responses so far is incomplete; once for each subtask.

    Attributes:
        subtask: Name of the subtask.
        cut_off: Number of responses that were cut off.
        responses: Number of all responses.
        max_tokens: The subtask's setting; None if its program chooses it.
        only_thought: Number of responses that held a thought and no answer.
        filtered: Number of responses that the provider's content filter cut off.
    """

    kind: ClassVar[str] = "responses_incomplete"

    subtask: str
    cut_off: int
    responses: int
    max_tokens: int | None
    only_thought: int = 0
    filtered: int = 0

    @property
    def message(self) -> str:
        limit = "max_tokens" if self.max_tokens is None else f"max_tokens {self.max_tokens}"
        of = f"of {counted(self.responses, 'response')} so far"
        found = f"{self.cut_off} {of} were cut off at {limit}"
        remedy = "raise it if answers are longer"
        if self.only_thought > self.cut_off:
            found = f"{self.only_thought} {of} hold only a thought"
            remedy = f"raise {limit} or lower reasoning_effort"
        if self.filtered > max(self.cut_off, self.only_thought):
            found = f"{self.filtered} {of} were cut off by the provider's content filter"
            remedy = "loosen the filter, or use another provider"
        return f"warning: {self.subtask}: {found}; {remedy}"


@dataclass(frozen=True, slots=True)
class ResponsesUnparsed(Event):
    """No response could be parsed for more than a quarter of a subtask's examples so far; once for each subtask.

    Attributes:
        subtask: Name of the subtask.
        unparsed: Number of examples without a parsable response.
        examples: Number of all examples.
        reason: Why the first of them has none.
    """

    kind: ClassVar[str] = "responses_unparsed"

    subtask: str
    unparsed: int
    examples: int
    reason: str

    @property
    def message(self) -> str:
        found = f"no response could be parsed for {self.unparsed} of {counted(self.examples, 'example')} so far"
        return f"warning: {self.subtask}: {found}, such as: {self.reason}"
