"""Answers that call tools: which samples are valid, and how they vote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from agentopt.core.task import Unparsable
from agentopt.models.base import Choice, ToolCall
from agentopt.workflow.fusion import vote_key


@dataclass(frozen=True, slots=True)
class CalledTools:
    """The value of an answer that calls tools.

    Attributes:
        text: What the model wrote beside the calls.
        calls: The calls, with their arguments as the model wrote them.
    """

    text: str
    calls: tuple[ToolCall, ...]

    def __str__(self) -> str:
        return "; ".join(f"{call.name}({call.arguments})" for call in self.calls)

    @property
    def key(self) -> str:
        """Samples with equal keys vote together: the same functions with equal arguments, in any order.

        Ids, the text beside the calls, the order of keys, and white space and case at the ends of texts do not count.
        """
        return json.dumps(sorted([call.name, _arguments_key(call.arguments)] for call in self.calls))


def read_tool_calls(choice: Choice) -> CalledTools:
    """Return the tool calls of a choice.

    Raises:
        Unparsable: The response was cut off within a call.
    """
    if not choice.is_whole and not all(_is_json(call.arguments) for call in choice.tool_calls):
        raise Unparsable("expected a tool call, got an incomplete one")
    return CalledTools(choice.text, choice.tool_calls)


def vote_on_calls(samples: Sequence[CalledTools]) -> CalledTools:
    """Return the most frequent of several samples that call tools, the earliest of equals."""
    keys = [sample.key for sample in samples]
    return max(samples, key=lambda sample: keys.count(sample.key))


def _arguments_key(arguments: str) -> str:
    try:
        parsed = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return " ".join(arguments.split())
    return _value_key(parsed)


def _value_key(value: object) -> str:
    if isinstance(value, dict):
        return f"object {sorted((name, _value_key(inner)) for name, inner in value.items())}"
    if isinstance(value, list):
        return f"list {[_value_key(inner) for inner in value]}"
    return vote_key(value)


def _is_json(text: str) -> bool:
    try:
        json.loads(text or "{}")
    except (ValueError, RecursionError):
        return False
    return True
