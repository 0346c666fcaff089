"""The daemon of `agentopt jobs start`: claims due times in the store and executes waiting and abandoned runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from agentopt.core.errors import ConfigError, UserError
from agentopt.jobs.due_times import due_time, seconds_to_next
from agentopt.jobs.tables import JobRun, KnownJob
from agentopt.jobs.webhook import signer_of
from agentopt.jobs.worker import JobWorker


class Daemon:
    """Claims due times and runs jobs until it is stopped.

    Args:
        worker: Claims and runs, for this process.
        slots: Most runs at a time.
        poll: Most seconds between two reads of the store, which other processes may have changed.
    """

    def __init__(self, worker: JobWorker, *, slots: int = 1, poll: float = 1.0) -> None:
        self._worker, self._poll = worker, poll
        self._free = slots
        self._unreadable: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set. Then interrupt the current runs: calls in flight are awaited, and the next start
        resumes the runs."""
        worker = self._worker
        worker.log("daemon_started", owner=worker.owner)
        self._warn_of_secrets(worker.store.jobs())
        stopping = asyncio.create_task(self._wake_at(stop))
        try:
            while not stop.is_set():
                self._wake.clear()
                wait = self._look()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), wait)
        finally:
            stopping.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            worker.log("daemon_stopped", owner=worker.owner)

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()

    def _look(self) -> float:
        """Claim due runs and start waiting ones. Returns the seconds until the next poll."""
        worker = self._worker
        try:
            self._log_unreadable()
            jobs, now = worker.store.jobs(), worker.now()
            for known in jobs:
                if (due := due_time(known, now)) is not None:
                    worker.claim(known.job.name, due)
            self._start_waiting_runs()
            return min([self._poll, *(wait for known in jobs if (wait := seconds_to_next(known, now)) > 0)])
        except SQLAlchemyError as error:  # a database that restarts must not end the daemon
            worker.log("store_failed", message=type(error).__name__)
            return self._poll

    def _warn_of_secrets(self, jobs: Sequence[KnownJob]) -> None:
        for known in jobs:
            try:
                if known.job.webhook:
                    signer_of(known.job.webhook)
            except ConfigError as error:
                self._worker.log("webhook_secret_unusable", job=known.job.name, message=str(error))

    def _log_unreadable(self) -> None:
        unreadable = self._worker.store.unreadable()
        for name in unreadable.keys() - self._unreadable:
            self._worker.log("job_unreadable", job=name, message=unreadable[name])
        self._unreadable = set(unreadable)

    def _start_waiting_runs(self) -> None:
        if self._free == 0:
            return
        for run in self._worker.orphans():
            if taken := self._worker.take_over(run):
                self._free -= 1
                task = asyncio.create_task(self._work(taken))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                if self._free == 0:
                    return

    async def _work(self, run: JobRun) -> None:
        try:
            with suppress(UserError):  # the job was removed meanwhile; recorded in the store
                await self._worker.work(run)
        except SQLAlchemyError as error:  # the run is taken over when its lease expires
            self._worker.log("store_failed", job=run.job, run=run.id, message=type(error).__name__)
        finally:
            self._free += 1
            self._wake.set()
