"""Reads a task's inputs from a text, for the server and for exported modules."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentopt.core.errors import ApiError
from agentopt.core.task import Example, Task
from agentopt.models.base import Message


class InputError(ValueError):
    """An invalid input, described in one sentence.

    Not an `AgentoptError`: exported modules, which run without agentopt, raise it too, and need no tree for it.
    """


@dataclass(frozen=True)
class InputColumns:
    """The columns of a task's inputs.

    Attributes:
        needed: Required columns.
        optional: Columns that may be missing.
        is_text: Whether a plain text is accepted as the value of the only column.
        kinds: Column -> the JSON types of its values in the task's examples.
    """

    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()
    is_text: bool = False
    kinds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def read(self, text: str) -> Mapping[str, Any]:
        """Read inputs from a text: a JSON object of the columns, or the value of the only column.

        Raises:
            InputError: If the text is neither, or a column is missing or unknown.
        """
        try:
            given = json.loads(text)
        except (ValueError, RecursionError):
            given = None
        if isinstance(given, dict):
            return self.check(given)
        if self.is_text:
            return {self.needed[0]: text}
        raise self.wrong("it is not a JSON object")

    def check(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return `given` unchanged.

        Raises:
            InputError: If a column is missing or unknown, or has a value of another type than in the examples.
        """
        missing = [name for name in self.needed if name not in given]
        unknown = [name for name in given if name not in self.needed and name not in self.optional]
        problems = [f"it lacks {', '.join(missing)}"] if missing else []
        problems += [f"it has {', '.join(unknown)}, which {'are' if unknown[1:] else 'is'} unknown"] if unknown else []
        problems += [
            f"{name} must be {' or '.join(kinds)}, but is {json_type(given[name])}"
            for name, kinds in self.kinds.items()
            if name in given and json_type(given[name]) not in kinds
        ]
        if problems:
            raise self.wrong(" and ".join(problems) + self._meant(unknown, given))
        return given

    def _meant(self, unknown: Sequence[str], given: Mapping[str, Any]) -> str:
        """The column that each misspelled name may be, as the end of a sentence."""
        free = [name for name in (*self.needed, *self.optional) if name not in given]
        closest = {name: difflib.get_close_matches(name, free, n=1) for name in unknown}
        meant = [f"{found[0]!r} in place of {name!r}" for name, found in closest.items() if found]
        return f"; did you mean {', '.join(meant)}?" if meant else ""

    def wrong(self, problem: str) -> InputError:
        """Return the error that gives the rule and the problem."""
        may = f" (and may have {', '.join(self.optional)})" if self.optional else ""
        text = "a string, or " if self.is_text else ""
        return InputError(f"the input must be {text}a JSON object with {', '.join(self.needed)}{may}, but {problem}")


def json_type(value: Any) -> str:
    """The type of a value in JSON, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an object" if isinstance(value, Mapping) else "a list"


def columns_of(examples: Iterable[Example]) -> InputColumns:
    """Return the columns of examples; a column that every example has is required."""
    rows = [example.inputs for example in examples]
    known = tuple(dict.fromkeys(name for row in rows for name in row))
    needed = tuple(name for name in known if all(name in row for row in rows))
    is_text = len(known) == len(needed) == 1 and all(isinstance(row[known[0]], str) for row in rows)
    kinds = {name: tuple(dict.fromkeys(json_type(row[name]) for row in rows if name in row)) for name in known}
    return InputColumns(needed, tuple(name for name in known if name not in needed), is_text, kinds)


def columns_of_task(task: Task) -> InputColumns:
    """Return the columns of a task's examples, in all splits."""
    return columns_of(example for examples in task.splits.values() for example in examples)


def inputs_in(messages: Sequence[Message], columns: InputColumns) -> Mapping[str, Any]:
    """Read the inputs from the last user message.

    Raises:
        ApiError: With status 400, if there are none or they are invalid; names the columns.
    """
    text = next((m.content for m in reversed(messages) if m.role == "user"), None)
    try:
        if text is None:
            raise columns.wrong("there is no user message")
        return columns.read(text)
    except InputError as error:
        rule = str(error).replace("the input", "the last user message", 1)
        raise ApiError(400, rule, param="messages", code="invalid_value") from error
