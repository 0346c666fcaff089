"""SQL databases that several processes share: how one is opened, and how its tables come to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa


def open_engine(place: str | Path) -> sa.Engine:
    """The database at a SQLAlchemy URL, or the SQLite file at a path, whose folder is made.

    An SQLite one waits for other processes, and survives a crash.
    """
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        # Not as a text: there, a question mark in the path would end it.
        engine = sa.create_engine(sa.URL.create("sqlite", database=str(place)))
    else:
        engine = sa.create_engine(place)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
    return engine


def create_tables(engine: sa.Engine, tables: sa.MetaData) -> None:
    """Create what is missing, also where another process does so at the same time."""
    with engine.begin() as connection:
        for table in tables.sorted_tables:
            connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The wait for other processes comes first: two that open a new file at once both switch its journal mode.
    for pragma in ("busy_timeout=60000", "journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")
