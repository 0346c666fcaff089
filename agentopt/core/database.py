"""SQL databases that several processes share: opens them and creates their tables."""

from __future__ import annotations

import re
import sqlite3
import time
from pathlib import Path

import sqlalchemy as sa

SECRET = re.compile(r"password|passwd|pwd|secret|token", re.IGNORECASE)
"""Names of parameters in a URL's query that may hold a secret."""

WAIT_SECONDS = 60
"""Seconds that an SQLite database waits for the lock of another process."""


def open_engine(place: str | Path) -> sa.Engine:
    """Open a database.

    SQLite databases wait for the locks of other processes, and survive a crash.

    Args:
        place: A SQLAlchemy URL, or the path of an SQLite file, whose folder is created.
    """
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
        # Not as a string, in which a question mark of the path would start the query.
        engine = sa.create_engine(sa.URL.create("sqlite", database=str(place)))
    else:
        engine = sa.create_engine(place)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
    return engine


def without_password(url: str) -> str:
    """Return a SQLAlchemy URL without its password, and without the parts of its query that may hold one.

    A path is returned as it is; a URL that cannot be read is replaced.
    """
    if "://" not in url:
        return url
    try:
        read = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        return "a URL that cannot be read"
    secret = [name for name in read.query if SECRET.search(name)]
    if read.password is None and not secret:
        return url
    without = sa.URL.create(read.drivername, read.username, None, read.host, read.port, read.database, read.query)
    return without.difference_update_query(secret).render_as_string(hide_password=False)


def create_tables(engine: sa.Engine, tables: sa.MetaData) -> None:
    """Create the missing tables and indexes. Another process may do so concurrently."""
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
    """Switch to WAL mode. SQLite refuses while another process writes to a new file."""
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
