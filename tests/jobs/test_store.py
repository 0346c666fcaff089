"""The store of jobs: claims of due times, takeovers of runs, and the spend of a month."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateTable

from agentopt.core.budget import Usage
from agentopt.core.errors import ConfigError, UserError
from agentopt.jobs.evidence_store import Measured
from agentopt.jobs.jobfile import Job
from agentopt.jobs.store import JobStore, open_store
from agentopt.jobs.tables import TABLES, JobRun

LEASE = 60.0


def job(name: str = "nightly", every: str = "1h") -> Job:
    return Job.model_validate({"name": name, "task": "task", "schedule": {"every": every}})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(f"sqlite:///{tmp_path}/jobs.db")
    store.put(job(), tmp_path, 0.0)
    yield store
    store.close()


def claimed(store: JobStore, due: float, owner: str = "a", now: float | None = None) -> JobRun:
    time = due if now is None else now
    run = store.claim("nightly", due, time)
    assert run is not None
    taken = store.take_over(run, owner, time, LEASE)
    assert taken is not None
    return taken


def finish(store: JobStore, run: JobRun, now: float, state: str = "kept", spent: Usage | None = None) -> bool:
    return store.finish(run.id, run.owner, now, {"state": state, "message": ""}, spent or Usage())


def test_a_due_time_is_had_once(store: JobStore) -> None:
    assert claimed(store, 10).state == "running"
    assert store.claim("nightly", 10, 10) is None


def test_claims_at_the_same_moment_never_have_the_same_due_time(store: JobStore, tmp_path: Path) -> None:
    """Eight threads with separate connection pools claim the same fifty times concurrently."""
    got: list[float] = []

    def ask(owner: str) -> None:
        own = JobStore(store.url)
        for due in range(1, 51):
            if run := own.claim("nightly", due, due):
                got.append(run.due)
                if taken := own.take_over(run, owner, due, LEASE):
                    finish(own, taken, due)
        own.close()

    threads = [threading.Thread(target=ask, args=(str(i),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(got).most_common(1)[0][1] == 1
    assert len(store.history("nightly")) == len(got)
    assert 50 in got


def test_a_time_before_the_last_claimed_one_was_made_up_for(store: JobStore) -> None:
    finish(store, claimed(store, 20), 21)
    assert store.claim("nightly", 10, 22) is None


def test_a_run_that_overlaps_is_skipped_and_recorded(store: JobStore) -> None:
    first = claimed(store, 10)
    second = store.claim("nightly", 20, 20)
    assert second is not None
    assert (second.state, second.message) == ("skipped", "the previous run has not ended")
    assert finish(store, first, 25)
    assert claimed(store, 30).state == "running"


def test_a_person_may_run_a_paused_job_but_the_calendar_may_not(store: JobStore) -> None:
    store.pause("nightly", True, 5)
    assert store.claim("nightly", 10, 10) is None
    assert store.claim_now("nightly", "a", 11, LEASE).state == "running"
    assert store.claim_now("nightly", "a", 12, LEASE).state == "skipped"


def test_a_pause_is_not_made_up_for(store: JobStore) -> None:
    store.pause("nightly", True, 5)
    store.pause("nightly", False, 100)
    assert store.job("nightly").since == 100
    store.pause("nightly", False, 200)
    assert store.job("nightly").since == 100, "it was not paused"


def test_a_run_is_taken_over_once_and_its_old_owner_can_do_nothing_more(store: JobStore) -> None:
    run = claimed(store, 10, "dead")
    (open_run,) = store.open_runs()
    taken = store.take_over(open_run, "b", 100, LEASE)
    assert taken is not None
    assert (taken.id, taken.owner, taken.lease) == (run.id, "b", 160)
    assert store.take_over(open_run, "c", 100, LEASE) is None
    assert not store.renew(run.id, "dead", 200)
    assert not finish(store, run, 200)
    assert finish(store, taken, 200)


def test_a_run_whose_owner_has_stirred_is_not_taken_over(store: JobStore) -> None:
    run = claimed(store, 10, "slow")
    (seen,) = store.open_runs()
    assert store.renew(run.id, "slow", 500)
    assert store.take_over(seen, "b", 100, LEASE) is None


def test_an_interrupted_run_keeps_its_folder_and_what_it_spent(store: JobStore, tmp_path: Path) -> None:
    run = claimed(store, 10)
    store.note_folders(run.id, "a", [tmp_path / "runs" / "w", tmp_path / "runs" / "x"])
    store.interrupt(run.id, "a", 12, Usage(calls=3, usd=0.5))
    (left,) = store.open_runs("nightly")
    assert (left.state, left.folder, left.spent.calls) == ("interrupted", tmp_path / "runs" / "x", 3)
    assert left.folders == (tmp_path / "runs" / "w", tmp_path / "runs" / "x")
    assert store.run(run.id) == left


def test_the_month_counts_the_spend_of_its_other_runs(store: JobStore) -> None:
    finish(store, claimed(store, 10), 11, spent=Usage(calls=5, usd=1.0))
    finish(store, claimed(store, 20), 21, spent=Usage(calls=7, usd=2.0))
    own = claimed(store, 30)
    store.interrupt(own.id, "a", 31, Usage(calls=100, usd=9.0))
    assert store.spent_since("nightly", 15, but=own.id) == Usage(calls=7, usd=2.0)
    assert store.spent_since("nightly", 0, but=own.id).usd == 3.0


def test_a_job_that_is_added_again_keeps_its_past_and_its_calendar(store: JobStore, tmp_path: Path) -> None:
    finish(store, claimed(store, 10), 11)
    store.settle("nightly", "snapshot", "champion")
    assert not store.put(job(), tmp_path, 500)
    known = store.job("nightly")
    assert (known.since, known.settled) == (0.0, ("snapshot", "champion"))
    store.settle("nightly", snapshot="today")
    assert store.job("nightly").settled == ("today", "champion"), "what is not given stays"
    store.put(job(every="2h"), tmp_path, 600)
    assert store.job("nightly").since == 600, "another schedule counts from now"


OLD_TABLES = """
CREATE TABLE jobs (name VARCHAR(64) NOT NULL, spec TEXT NOT NULL, folder TEXT NOT NULL, since DOUBLE NOT NULL,
    paused BOOLEAN NOT NULL, last_due DOUBLE, world VARCHAR(64), champion VARCHAR(64), PRIMARY KEY (name));
