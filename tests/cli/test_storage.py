"""`agentopt storage` checks, migrates and copies databases, and overwrites nothing."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from agentopt.core.budget import Usage
from agentopt.core.database import VERSIONS, open_engine
from agentopt.jobs.evidence_store import Measured
from agentopt.jobs.jobfile import Job
from agentopt.jobs.store import JobStore
from agentopt.models.journal_tables import responses
from agentopt.models.lease import Lease
from agentopt.models.session import open_journal
from agentopt.testing.postgres import PASSWORD

OLD = Path(__file__).parents[1] / "data" / "0.1.0" / "finished.journal.db"
Script = Callable[..., tuple[int, str, str]]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A journal of version 0.1.0."""
    return Path(shutil.copy(OLD, tmp_path / "old.db"))


def rows(out: str) -> dict[str, int]:
    return {table["table"]: table["rows"] for table in json.loads(out)["databases"][0]["tables"]}


def execute(file: Path, statement: str) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute(statement)


def test_a_journal_of_version_0_1_0_is_completed(old: Path, console_script: Script) -> None:
    before = old.read_bytes()
    code, out, _ = console_script("storage", "check", str(old))
    assert (code, "no version number, like every database of Optuna" in out, "no problem found" in out) == (
        0,
        True,
        True,
    )
    place, problems, content, *_ = out.splitlines()
    assert place.startswith(f"{old}: ")
    assert (problems, content) == ("no problem found", "it has 60 responses")
    code, out, _ = console_script("storage", "migrate", "--dry-run", str(old))
    assert (code, "would create" in out, "response_details" in out) == (0, True, True)
    with sqlite3.connect(old) as connection:  # the mode of the file is all that opening it changes
        assert {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")} == {
            "ledger",
            "requests",
            "responses",
        }
    assert len(before) == old.stat().st_size
    code, out, _ = console_script("storage", "migrate", str(old), "--json")
    assert (code, json.loads(out)["databases"][0]["newest"]) == (0, "0001")
    code, out, _ = console_script("storage", "migrate", str(old))
    assert (code, out) == (0, f"{old}: nothing to change\n")
    shown = console_script("storage", "check", str(old))[1]
    empty = [
        table for table, count in rows(console_script("storage", "check", str(old), "--json")[1]).items() if not count
    ]
    assert len(empty) > 1
    assert shown.endswith(f"\nand {len(empty)} empty tables\n")
    assert not any(table in shown for table in empty), "internal tables hide what is there"
    assert rows(console_script("storage", "check", str(old), "--json")[1])["responses"] == 60


def test_a_journal_is_copied_to_postgresql_and_back(
    old: Path, postgres_url: str, tmp_path: Path, console_script: Script
) -> None:
    (tmp_path / "back").mkdir()
    back = tmp_path / "back" / "journal.db"
    code, out, _ = console_script("storage", "copy", str(old), postgres_url, "--json")
    assert (code, PASSWORD in out) == (0, False)
    copied = json.loads(out)["databases"][0]["tables"]
    assert {table["table"]: (table["rows"], table["new"]) for table in copied} == {
        "ledger": (60, 60),
        "requests": (24, 24),
        "responses": (60, 60),
    }
    code, out, _ = console_script("storage", "copy", postgres_url, str(back))
    assert (code, "the rows of both are equal" in out, PASSWORD in out) == (0, True, False)
    for table in ("ledger", "requests", "responses"):
        with sqlite3.connect(old) as a, sqlite3.connect(back) as b:
            query = f"SELECT * FROM {table} ORDER BY 1, 2"
            assert a.execute(query).fetchall() == b.execute(query).fetchall()


def test_a_copy_that_was_killed_is_continued(old: Path, tmp_path: Path, console_script: Script) -> None:
    target = tmp_path / "new.db"
    console_script("storage", "copy", str(old), str(target))
    execute(target, "DELETE FROM responses WHERE repeat > 0")
    execute(target, "DELETE FROM ledger")
    code, out, _ = console_script("storage", "copy", str(old), str(target), "--json")
    new = {table["table"]: table["new"] for table in json.loads(out)["databases"][0]["tables"]}
    assert (code, new["ledger"], new["requests"], rows(out)["responses"]) == (0, 60, 0, 60)


