"""Rows of tables: a header names the columns, and empty cells are missing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

from agentopt.core.errors import TaskError
from agentopt.core.yaml_models import listed, shown

Placed = tuple[str, dict[str, Any]]
"""The place of a row, and the row."""


class TableRow(dict[str, Any]):
    """The cells of a row that have a value.

    Attributes:
        columns: The named columns of the table.
        header: The place of the header.
    """

    def __init__(self, cells: Mapping[str, Any], columns: Iterable[str], header: str) -> None:
        super().__init__(cells)
        self.columns, self.header = tuple(columns), header

    @property
    def empty(self) -> frozenset[str]:
        """The columns without a value in this row."""
        return frozenset(self.columns) - self.keys()


def table_rows(header: Sequence[Any], rows: Iterable[tuple[str, Sequence[Any]]], where: str) -> Iterator[Placed]:
    """Yield the place and the cells of each row; rows without a value are skipped.

    Args:
        header: Names of the columns.
        rows: The place of each row, and its cells.
        where: The place of the header, for messages.

    Raises:
        TaskError: A column is named twice or has values but no name, or a row has fewer or more cells than the header.
    """
    names = ["" if is_empty(name) else str(plain(name, where)).strip() for name in header]
    _check_header(names, where)
    for place, cells in rows:
        values = {number: plain(value, place) for number, value in enumerate(cells) if not is_empty(value)}
        if values:
            _check_cells(names, len(cells), values, place)
            row = {names[number]: value for number, value in values.items()}
            yield place, TableRow(row, filter(None, names), where)


def is_empty(value: Any) -> bool:
    """Whether a cell has no value: nothing, no text, or NaN, which pandas writes for a missing value."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def plain(value: Any, place: str) -> Any:
    """The value as JSON has it: a date or time as ISO text. Raises `TaskError` for bytes."""
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, timedelta):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(item, place) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item, place) for key, item in value.items()}
    if isinstance(value, bytes):
        rule = f"a cell must be text, a number, a truth value, a date, a list or a structure, but got {shown(value)}"
        raise TaskError(rule, where=place, remedy="remove the column, or convert it to text")
    return value


def _check_header(names: Sequence[str], where: str) -> None:
    if not any(names):
        raise TaskError("the first row must name the columns, but it is empty", where=where, remedy="add a header")
    for name, count in Counter(name.lower() for name in names).items():
        if name and count > 1:
            rule = f"a header must have each column once, but {name!r} is there {count} times"
            raise TaskError(rule, where=where, remedy="remove or rename the other columns")


def _check_cells(names: Sequence[str], count: int, values: Mapping[int, Any], place: str) -> None:
    if count != len(names):
        limit = "at most" if count > len(names) else "at least"
        rule = f"a row must have {limit} {len(names)} cells, like the header, but got {count}"
        raise TaskError(rule, where=place, remedy='quote the text that contains a comma: "first, second"')
    for number, value in values.items():
        if not names[number]:
            rule = f"a column with values must have a name in the header, but column {number + 1} has {shown(value)}"
            remedy = f"name it in the first row (named: {listed([name for name in names if name])}), or remove it"
            raise TaskError(rule, where=place, remedy=remedy)
