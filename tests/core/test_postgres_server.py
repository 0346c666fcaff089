"""The PostgreSQL server of the tests: it keeps its data over restarts, and each test has a database of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from agentopt.models.lease import this_process
from agentopt.testing.postgres import OWNER, PREFIX, PostgresServer, remove_leftovers


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


def test_the_server_of_a_killed_process_is_ended_and_its_folder_removed(tmp_path: Path) -> None:
    script = "import time\nfrom agentopt.testing.postgres import PostgresServer\nwith PostgresServer():\n"
    script += "    print(1, flush=True)\n    time.sleep(600)"
    left, kept = tmp_path / "left", tmp_path / f"{PREFIX}kept"
    left.mkdir(mode=0o755)
    environ = {**os.environ, "TMPDIR": str(left)}
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)  # the server runs as another user
    with subprocess.Popen([sys.executable, "-c", script], env=environ, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"1\n"
        process.kill()
    (pid,) = (file.read_text().split()[0] for file in left.glob("*/*/postmaster.pid"))
    kept.mkdir()
    (kept / OWNER).write_text(this_process())
    remove_leftovers(left)
    remove_leftovers(tmp_path)
    assert list(left.iterdir()) == []
    assert not Path(f"/proc/{pid}").exists()
    assert kept.exists()
