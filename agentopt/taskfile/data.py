"""The data of a task folder: rows become examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from agentopt.core.errors import TaskError
from agentopt.core.task import Example
from agentopt.core.yaml_models import closest, did_you_mean
from agentopt.taskfile.schema import ColumnsSpec
from agentopt.taskfile.sources import rows_of, source_name
from agentopt.taskfile.table import Placed, TableRow


@dataclass(frozen=True, slots=True)
class Row:
    """An example and its place in a file.

    Attributes:
        example: The example.
        where: Its place.
        numbered: Whether its id is the number of its row.
        empty: The inputs whose cells are empty.
    """

    example: Example
    where: str
    numbered: bool
    empty: frozenset[str] = frozenset()


def read_rows(source: str, folder: Path, columns: ColumnsSpec, *, target_needed: bool, where: str) -> list[Row]:
    """Read the examples of a data file or of a dataset of the Hugging Face hub.

    Args:
        source: A name that `sources.rows_of` reads.
        folder: The task folder.
        columns: How a row becomes an example.
        target_needed: Whether every row must have a target.
        where: The key that names the source, for messages.

    Raises:
        TaskError: With file and row: the source cannot be read, or a row lacks a column or repeats an id.
    """
    rows: list[Row] = []
    places_by_id: dict[str, str] = {}
    given = list(rows_of(source, folder, where))
    reader = RowReader(columns, target_needed, lambda: given)
    for placed in given:
        row = reader.row(placed)
        check_id(row, places_by_id)
        rows.append(row)
    if not rows:
        raise no_rows(source_name(source, folder))
    return rows


def check_id(row: Row, places_by_id: dict[str, str]) -> None:
    """Check that no earlier row of the split has the id of this one.

    Args:
        row: The row.
        places_by_id: Id -> place of the earlier rows; the row is added.

    Raises:
        TaskError: One has it.
    """
    other = places_by_id.setdefault(row.example.id, row.where)
    if other != row.where:
        rule = f"an id must be given once in a split, but {row.example.id!r} is also at {other}"
        raise TaskError(rule, where=row.where, remedy="give each row its own id")


def no_rows(named: str) -> TaskError:
    """Return the error for a file without rows, which messages name like this."""
    return TaskError("a split must have at least one example, but the file is empty", where=named, remedy="add rows")


@dataclass(frozen=True, slots=True)
class RowReader:
    """Reads the rows of a file by the columns of a task.

    Attributes:
        columns: How a row becomes an example.
        target_needed: Whether every row must have a target.
        file: Returns all rows of the file with their places, for messages.
    """

    columns: ColumnsSpec
    target_needed: bool
    file: Callable[[], Iterable[Placed]]

    def row(self, placed: Placed) -> Row:
        """Read one row.

        Args:
            placed: Its place, and the row.

        Raises:
            TaskError: It lacks a column, or a value has no text.
        """
        one = _OneRow(placed[1], placed[0], self.columns, self.file)
        example, numbered = one.example(self.target_needed)
        return Row(example, placed[0], numbered, one.empty_inputs)


@dataclass(frozen=True, slots=True)
class _OneRow:
    """Reads one row by the columns of a task."""

    row: dict[str, Any]
    place: str
    columns: ColumnsSpec
    file: Callable[[], Iterable[Placed]]
    """Returns all rows of its file, with their places."""

    def example(self, target_needed: bool) -> tuple[Example, bool]:
        """The row as an example, and whether its id is its number."""
        columns, row = self.columns, self.row
        numbered = columns.id is None and "id" not in row and "id" not in self.empty
        target_needed = target_needed or (columns.target is not None and columns.target not in self.empty)
        id_path, target_path = columns.id or "id", columns.target or "target"
        metadata = {name: self.value(path, "columns.metadata", True) for name, path in columns.metadata.items()}
        if columns.inputs is None:
            others = {id_path, target_path, columns.group or "", *columns.metadata.values()}
            used = others | {path.partition(".")[0] for path in others if path not in row}
            inputs = {name: value for name, value in row.items() if name not in used}
        else:
            given = {name: path for name, path in columns.inputs.items() if path not in self.empty}
            inputs = {name: self.value(path, "columns.inputs") for name, path in given.items()}
        example = Example(
            self.place.rpartition(":")[2].split()[-1]
            if numbered
            else _id(self.value(id_path, "columns.id"), self.place),
            inputs,
            self.value(target_path, "columns.target") if target_needed else row.get(target_path),
            metadata,
            None if columns.group is None else _group(self.value(columns.group, "columns.group", True)),
        )
        return example, numbered

    @property
    def empty(self) -> frozenset[str]:
        """The columns of a table whose cell in this row is empty."""
        return self.row.empty if isinstance(self.row, TableRow) else frozenset()

    @property
    def empty_inputs(self) -> frozenset[str]:
        if self.columns.inputs is None:
            return self.empty
        return frozenset(name for name, path in self.columns.inputs.items() if path in self.empty)

    def value(self, path: str, key: str, may_be_empty: bool = False) -> Any:
        """The value of the column `path`, or the value at it as a dotted path; of a list, the values of its items."""
        if path in self.row:
            return self.row[path]
        if path in self.empty:
            return None if may_be_empty else self._fail_empty(path, key)
        names = path.split(".")
        if names[0] not in self.row:
            rule = f"the row must have the column {names[0]!r} ({key})"
            is_elsewhere, unused = any(names[0] in row for _, row in self.file()), self._unused(path)
            remedy = correct_row(names[0], unused) if is_elsewhere else did_you_mean(names[0], unused)
            raise TaskError(rule, where=self.place, remedy=remedy)
        return self._inside(path, names, key)

    def _unused(self, path: str) -> set[str]:
        """The columns of the row that no key but that of `path` uses."""
        columns = self.columns
        named = [columns.id or "id", columns.target or "target", columns.group or "", *columns.metadata.values()]
        used = {*named, *(columns.inputs or {}).values()} - {path}
        return {*self.row, *self.empty} - used - {other.partition(".")[0] for other in used}

    def _fail_empty(self, path: str, key: str) -> NoReturn:
        rule = f"the row must have a value in the column {path!r} ({key}), but the cell is empty"
        raise TaskError(rule, where=self.place, remedy="fill in the cell, or remove the row")

    def _inside(self, path: str, names: Sequence[str], key: str) -> Any:
        value: Any = self.row
        for name in names:
            items = value if isinstance(value, list) else [value]
            if not all(isinstance(item, dict) and name in item for item in items):
                known = items[0] if items and isinstance(items[0], dict) else {}
                rule = f"the row must have {path!r} ({key}), but there is no {name!r}"
                raise TaskError(rule, where=self.place, remedy=did_you_mean(name, known))
            value = [item[name] for item in items] if isinstance(value, list) else value[name]
        return value


def correct_row(name: str, columns: Iterable[str]) -> str:
    """Return the remedy for a row that lacks a column that other rows have.

    Args:
        name: The column.
        columns: The columns of the row, of which one may be the misspelled column.
    """
    misspelled = closest(name, columns)
    return f"rename {misspelled!r} to {name!r} in the row" if misspelled else "add it to the row, or remove the row"


def _group(value: Any) -> str | None:
    """The group, or None for null and NaN, which pandas writes for a missing value."""
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _id(value: Any, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        rule = f"an id must be a string or a whole number, but got {value!r}"
        raise TaskError(rule, where=place, remedy="give the row such an id")
    return str(value)
