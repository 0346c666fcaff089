"""The daemon of `agentopt jobs start`: enters in the store what the calendar says is due, and works on as many runs as
it has slots for: those that wait, and those that others left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from agentopt.core.errors import ConfigError, UserError
from agentopt.jobs.scheduler import Calendar, OnDue
from agentopt.jobs.store import JobRun, KnownJob
from agentopt.jobs.webhook import signer_of
from agentopt.jobs.worker import Worker


class Daemon:
    """Runs until it is told to stop. `slots` is how many runs it works on at once, `poll` the seconds between looks at
    the store for jobs that were added or changed and runs that wait. `calendar` makes what tells which job is due."""

    def __init__(
        self,
        worker: Worker,
        *,
        slots: int = 1,
        poll: float = 1.0,
        calendar: Callable[[str, OnDue], Calendar] = Calendar,
    ) -> None:
        self._worker, self._poll, self._calendar = worker, poll, calendar
        self._free = slots
        self._unclaimed: dict[str, float] = {}
        self._unreadable: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. Then runs are interrupted: what was sent is waited for, and the rest is left for the
        next start. Raises `CalendarError` where nothing would be due any more."""
        worker = self._worker
        worker.log("daemon_started", owner=worker.owner)
        calendar = self._calendar(worker.store.url, self._on_due)
        jobs = worker.store.jobs()
        self._warn_of_secrets(jobs)
        calendar.start(jobs)
        stopping = asyncio.create_task(self._wake_at(stop))
        try:
            while not stop.is_set():
                self._look(calendar)
                self._wake.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._poll)
        finally:
            stopping.cancel()
            calendar.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            worker.log("daemon_stopped", owner=worker.owner)

    async def _wake_at(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()

    def _on_due(self, name: str, due: float) -> None:
        self._unclaimed[name] = due
        try:
            self._claim()
        except SQLAlchemyError as error:  # the calendar tells a time once, so it is kept for the next look
            self._worker.log("store_failed", job=name, message=type(error).__name__)
        self._wake.set()

    def _claim(self) -> None:
        for name, due in list(self._unclaimed.items()):
            self._worker.claim(name, due)
            del self._unclaimed[name]

    def _look(self, calendar: Calendar) -> None:
        try:
            self._claim()
            self._tell_unreadable()
            calendar.sync(self._worker.store.jobs())
            self._take_what_waits()
        except SQLAlchemyError as error:  # a database that restarts must not end the daemon
            self._worker.log("store_failed", message=type(error).__name__)

    def _warn_of_secrets(self, jobs: Sequence[KnownJob]) -> None:
        for known in jobs:
            try:
                if known.job.webhook:
                    signer_of(known.job.webhook)
            except ConfigError as error:
                self._worker.log("webhook_secret_unusable", job=known.job.name, message=str(error))

    def _tell_unreadable(self) -> None:
        unreadable = self._worker.store.unreadable()
        for name in unreadable.keys() - self._unreadable:
            self._worker.log("job_unreadable", job=name, message=unreadable[name])
        self._unreadable = set(unreadable)

    def _take_what_waits(self) -> None:
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
            with suppress(UserError):  # the job was removed meanwhile; the store says so
                await self._worker.work(run)
        except SQLAlchemyError as error:  # the run's lease runs out, and then it is taken over
            self._worker.log("store_failed", job=run.job, run=run.id, message=type(error).__name__)
        finally:
            self._free += 1
            self._wake.set()
