"""Tests of the daemon: due times, owners, and runs whose daemon is stopped or killed."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from jobs_place import Clock, Log, claimed, until
from sqlalchemy.exc import OperationalError

from agentopt.core.budget import Usage
from agentopt.jobs.daemon import Daemon
from agentopt.jobs.jobfile import Job
from agentopt.jobs.outcome import RunOutcome
from agentopt.jobs.store import JobStore
from agentopt.jobs.tables import JobRun, KnownJob
from agentopt.jobs.worker import JobWorker, as_owner


def job(name: str, every: str = "1h") -> Job:
    return Job.model_validate({"name": name, "task": "task", "schedule": {"every": every}})


def store_of(tmp_path: Path, *names: str, added: float | None = None) -> JobStore:
    store = JobStore(f"sqlite:///{tmp_path}/jobs.db")
    for name in names:
        store.put(job(name), tmp_path, time.time() if added is None else added)
    return store


class Work:
    """A body whose work is given by the test; it records the jobs that ran."""

    def __init__(self, do: Callable[[], Awaitable[None]] = lambda: asyncio.sleep(0)) -> None:
        self.do = do
        self.ran: list[str] = []
        self.now = self.most = 0

    def __call__(self, known: KnownJob, run: JobRun, *_: object) -> Any:
        outer = self

        class Body:
            alarms = ()

            async def outcome(self) -> RunOutcome:
                outer.ran.append(run.job)
                outer.now += 1
                outer.most = max(outer.most, outer.now)
                try:
                    await outer.do()
                finally:
                    outer.now -= 1
                return RunOutcome("kept", "done")

            def spent(self) -> Usage:
                return Usage(calls=1)

            def secret_variables(self) -> list[str]:
                return []

        return Body()


class Running:
    """A daemon in this event loop with its own worker."""

    def __init__(self, store: JobStore, data: Path, work: Work, log: Log | None = None, **options: Any) -> None:
        self._stack = AsyncExitStack()
        self._stop = asyncio.Event()
        self.log = log if log is not None else Log()
        self._make = (store, data, work, options)

    async def __aenter__(self) -> JobWorker:
        store, data, work, options = self._make
        clock = options.pop("now", time.time)
        worker = self._stack.enter_context(as_owner(store, data, clock, log=self.log, body=work))
        self._task = asyncio.create_task(Daemon(worker, **{"poll": 0.02, **options}).run(self._stop))
        return worker

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await self._task
        await self._stack.aclose()


def done(store: JobStore, *names: str) -> list[JobRun]:
    return [run for name in names for run in store.history(name) if run.state == "kept"]


async def test_a_missed_time_runs_once_however_often_it_was_missed(tmp_path: Path) -> None:
    store, work = store_of(tmp_path, "a", added=time.time() - 20 * 3600 - 60), Work()
    async with Running(store, tmp_path, work):
        await until(lambda: done(store, "a"))
        await asyncio.sleep(0.1)
    (run,) = store.history("a")
    assert time.time() - run.due < 3600, "the last of the missed times"
    assert work.ran == ["a"]


async def test_a_job_that_cannot_be_read_costs_the_daemon_only_that_job(tmp_path: Path) -> None:
    store, work = store_of(tmp_path, "a", "b"), Work()
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as database, database:
        database.execute("update jobs set spec = replace(spec, '\"1h\"', '\"999999w\"') where name = 'a'")
    running = Running(store, tmp_path, work)
    async with running:
        await until(lambda: done(store, "b"))
        await asyncio.sleep(0.1)
    assert work.ran == ["b"]
    (line,) = (line for line in running.log if line["event"] == "job_unreadable")
    assert "job a: schedule.every: must be at most 520w" in line["message"]


async def test_a_secret_that_is_not_set_is_logged_when_the_daemon_starts(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    hook = {"url": "http://127.0.0.1:9/", "secret_env": "NOT_SET_HERE"}
    store.put(Job.model_validate({**job("a").model_dump(), "webhook": hook}), tmp_path, time.time())
    store.put(job("b"), tmp_path, time.time())
    running = Running(store, tmp_path, Work())
    async with running:
        await until(lambda: running.log)
    (line,) = (line for line in running.log if line["event"] == "webhook_secret_unusable")
    assert line["job"] == "a"
    assert "NOT_SET_HERE" in line["message"]
    assert running.log.index(line) == 1, "right after the line that it has started"


async def test_fifty_due_runs_and_two_daemons_on_one_store_run_each_once(tmp_path: Path) -> None:
    names = [f"job{i}" for i in range(50)]
    store, work = store_of(tmp_path, *names), Work(lambda: asyncio.sleep(0.002))
    calm: dict[str, Any] = {"slots": 2, "poll": 1.0}
    async with Running(store, tmp_path, work, **calm) as one, Running(store, tmp_path, work, **calm) as two:
        await until(lambda: len(work.ran) >= 50 and not store.open_runs(), 120)
        await asyncio.sleep(0.1)
    assert Counter(work.ran) == dict.fromkeys(names, 1)
    owners = Counter(run.owner for name in names for run in store.history(name))
    assert set(owners) <= {one.owner, two.owner}
    assert sum(owners.values()) == 50


async def test_a_job_that_is_added_paused_or_removed_meanwhile_is_noticed(tmp_path: Path) -> None:
    store, work = store_of(tmp_path), Work()
    async with Running(store, tmp_path, work):
        store.put(job("new"), tmp_path, time.time())
        await until(lambda: done(store, "new"))
        store.pause("new", True, time.time())
        await asyncio.sleep(0.1)
        store.pause("new", False, time.time())
        await until(lambda: len(done(store, "new")) == 2)
        store.remove("new")
        await asyncio.sleep(0.1)
    assert work.ran == ["new", "new"]


async def test_a_time_that_comes_while_the_job_runs_is_skipped_and_recorded(tmp_path: Path) -> None:
    clock, go_on = Clock(), asyncio.Event()
    store, work = store_of(tmp_path, "a", added=clock.time), Work(go_on.wait)  # type: ignore[arg-type]
    first, second = clock.time, clock.time + 3600
    async with Running(store, tmp_path, work, now=clock):
        await until(lambda: work.ran)
        clock.time = second
        await until(lambda: len(store.history("a")) == 2)
        go_on.set()
        await until(lambda: done(store, "a"))
    assert [(run.due, run.state) for run in store.history("a")] == [(second, "skipped"), (first, "kept")]


async def test_times_that_come_while_one_waits_for_a_slot_are_skipped(tmp_path: Path) -> None:
    clock, go_on = Clock(), asyncio.Event()
    store, work = store_of(tmp_path, "a", added=clock.time), Work(go_on.wait)  # type: ignore[arg-type]
    async with Running(store, tmp_path, work, now=clock):
        await until(lambda: work.ran)
        clock.time += 10
        store.put(job("b", "5m"), tmp_path, clock.time)
        due = [clock.time + i * 300 for i in range(3)]
        for i, clock.time in enumerate(due):
            await until(lambda i=i: len(store.history("b")) == i + 1)
        go_on.set()
        await until(lambda: done(store, "b"))
    assert [(run.due, run.state) for run in store.history("b")][::-1] == [
        (due[0], "kept"),
        (due[1], "skipped"),
        (due[2], "skipped"),
    ]
    assert work.most == 1


async def test_what_waits_for_a_slot_is_not_lost_with_its_daemon(tmp_path: Path) -> None:
    clock = Clock()
    store, forever = store_of(tmp_path, "a", "b", added=clock.time), Work(asyncio.Event().wait)  # type: ignore[arg-type]
    async with Running(store, tmp_path, forever, now=clock):
        await until(lambda: forever.ran)
    for name in ("a", "b"):
        store.pause(name, True, clock.time)
    work = Work()
    async with Running(store, tmp_path, work, now=clock):
        await until(lambda: len(done(store, "a", "b")) == 2)
    assert sorted(work.ran) == ["a", "b"]


async def test_a_daemon_that_is_stopped_leaves_its_run_to_the_next_one(tmp_path: Path) -> None:
    store, forever = store_of(tmp_path, "a"), Work(asyncio.Event().wait)  # type: ignore[arg-type]
    first = Running(store, tmp_path, forever)
    async with first:
        await until(lambda: forever.ran)
    (left,) = store.open_runs()
    assert (left.state, left.spent.calls) == ("interrupted", 1)
    assert first.log.events()[-2:] == ["run_interrupted", "daemon_stopped"]

    work = Work()
    async with Running(store, tmp_path, work):
        await until(lambda: done(store, "a"))
    assert [run.id for run in store.history("a")] == [left.id]


async def test_a_run_of_a_living_owner_cannot_be_taken_over(tmp_path: Path) -> None:
    store, clock = store_of(tmp_path, "a", added=0.0), Clock()
    with as_owner(store, tmp_path, clock, log=Log()) as one, as_owner(store, tmp_path, clock, log=Log()) as two:
        claimed(one, "a")
        assert two.orphans() == []
        clock.time += 61
        assert len(two.orphans()) == 1, "its lease ran out: the owner may be on another machine"


async def test_the_run_of_a_dead_owner_can_be_taken_over_immediately_if_its_lock_file_is_visible(
    tmp_path: Path,
) -> None:
    store, clock = store_of(tmp_path, "a", added=0.0), Clock()
    dead = tmp_path / "owners" / "dead.lock"
    with as_owner(store, tmp_path, clock, log=Log()) as here, as_owner(store, tmp_path / "b", clock, log=Log()) as far:
        claimed(replace(here, owner="dead"), "a")
        assert here.orphans() == [], "an owner without a lock file here may live on another machine"
        dead.touch()
        assert len(here.orphans()) == 1
        assert far.orphans() == []


async def test_a_run_whose_folder_is_still_held_is_not_taken_over(tmp_path: Path) -> None:
    """A process that was suspended for longer than its lease may resume at any moment."""
    store, clock = store_of(tmp_path, "a", added=0.0), Clock()
    folder = tmp_path / "run\u2028of a"
    folder.mkdir()
    with as_owner(store, tmp_path, clock, log=Log()) as one, as_owner(store, tmp_path, clock, log=Log()) as two:
        run = claimed(one, "a")
        store.note_folders(run.id, one.owner, [folder])
        clock.time += 61
        with FileLock(folder / ".lock"):
            assert two.orphans() == []
        assert len(two.orphans()) == 1


async def test_a_claim_is_renewed_while_a_run_blocks_the_event_loop(tmp_path: Path) -> None:
    store = store_of(tmp_path, "a", added=0.0)

    async def block() -> None:
        (before,) = store.open_runs()
        deadline = time.monotonic() + 30
        while store.open_runs()[0].lease == before.lease:
            assert time.monotonic() < deadline, "the lease was not renewed"
            time.sleep(0.01)  # noqa: ASYNC251 - a scorer that is not async does just this

    with as_owner(store, tmp_path, time.time, log=Log(), body=Work(block), lease=0.2) as worker:
        run = claimed(worker, "a")
        assert (await worker.work(run)).state == "kept"


async def test_a_run_that_loses_its_claim_is_cancelled(tmp_path: Path) -> None:
    store, log = store_of(tmp_path, "a", added=0.0), Log()
    forever = Work(asyncio.Event().wait)  # type: ignore[arg-type]
    with as_owner(store, tmp_path, time.time, log=log, body=forever, lease=0.2) as worker:
        run = claimed(worker, "a")
        working = asyncio.create_task(worker.work(run))
        await until(lambda: forever.ran)
        while not store.take_over(store.open_runs()[0], "another", time.time(), 60):
            pass
        assert (await working).id == run.id
    assert log.events()[-1] == "run_lost"
    assert store.open_runs()[0].owner == "another"


async def test_a_run_that_ends_in_the_moment_in_which_its_claim_is_lost_is_lost(tmp_path: Path) -> None:
    store, log = store_of(tmp_path, "a", added=0.0), Log()

    async def lose() -> None:
        (run,) = store.open_runs()
        while not store.take_over(store.open_runs()[0], "another", time.time(), 60):
            pass
        while any(thread.name == f"lease {run.id}" for thread in threading.enumerate()):
            time.sleep(0.01)  # noqa: ASYNC251 - the cancellation must come when the work is over

    with as_owner(store, tmp_path, time.time, log=log, body=Work(lose), lease=0.2) as worker:
        run = claimed(worker, "a")
        assert (await worker.work(run)).id == run.id
    assert log.events()[-1] == "run_lost"
    assert store.open_runs()[0].owner == "another"


class Failing(JobStore):
    """A store whose method `broken` fails once, as if its database restarted."""

    broken = ""

    def _fail(self, name: str) -> None:
        if self.broken == name:
            self.broken = ""
            raise OperationalError("the database restarts", None, Exception())

    def finish(self, *args: Any) -> bool:
        self._fail("finish")
        return super().finish(*args)

    def claim(self, *args: Any) -> JobRun | None:
        self._fail("claim")
        return super().claim(*args)


async def test_a_run_whose_end_could_not_be_recorded_is_resumed_by_its_own_daemon(tmp_path: Path) -> None:
    store_of(tmp_path, "a", added=0.0).close()
    store, work, clock = Failing(f"sqlite:///{tmp_path}/jobs.db"), Work(), Clock()
    store.broken = "finish"
    with as_owner(store, tmp_path, clock, log=Log(), body=work) as worker:
        run = claimed(worker, "a")
        with pytest.raises(OperationalError):
            await worker.work(run)
        assert worker.orphans() == [], "its lease has not run out"
        clock.time += 61
        (orphan,) = worker.orphans()
        taken = worker.take_over(orphan)
        assert taken is not None
        assert (await worker.work(taken)).state == "kept"
    assert work.ran == ["a", "a"]


async def test_a_run_that_is_worked_on_is_no_orphan_to_its_worker_whatever_its_lease(tmp_path: Path) -> None:
    store, clock = store_of(tmp_path, "a", added=0.0), Clock()
    forever = Work(asyncio.Event().wait)  # type: ignore[arg-type]
    with as_owner(store, tmp_path, clock, log=Log(), body=forever) as worker:
        working = asyncio.create_task(worker.work(claimed(worker, "a")))
        await until(lambda: forever.ran)
        clock.time += 61
        assert worker.orphans() == []
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        assert len(worker.orphans()) == 1


async def test_a_due_time_that_the_store_could_not_take_is_entered_when_it_can(tmp_path: Path) -> None:
    clock = Clock()
    store_of(tmp_path, "a", added=clock.time).close()
    store, work, log = Failing(f"sqlite:///{tmp_path}/jobs.db"), Work(), Log()
    store.broken = "claim"
    async with Running(store, tmp_path, work, log, now=clock):
        await until(lambda: done(store, "a"))
    assert [run.due for run in store.history("a")] == [clock.time]
    assert "store_failed" in log.events()
