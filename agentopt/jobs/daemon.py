"""The daemon of `agentopt jobs start`: told by the calendar what is due, it claims and works on as many runs as it has
slots for, and takes over what others left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from agentopt.errors import UserError
from agentopt.jobs.scheduler import Calendar, OnDue
from agentopt.jobs.store import JobRun
from agentopt.jobs.worker import Worker


class Daemon:
    """Runs until it is told to stop. `slots` is how many runs it works on at once, `poll` the seconds between looks at
    the store for jobs that were added, changed or left behind. `calendar` makes what tells which job is due."""

    def __init__(
        self,
        worker: Worker,
        *,
        slots: int = 1,
        poll: float = 1.0,
        calendar: Callable[[str, OnDue], Calendar] = Calendar,
    ) -> None:
        self._worker, self._poll, self._calendar = worker, poll, calendar
        self._slots = asyncio.Semaphore(slots)
        self._waiting: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. Then runs are interrupted: what was sent is waited for, and the rest is left for the
        next start."""
        worker = self._worker
        worker.log("daemon_started", owner=worker.owner)
        calendar = self._calendar(worker.store.url, self._on_due)
        self._take_over()
        calendar.start(worker.store.jobs())
        try:
            while not stop.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), self._poll)
                self._look(calendar)
        finally:
            calendar.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            worker.log("daemon_stopped", owner=worker.owner)

    def _look(self, calendar: Calendar) -> None:
        try:
            calendar.sync(self._worker.store.jobs())
            self._take_over()
        except SQLAlchemyError as error:  # a database that restarts must not end the daemon
            self._worker.log("store_failed", message=type(error).__name__)

    def _take_over(self) -> None:
        """Go on with one run that was left behind, if there is a slot for it; the next look finds the others."""
        if self._slots.locked():
            return
        for run in self._worker.orphans():
            if taken := self._worker.take_over(run):
                self._spawn(self._work(taken))
                return

    def _on_due(self, name: str, due: float) -> None:
        if name in self._waiting:
            # Its earlier time waits for a slot: they become one run, for the later time.
            self._waiting[name] = due
        else:
            self._spawn(self._run_due(name, due))

    async def _run_due(self, name: str, due: float) -> None:
        """Claim the time when there is a slot, so that times that have to wait are left to other daemons. A time that
        overlaps with an open run is claimed at once: the store records that it was skipped."""
        if self._worker.store.open_runs(name):
            await self._claim_and_work(name, due)
            return
        self._waiting[name] = due
        try:
            await self._slots.acquire()
        finally:
            due = self._waiting.pop(name)
        try:
            await self._claim_and_work(name, due)
        finally:
            self._slots.release()

    async def _claim_and_work(self, name: str, due: float) -> None:
        if run := self._worker.claim(name, due):
            with suppress(UserError):  # the job was removed meanwhile; the store says so
                await self._worker.work(run)

    async def _work(self, run: JobRun) -> None:
        with suppress(UserError):  # the job was removed meanwhile; the store says so
            await self._worker.work(run, self._slots)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._worker.log("store_failed", message=f"{type(error).__name__}: {error}")
