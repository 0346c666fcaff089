"""Tables whose columns are declared as data: to add a column, add a `Column`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from rich.markup import escape
from rich.table import Table

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """One column of a table.

    Attributes:
        header: The text above it.
        cell: The text of a row's cell. It is shown as it is, whatever it contains.
        justify: `left` for text, `right` for numbers.
    """

    header: str
    cell: Callable[[Row], str]
    justify: Literal["left", "right"] = "left"


def table_of(title: str, columns: Sequence[Column[Row]], rows: Iterable[Row]) -> Table:
    """A table with one line for each of `rows`.

    Args:
        title: Title of the table.
        columns: Its columns, from left to right.
        rows: What the columns show, one for each line.
    """
    table = Table(title=escape(title), title_justify="left")
    for column in columns:
        table.add_column(escape(column.header), justify=column.justify)
    for row in rows:
        table.add_row(*(escape(column.cell(row)) for column in columns))
    return table
