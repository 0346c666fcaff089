"""A database that several processes share opens with any characters in its path and with concurrent writers."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from agentopt.core.database import create_tables, open_engine

TABLES = sa.MetaData()
NOTES = sa.Table("notes", TABLES, sa.Column("text", sa.Text, index=True))


def test_a_new_file_that_another_process_writes_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "shared.db"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE old (x)")
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.2, other.execute, ["COMMIT"])
    release.start()
    engine = open_engine(file)
    create_tables(engine, TABLES)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    release.join()
    engine.dispose()
    other.close()


def test_tables_that_are_there_stay_as_they_are(tmp_path: Path) -> None:
    for _ in range(2):
        engine = open_engine(tmp_path / "notes.db")
        create_tables(engine, TABLES)
        with engine.begin() as connection:
            connection.execute(NOTES.insert(), {"text": "kept"})
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(NOTES)).scalar() == 2
    engine.dispose()


def test_a_path_may_hold_what_has_a_meaning_in_a_url(tmp_path: Path) -> None:
    file = tmp_path / "what? 50%#" / "notes.db"
    engine = open_engine(file)
    create_tables(engine, TABLES)
    engine.dispose()
    assert file.exists()


def test_a_file_that_is_no_database_is_refused_immediately(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database at all" * 100)
    with pytest.raises(sa.exc.DatabaseError, match="not a database"):
        open_engine(tmp_path / "text.db").connect()