CREATE TABLE runs (id VARCHAR(32) NOT NULL, job VARCHAR(64) NOT NULL, due DOUBLE NOT NULL, state VARCHAR(16) NOT NULL,
    owner VARCHAR(32) NOT NULL, lease DOUBLE NOT NULL, started DOUBLE NOT NULL, ended DOUBLE, folder TEXT,
    message TEXT NOT NULL, alarm TEXT, champion INTEGER, calls INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL, usd DOUBLE NOT NULL, PRIMARY KEY (id), UNIQUE (job, due));
INSERT INTO jobs VALUES ('nightly', '{"name":"nightly","task":"task","config":[],"schedule":{"cron":null,"every":"1h",
    "time_zone":"UTC"},"caps":{"per_run":{},"per_month":{}},"promotion":{"confidence":0.9,"cheaper_by":0.1},
    "warm_start":5,"webhook":null}', '/somewhere', 0.0, 0, 10.0, 'hash', 'key');
INSERT INTO runs VALUES ('r', 'nightly', 10.0, 'kept', 'a', 20.0, 10.0, 11.0, NULL, 'as said', NULL, 1, 3, 4, 5, 0.5);
"""
"""What version 0.1.0 stored."""


def test_a_store_of_version_0_1_opens_with_its_jobs_and_history(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "old.db")) as old:
        old.executescript(OLD_TABLES)
    store = JobStore(f"sqlite:///{tmp_path}/old.db")
    known = store.job("nightly")
    assert (known.settled, known.last_due) == (("hash", "key"), 10.0)
    assert (known.job.promotion.confidence, known.job.promotion.margin, known.job.canary) == (0.9, 0.01, 0.1)
    assert [run.message for run in store.history("nightly")] == ["as said"]
    assert (store.evidence.comparisons("nightly"), store.evidence.last_canary("nightly")) == (0, None)
    store.close()


def test_a_measurement_is_stored_once_and_read_by_subject_and_kind(store: JobStore) -> None:
    evidence = store.evidence
    for slot, scores in (("r1", {"x": 1.0}), ("r1", {"x": 0.0}), ("r2", {"y": 0.5})):
        evidence.add(Measured("nightly", "s", "canary", slot, 1.0, scores, 12.0 if slot == "r2" else 0.3))
    evidence.add(Measured("nightly", "s", "test", "r1", 1.0, {"z": 1.0}))
    assert [night.scores for night in evidence.of("nightly", "s", "canary")] == [{"x": 1.0}, {"y": 0.5}]
    assert evidence.of("nightly", "another", "canary") == []
    assert (evidence.canary_of_run("nightly", "r1"), evidence.canary_of_run("nightly", "r3")) == (
        Measured("nightly", "s", "canary", "r1", 1.0, {"x": 1.0}, 0.3),
        None,
    )
    assert (evidence.alarms("nightly", 10.0), evidence.alarms("nightly", 13.0), evidence.alarms("x", 1.0)) == (1, 0, 0)


def test_a_comparison_keeps_its_number_and_each_job_counts_its_own(store: JobStore) -> None:
    opened = [store.evidence.open_comparison("nightly", one, "c", 1.0) for one in ("a", "b", "a", "d")]
    assert opened == [1, 2, 1, 3]
    assert store.evidence.open_comparison("other", "d", "c", 1.0) == 1
    assert store.evidence.comparisons("nightly") == 3


def test_comparisons_that_are_opened_concurrently_have_different_numbers(store: JobStore) -> None:
    numbers: list[int] = []

    def open_some(owner: int) -> None:
        own = JobStore(store.url)
        numbers.extend(own.evidence.open_comparison("nightly", f"{owner} {i}", "c", 1.0) for i in range(5))
        own.close()

    threads = [threading.Thread(target=open_some, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 21))


def test_an_unknown_name_is_reported_with_the_known_ones(store: JobStore) -> None:
    with pytest.raises(UserError, match="did you mean 'nightly'"):
        store.job("nihgtly")


def test_every_database_keeps_times_to_the_fraction_of_a_second() -> None:
    """The plain float of some has 32 bits, which changes a stored lease by minutes."""
    for table in TABLES.sorted_tables:
        assert " FLOAT" not in str(CreateTable(table).compile(dialect=mysql.dialect()))


def test_a_store_that_cannot_be_opened_is_one_error_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="store cannot be opened") as error:
        open_store("nosuch://user:hunter2@host/db", {})
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("word", ["x", "a=", "--help", "own.db"])
def test_what_is_named_as_a_url_is_never_created_as_a_file(tmp_path: Path, word: str) -> None:
    environ = {"AGENTOPT_DATA": str(tmp_path / "data"), "AGENTOPT_STORAGE": str(tmp_path / "storage.db")}
    for url, given in ((word, environ), (None, {**environ, "AGENTOPT_JOBS_STORE": word})):
        with pytest.raises(ConfigError, match="store cannot be opened"):
            open_store(url, given)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite+pysqlite://"])
def test_a_database_in_memory_is_refused_however_it_is_named(url: str) -> None:
    for argument, environ in ((url, {}), (None, {"AGENTOPT_JOBS_STORE": url}), (None, {"AGENTOPT_STORAGE": url})):
        with pytest.raises(ConfigError, match="names no file") as error:
            open_store(argument, environ)
        assert "sqlite:///PATH" in str(error.value)


def test_the_store_is_in_the_data_folder_unless_a_setting_names_another(tmp_path: Path) -> None:
    open_store(None, {"AGENTOPT_DATA": str(tmp_path / "data")}).close()
    assert (tmp_path / "data" / "jobs.db").exists()
    elsewhere = {"AGENTOPT_DATA": str(tmp_path / "data"), "AGENTOPT_JOBS_STORE": f"sqlite:///{tmp_path}/own.db"}
    open_store(None, elsewhere).close()
    assert (tmp_path / "own.db").exists()
    open_store(None, {"AGENTOPT_STORAGE": str(tmp_path / "storage.db")}).close()
    assert (tmp_path / "storage.db").exists()
