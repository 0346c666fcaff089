"""The store of jobs: claims of due times, takeovers of runs, and the spend of a month."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateTable

from agentopt.core.budget import Usage
from agentopt.core.errors import ConfigError, UserError
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


def test_the_store_is_in_the_data_folder_unless_a_setting_names_another(tmp_path: Path) -> None:
    open_store(None, {"AGENTOPT_DATA": str(tmp_path / "data")}).close()
    assert (tmp_path / "data" / "jobs.db").exists()
    elsewhere = {"AGENTOPT_DATA": str(tmp_path / "data"), "AGENTOPT_JOBS_STORE": f"sqlite:///{tmp_path}/own.db"}
    open_store(None, elsewhere).close()
    assert (tmp_path / "own.db").exists()