def test_nothing_is_overwritten(old: Path, tmp_path: Path, console_script: Script) -> None:
    target = tmp_path / "new.db"
    console_script("storage", "copy", str(old), str(target))
    execute(target, "UPDATE responses SET text = 'other' WHERE repeat = 1")
    execute(target, "DELETE FROM ledger")
    code, _, error = console_script("storage", "copy", str(old), str(target))
    assert code == 2
    assert "other values in responses for key" in error
    with sqlite3.connect(target) as connection:
        assert connection.execute("SELECT count(*) FROM ledger").fetchone() == (0,)


def test_jobs_are_copied_with_their_measurements(postgres_url: str, tmp_path: Path, console_script: Script) -> None:
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}")
    job = Job.model_validate({"name": "nightly", "task": "task", "schedule": {"every": "6h"}})
    store.put(job, tmp_path, 1.0)
    run = store.claim_now("nightly", "me", 2.0, 60.0)
    store.finish(run.id, "me", 3.0, {"state": "kept", "message": "no better one"}, Usage(calls=3, usd=0.5))
    store.evidence.add(Measured("nightly", "subject", "test", "1", 4.0, {"row": 0.5}))
    code, _, _ = console_script("storage", "copy", str(tmp_path / "jobs.db"), postgres_url)
    assert code == 0
    copied = JobStore(postgres_url)
    assert copied.jobs() == store.jobs()
    assert copied.history("nightly") == store.history("nightly")
    assert copied.evidence.of("nightly", "subject", "test") == store.evidence.of("nightly", "subject", "test")
    copied.evidence.add(Measured("nightly", "subject", "test", "2", 5.0, {"row": 1.0}))
    store.close()
    copied.close()


def test_a_database_in_use_is_not_copied(old: Path, tmp_path: Path, console_script: Script) -> None:
    engine = open_engine(old)
    lease = Lease(engine, "worker")
    lease.renew()
    code, _, error = console_script("storage", "copy", str(old), str(tmp_path / "new.db"))
    assert (code, "in use, by 1 session" in error) == (2, True)
    lease.end()
    assert console_script("storage", "copy", str(old), str(tmp_path / "new.db"))[0] == 0
    engine.dispose()


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("DELETE FROM requests WHERE key = (SELECT min(key) FROM requests)", "responses without a request"),
        (
            "INSERT INTO response_details VALUES ('k', 0, '', '[]', 0, 0)",
            "1 row of response_details without a response",
        ),
        ("ALTER TABLE response_details DROP COLUMN thought", "response_details has no column thought"),
        ("UPDATE agentopt_schema SET version_num = '9999'", "version 9999"),
    ],
)
def test_problems_are_found_and_not_copied(
    old: Path, tmp_path: Path, console_script: Script, statement: str, problem: str
) -> None:
    open_journal(str(old)).close()
    execute(old, statement)
    code, out, _ = console_script("storage", "check", str(old))
    assert (code, "Problem: " in out, problem in out) == (1, True, True)
    code, out, error = console_script("storage", "copy", str(old), str(tmp_path / "new.db"))
    assert (code, out, problem in error, "new.db" in error) == (2, "", True, False)
    assert not (tmp_path / "new.db").exists()


def test_a_damaged_file_is_found(old: Path, console_script: Script) -> None:
    content = bytearray(old.read_bytes())
    content[8192:12288] = b"\xff" * 4096
    old.write_bytes(content)
    code, out, _ = console_script("storage", "check", str(old))
    assert code == 1
    assert "Problem: the file is damaged: " in out


