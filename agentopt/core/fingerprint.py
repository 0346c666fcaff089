"""A hash of a task: two tasks with the same fingerprint draw the same responses and score them in the same way.

Every field of every dataclass of the task that is compared is part of it, so a field that is added later is too, once
it has a value.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import types
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from agentopt.core.stored_rows import StoredRows
from agentopt.core.task import Task
from agentopt.core.user_functions import FILE_MODULE

VERSION = "v3-"
"""Begins every fingerprint of this form; those of version 0.1.0 are bare and leave out parts of the task."""
WITH_DESCRIPTIONS = "v2-"
"""Begins those of an earlier form, which count the descriptions too."""

LATER = frozenset(
    ["cascade", "cost_measure", "demos", "effort", "knobs", "max_seconds", "max_usd", "settings", "temperature_of_one"]
)
"""Fields that were added to a task since version 0.1.0: without a value they are left out, so older runs can resume."""


def fingerprint(
    task: Task, files: Iterable[Path] = (), overrides: Mapping[str, Any] | None = None, *, version: str = VERSION
) -> str:
    """Hash a task. Its descriptions and those of its subtasks change no response and no score, and do not count.

    Functions count with their qualified names, defaults and closures, and with their source unless they are part of
    agentopt, whose next version may word a function differently. Paths count with their last part only, so that a
    task folder may be moved.

    Args:
        task: The task.
        files: Files whose content is part of the task, such as its Python files.
        overrides: Settings of the task file that the run changed.
        version: The form: `VERSION` or `WITH_DESCRIPTIONS`.

    Returns:
        The version and 16 hexadecimal digits.
    """
    task = task if version == WITH_DESCRIPTIONS else _without_descriptions(task)
    contents = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    described = json.dumps([_described(task, ()), contents, _described(overrides or {}, ())])
    found = hashlib.sha256()
    stored = {str(id(rows)): rows for rows in task.splits.values() if isinstance(rows, StoredRows)}
    for place, part in enumerate(re.split(rf'"{_STORED}(\d+)"', described)):
        if place % 2 == 0:
            found.update(part.encode())
        else:
            for piece in _pieces(stored[part]):
                found.update(piece.encode())
    return version + found.hexdigest()[:16]


_STORED = f"stored-{uuid.uuid4().hex}-"
"""Begins the mark that is in the place of rows which stay in a file; a number that identifies them follows."""


def _pieces(rows: StoredRows[Any]) -> Iterator[str]:
    """The JSON list that the rows would be in memory, one row at a time."""
    yield "["
    for place, row in enumerate(rows):
        yield f"{', ' * (place > 0)}{json.dumps(_described(row, ()))}"
    yield "]"


def _without_descriptions(task: Task) -> Task:
    subtasks = tuple(replace(subtask, description="") for subtask in task.subtasks)
    return replace(task, description="", subtasks=subtasks)


def _described(value: Any, above: tuple[int, ...]) -> Any:
    """The value as JSON, the same in every process; `above` are the ids of the objects that contain it."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if id(value) in above:
        return "a cycle"
    inside = partial(_described, above=(*above, id(value)))
    if is_dataclass(value) and not isinstance(value, type):
        given = {f.name: getattr(value, f.name) for f in fields(value) if f.compare}
        return [_name(type(value)), {name: inside(v) for name, v in given.items() if v or v == 0 or name not in LATER}]
    if isinstance(value, Mapping):
        return ["mapping", sorted(([str(key), inside(item)] for key, item in value.items()), key=lambda pair: pair[0])]
    if isinstance(value, StoredRows):
        return f"{_STORED}{id(value)}"
    if isinstance(value, list | tuple):
        return [inside(item) for item in value]
    if isinstance(value, Set):
        return ["set", sorted(json.dumps(inside(item)) for item in value)]
    return _described_callable(value, inside) if callable(value) else _described_object(value)


def _described_callable(value: Any, inside: Callable[[Any], Any]) -> Any:
    if isinstance(value, partial):
        return ["partial", inside(value.func), inside(value.args), inside(value.keywords)]
    if isinstance(value, types.MethodType):
        return ["method", inside(value.__func__), inside(value.__self__)]
    if isinstance(value, types.FunctionType):
        closure = [inside(cell.cell_contents) for cell in value.__closure__ or () if _is_filled(cell)]
        return [_name(value), inside(value.__defaults__), inside(value.__kwdefaults__), closure, _source(value)]
    if isinstance(value, type) or not hasattr(value, "__dict__") or not hasattr(type(value), "__module__"):
        return _name(value)
    return [_name(type(value)), inside(vars(value)), _source(type(value))]


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - reading an empty cell raises
    except ValueError:
        return False
    return True


def _name(value: Any) -> str:
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return re.sub(rf"^{FILE_MODULE}\w+", "task file", name)


def _source(value: Any) -> str:
    """The source of a function or class; its bytecode if there is no source; nothing for one of agentopt."""
    if str(value.__module__).partition(".")[0] == "agentopt":
        return ""
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):  # made by `exec`, or in an interactive session
        code = getattr(value, "__code__", None)
        return _bytecode(code) if code else ""


def _bytecode(code: types.CodeType) -> str:
    constants = [_bytecode(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return repr((code.co_code.hex(), code.co_names, constants))


def _described_object(value: Any) -> Any:
    """The `repr` of any other value, or the type alone if the `repr` is one with an address."""
    if isinstance(value, Path):
        return ["path", value.name]
    text = value.pattern if isinstance(value, re.Pattern) else repr(value)
    return _name(type(value)) if text.startswith("<") else [_name(type(value)), text]
