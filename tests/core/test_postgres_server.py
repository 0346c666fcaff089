"""The PostgreSQL server of the tests: it keeps its data over restarts, and each test has a database of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from agentopt.models.lease import this_process
from agentopt.testing.postgres import OWNER, PREFIX, PostgresServer, is_server, remove_leftovers


@pytest.mark.parametrize("is_crash", [False, True])
def test_a_restarted_server_has_its_data_at_the_same_address(
    postgres_server: PostgresServer, postgres_url: str, is_crash: bool
) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE notes AS SELECT 'kept' AS text")
    postgres_server.restart(is_crash=is_crash)
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT text FROM notes").fetchall() == [("kept",)]


def test_each_test_has_an_empty_database(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert found == (0,)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the server's user can reach; another pytest closes `tmp_path` to other users when it starts."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_the_server_of_a_killed_process_is_ended_and_its_folder_removed(open_folder: Path) -> None:
    script = "import time\nfrom agentopt.testing.postgres import PostgresServer\nwith PostgresServer():\n"
    script += "    print(1, flush=True)\n    time.sleep(600)"
    left, kept = open_folder / "left", open_folder / f"{PREFIX}kept"
    left.mkdir(mode=0o755)
    environ = {**os.environ, "TMPDIR": str(left)}
    with subprocess.Popen([sys.executable, "-c", script], env=environ, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"1\n"
        process.kill()
    (file,) = left.glob("*/*/postmaster.pid")
    pid = int(file.read_text().split()[0])
    assert is_server(pid, file.parent)
    kept.mkdir()
    (kept / OWNER).write_text(this_process())
    remove_leftovers(left)
    remove_leftovers(open_folder)
    assert list(left.iterdir()) == []
    assert not is_server(pid, file.parent)
    assert kept.exists()
