"""How a chat becomes a task's inputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agentopt.models.base import Message
from agentopt.task import Task
from agentopt.wire import WireError


class Columns:
    """The input columns of a task, as its examples have them: those that some have, and those that all have."""

    def __init__(self, task: Task) -> None:
        rows = [example.inputs for examples in task.splits.values() for example in examples]
        self.known = tuple(dict.fromkeys(name for row in rows for name in row))
        self.needed = tuple(name for name in self.known if all(name in row for row in rows))
        only = self.known[0] if len(self.known) == 1 else None
        self._text_column = only if only and all(isinstance(row[only], str) for row in rows) else None

    def read(self, messages: Sequence[Message]) -> Mapping[str, Any]:
        """The inputs in the last user message: a JSON object of the columns, or the text of a task's only column.

        Raises `WireError` with status 400 that names the columns.
        """
        asked = next((m.content for m in reversed(messages) if m.role == "user"), None)
        if asked is None:
            raise self._wrong("there is none")
        given = _object(asked)
        if self._text_column and (given is None or given.keys() != {self._text_column}):
            return {self._text_column: asked}
        if given is None:
            raise self._wrong("it is no JSON object")
        if missing := [name for name in self.needed if name not in given]:
            raise self._wrong(f"it lacks {', '.join(missing)}")
        if unknown := [name for name in given if name not in self.known]:
            raise self._wrong(f"it has {', '.join(unknown)}")
        return given

    def _wrong(self, problem: str) -> WireError:
        optional = [name for name in self.known if name not in self.needed]
        may = f" (and may have {', '.join(optional)})" if optional else ""
        rule = f"the last user message must be a JSON object with {', '.join(self.needed)}{may}, but {problem}"
        return WireError(400, rule, param="messages", code="invalid_value")


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
