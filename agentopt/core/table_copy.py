"""Copies the rows of tables from one database to another, of any dialect, and compares them.

Rows are inserted by key, and no row is changed: a copy may be repeated, also after it was killed. A row that the target
has with other values is found by `compare`, before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import sqlalchemy as sa

from agentopt.core.database import insert, transact
from agentopt.core.unicode_text import database_text

BATCH = 200
"""Rows per statement: databases bound the number of parameters, and the depth of an expression."""
WRITTEN = 2000
"""Rows per transaction."""

Row = dict[str, Any]


@dataclass(slots=True)
class Comparison:
    """The rows of a table in both databases.

    Attributes:
        table: Its name.
        rows: Number of rows in the source.
        found: Number of those that the target has, too, with whatever values.
        sums: Column of numbers -> its sum over the rows of the source.
        found_sums: The same over the rows of the target that have these keys.
        different: The key of the first row that the target has with other values, as text; empty if there is none.
    """

    table: str
    rows: int = 0
    found: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    found_sums: dict[str, float] = field(default_factory=dict)
    different: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether the target has every row of the source, with the same values."""
        return self.rows == self.found and not self.different


def compare(source: sa.Engine, target: sa.Engine, table: sa.Table) -> Comparison:
    """Compare the rows of the source with those that have the same keys in the target.

    Args:
        source: The database that is copied.
        target: The other database.
        table: The table, which both have.
    """
    keys, found = _key(table), Comparison(table.name)
    with target.connect() as connection:
        for rows in _batches(source, table, BATCH):
            wanted = sa.or_(*(sa.and_(*(table.c[key] == row[key] for key in keys)) for row in rows))
            result = connection.execute(sa.select(*_columns(table)).where(wanted))
            there = {_at(row, keys): row for row in map(_storable, result.mappings())}
            found.rows += len(rows)
            found.found += len(there)
            _add(found.sums, rows)
            # In the order of the source: sums of floating-point numbers depend on it.
            _add(found.found_sums, [there[_at(row, keys)] for row in rows if _at(row, keys) in there])
            differing = (row for row in rows if there.get(_at(row, keys), row) != row)
            if not found.different and (row := next(differing, None)):
                found.different = ", ".join(f"{key} {row[key]}" for key in keys)
    return found


def copy_rows(source: sa.Engine, target: sa.Engine, table: sa.Table) -> None:
    """Insert the rows of the source that the target does not have; the others stay as they are.

    Args:
        source: The database that is copied.
        target: The database that is written.
        table: The table, which both have.
    """
    statement = insert(target, table).on_conflict_do_nothing()
    for rows in _batches(source, table, WRITTEN):
        transact(target, partial(_execute, statement, rows))


def _batches(source: sa.Engine, table: sa.Table, size: int) -> Iterator[list[Row]]:
    """The rows, in the order of the primary key, in which a killed copy stops."""
    query = sa.select(*_columns(table)).order_by(*table.primary_key.columns)
    with source.connect() as connection:
        result = connection.execution_options(yield_per=size).execute(query)
        for part in result.mappings().partitions():
            yield [_storable(row) for row in part]


def _columns(table: sa.Table) -> list[sa.Label[Any]]:
    """The columns that are copied, by their keys, which inserts use: not an id that the database counts."""
    return [column.label(column.key) for column in table.columns if column is not table.autoincrement_column]


def _key(table: sa.Table) -> Sequence[str]:
    """Names of the columns that identify a row in both databases."""
    if table.autoincrement_column is None:
        return [column.key for column in table.primary_key.columns]
    return next(
        [column.key for column in constraint.columns]
        for constraint in table.constraints
        if isinstance(constraint, sa.UniqueConstraint)
    )


def _execute(statement: sa.Executable, rows: list[Row], connection: sa.Connection) -> None:
    connection.execute(statement, rows)


def _at(row: Row, keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row[key] for key in keys)


def _storable(row: sa.RowMapping) -> Row:
    """A row without null characters, which SQLite stores and PostgreSQL does not."""
    return {str(k): database_text(v) if isinstance(v, str) else v for k, v in row.items()}


def _add(sums: dict[str, float], rows: Sequence[Row]) -> None:
    for row in rows:
        for name, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                sums[name] = sums.get(name, 0) + value
