"""The statements that write to a journal. Each exists once, so that writes of many callers are executed together."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby, islice

import sqlalchemy as sa

from agentopt.core.budget import Usage
from agentopt.core.database import insert
from agentopt.core.unicode_text import database_text
from agentopt.models.journal_tables import (
    TABLES,
    batches,
    details,
    ledger,
    refused_parameters,
    rejections,
    requests,
    responses,
    run_keys,
)

Write = tuple[sa.Executable, dict[str, object] | None]
"""A statement and its values, which begin with the key of the row."""

_ORDER = {table.name: place for place, table in enumerate(TABLES.sorted_tables)}


class Statements:
    """The writes to a journal, in the dialect of its database.

    Args:
        engine: The database.

    Attributes:
        kept: Table -> the insert that leaves a row with the same key as it is.
        replaced: Table -> the insert that replaces a row with the same key.
    """

    settle = (
        ledger.update()
        .where(ledger.c.id == sa.bindparam("entry"))
        .values({name: sa.bindparam(name) for name in (*asdict(Usage()), "outcome", "closed")})
    )
    """Sets what a call is charged. Its value `entry` is the id."""
    retried = (
        rejections.update()
        .where(rejections.c.key == sa.bindparam("of_key"), rejections.c.repeat == sa.bindparam("of_repeat"))
        .values(retried=True)
    )
    """Notes that a rejected response was requested again."""
    remove_details = details.delete().where(
        details.c.key == sa.bindparam("of_key"), details.c.repeat == sa.bindparam("of_repeat")
    )

    def __init__(self, engine: sa.Engine) -> None:
        once = (requests, responses, details, ledger, rejections, run_keys, refused_parameters, batches)
        self.kept = {table: insert(engine, table).on_conflict_do_nothing() for table in once}
        self.kept[responses] = self.kept[responses].execution_options(preserve_rowcount=True)
        self.replaced = {}
        for table in (responses, details):
            statement = insert(engine, table)
            new = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
            self.replaced[table] = statement.on_conflict_do_update(index_elements=["key", "repeat"], set_=new)


def execute(connection: sa.Connection, writes: list[Write]) -> bool:
    """Execute writes in the order in which every process executes them, so that none waits for another in a circle.

    Args:
        connection: The transaction.
        writes: The writes, of any number of callers.

    Returns:
        Whether every row of an insert that preserves its row count was new.
    """
    is_new = True
    ordered = sorted(writes, key=_place)
    for _, group in groupby(ordered, lambda write: (id(write[0]), write[1] is None)):
        same = list(group)
        rows = [_storable(values) for _, values in same if values is not None]
        result = connection.execute(same[0][0], rows if len(rows) > 1 else rows[0] if rows else None)
        if same[0][0].get_execution_options().get("preserve_rowcount"):
            is_new = is_new and result.rowcount == len(rows)
    return is_new


def _place(write: Write) -> tuple[object, ...]:
    """The place of a write in the order: by table; inserts, updates, then deletes; by statement; by key."""
    statement, values = write
    assert isinstance(statement, sa.UpdateBase)
    keys = [str(value) for value in islice((values or {}).values(), 2)]
    return _ORDER[str(statement.table)], statement.is_delete, statement.is_update, id(statement), keys


def _storable(values: dict[str, object]) -> dict[str, object]:
    odd = [name for name, value in values.items() if isinstance(value, str) and database_text(value) != value]
    return {**values, **{name: database_text(str(values[name])) for name in odd}} if odd else values
