"""The data of a task folder: rows become examples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from agentopt.core.duplicates import duplicate_share, grouped
from agentopt.core.errors import TaskError
from agentopt.core.records import Split
from agentopt.core.task import Example
from agentopt.core.yaml_models import closest, did_you_mean, shown
from agentopt.taskfile.schema import ColumnsSpec
from agentopt.taskfile.sources import rows_of, source_name
from agentopt.taskfile.table import TableRow


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
    for place, row in given:
        reader = _RowReader(row, place, columns, given)
        example, numbered = reader.example(target_needed)
        if example.id in places_by_id:
            rule = f"an id must be given once in a split, but {example.id!r} is also at {places_by_id[example.id]}"
            raise TaskError(rule, where=place, remedy="give each row its own id")
        places_by_id[example.id] = place
        rows.append(Row(example, place, numbered, reader.empty_inputs))
    if not rows:
        named = source_name(source, folder)
        raise TaskError("a split must have at least one example, but the file is empty", where=named, remedy="add rows")
    return rows


@dataclass(frozen=True, slots=True)
class _RowReader:
    """Reads one row by the columns of a task."""

    row: dict[str, Any]
    place: str
    columns: ColumnsSpec
    file: Sequence[tuple[str, dict[str, Any]]]
    """All rows of its file, with their places."""

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
            is_elsewhere, unused = any(names[0] in row for _, row in self.file), self._unused(path)
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


def check_leaks(splits: Mapping[Split, list[Row]]) -> None:
    """Check that no example is in two splits.

    Raises:
        TaskError: Two splits share an id, equal inputs or a group.
    """
    places: dict[tuple[str, str], tuple[Split, str]] = {}
    for split, rows in splits.items():
        for row in rows:
            ids = () if row.numbered else (("id", row.example.id),)
            for mark in (*ids, *row.example.same_as):
                other, place = places.setdefault(mark, (split, row.where))
                if other != split:
                    what = "inputs are" if mark[0] == "inputs" else f"{mark[0]} {shown(mark[1])} is"
                    rule = f"an example must be in one split only, but its {what} also in {other}, at {place}"
                    raise TaskError(rule, where=row.where, remedy="remove it from one of the two splits")


def check_duplicates(split: Split, examples: Sequence[Example], most: float, where: str) -> None:
    """Check that not too many examples of a split repeat the inputs of an earlier one.

    Args:
        split: Name of the split.
        examples: Its examples.
        most: Largest share of repeating examples.
        where: The place of the value, for the error.

    Raises:
        TaskError: Their share is above `most`.
    """
    repeated = duplicate_share(grouped({example.id: example.inputs for example in examples}))
    if repeated > most:
        rule = f"at most {most:.0%} of a split's rows may repeat the inputs of an earlier row, but "
        rule += f"{round(repeated * len(examples))} of {len(examples)} {split} rows do"
        remedy = f"remove the repeated rows, or set data.duplicates: {math.ceil(100 * repeated) / 100:g}"
        raise TaskError(rule, where=where, remedy=remedy)
