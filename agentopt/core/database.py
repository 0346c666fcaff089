"""SQL databases that several processes share: opens them and creates their tables."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import sqlalchemy as sa

WAIT_SECONDS = 60
"""How long an SQLite database waits for other processes."""


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


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute(f"PRAGMA busy_timeout={WAIT_SECONDS * 1000}")
    _write_ahead(connection)
    connection.execute("PRAGMA synchronous=FULL")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to WAL mode. SQLite refuses that while another process writes to a new file."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