@pytest.mark.parametrize("at", [1, 2, 6])
@pytest.mark.parametrize("command", [["check"], ["migrate"], ["copy", "new.db"]], ids=" ".join)
def test_a_damaged_database_is_refused_by_every_command_before_anything_is_written(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console_script: Script, command: list[str], at: int
) -> None:
    monkeypatch.chdir(tmp_path)
    content = bytearray(old.read_bytes())
    content[at * 4096 : (at + 1) * 4096] = b"\xff" * 4096
    old.write_bytes(content)
    code, out, error = console_script("storage", command[0], "old.db", *command[1:])
    assert code == (1 if command == ["check"] else 2)
    assert "damaged" in out + error or "malformed" in out + error
    assert "old.db: " in out + error
    assert "new.db" not in out + error
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize("command", [["size"], ["list"], ["export"], ["prune", "--older-than", "1h"]], ids=" ".join)
def test_a_journal_with_a_damaged_page_is_one_message(
    old: Path, tmp_path: Path, console_script: Script, command: list[str]
) -> None:
    whole, codes = old.read_bytes(), set()
    (tmp_path / "out").write_text("of before")
    for at in range(1, len(whole) // 4096):
        old.write_bytes(whole[: at * 4096] + b"\xff" * 4096 + whole[(at + 1) * 4096 :])
        more = ["--out", str(tmp_path / "out")] if command == ["export"] else []
        code, _, error = console_script("journal", *command, *more, "-c", f"journal={old}")
        codes.add(code)
        assert code == 0 or error.count("\n") == 2, error
        if code and more:
            assert (tmp_path / "out").read_text() == "of before"
        (tmp_path / "out").write_text("of before")
    assert 1 in codes, "one of the pages is read by the command"


def test_a_file_that_is_no_database_is_named_as_such(tmp_path: Path, console_script: Script) -> None:
    (tmp_path / "t.csv").write_text("a,b\n")
    code, out, error = console_script("storage", "check", str(tmp_path / "t.csv"))
    assert (code, out) == (2, "")
    assert "t.csv: this file is not an SQLite database\n  remedy: name a database file" in error


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite+pysqlite://"])
@pytest.mark.parametrize("command", [["check"], ["migrate"], ["copy", "old.db"]], ids=" ".join)
def test_a_url_that_names_no_file_is_refused(
    old: Path, monkeypatch: pytest.MonkeyPatch, console_script: Script, command: list[str], url: str
) -> None:
    monkeypatch.chdir(old.parent)
    code, out, error = console_script("storage", *command, url)
    assert (code, out) == (2, "")
    assert "names no file" in error
    assert "sqlite:///PATH" in error


def test_other_versions_are_not_copied(old: Path, tmp_path: Path, console_script: Script) -> None:
    open_journal(str(old)).close()
    engine = open_engine(old)
    with engine.begin() as connection:
        connection.execute(VERSIONS.update().values(version_num="9999"))
    code, _, error = console_script("storage", "copy", str(old), str(tmp_path / "new.db"))
    assert (code, "update agentopt" in error) == (2, True)
    engine.dispose()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "nothing"], "no run of this name"),
        (["check", "postgresql://u@127.0.0.1:1/db"], "cannot be used"),
        (["check", "odd://x"], "cannot be used"),
        (["copy", "old.db", "old.db"], "cannot be copied into itself"),
        (
            ["copy", "old.db", "folder"],
            "folder: a database must be a file, but this is a folder\n  remedy: name a file",
        ),
        (["copy", "empty.db", "new.db"], "has neither a journal nor jobs"),
        (["migrate", "text.txt"], "text.txt: this file is not an SQLite database"),
    ],
)
def test_wrong_places_are_one_message(
    old: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    console_script: Script,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.txt").write_text("text")
    execute(tmp_path / "empty.db", "CREATE TABLE other (x)")
    code, out, error = console_script("storage", *arguments)
    assert (code, out) == (2, "")
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "new.db").exists()


def test_a_copied_journal_answers_for_the_first(old: Path, postgres_url: str, console_script: Script) -> None:
    console_script("storage", "copy", str(old), postgres_url)
    journal, copied = open_journal(str(old)), open_journal(postgres_url)
    keys = journal.rows(sa.select(responses.c.key).distinct())
    for (key,) in keys:
        assert copied.find(key, 0, 10) == journal.find(key, 0, 10)
    journal.close()
    copied.close()
