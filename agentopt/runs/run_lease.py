"""Works on a run under a lease, and keeps the files of its folder in its storage."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from agentopt.core.database import Condition, outage_of
from agentopt.core.errors import ConfigError, JournalError
from agentopt.core.events import Event, ExampleDone, Stopping
from agentopt.core.outages import LEASE, RUN_FILES, Patience
from agentopt.models.lease import Lease
from agentopt.runs.folder import RunFolder, find_run
from agentopt.runs.run_store import FILES, KNOWN, RunStore, held_by, open_store, remember

CHECK_SECONDS = 1.0
"""Least time between two checks after examples."""


@asynccontextmanager
async def holding(run: RunFolder) -> AsyncIterator[Hold]:
    """Work on a run inside of the block, under the lock of its folder, and keep its files in its storage if it has one.

    Args:
        run: The run.

    Yields:
        What stores the files that changed, at each event, and checks that this process still has the run.

    Raises:
        ConfigError: Another process works on it, or the storage cannot be used.
        JournalError: Another process has continued it, because the lease of this one was over.
    """
    if run.config.storage is None:
        with run.locked():
            yield Hold(run)
        return
    with run.locked(), open_store(run.config.storage) as (store, engine):
        lease = Lease(engine, uuid.uuid4().hex)
        hold = Hold(run, store, lease.member)
        # In threads: the database may be away, and Ctrl-C must have an effect meanwhile.
        try:
            await asyncio.to_thread(_begin, run, store, lease)
            yield hold
        except BaseException:
            await asyncio.to_thread(_end, run, store, lease, hold, outage_of(engine).patience)
            raise
        if failure := await asyncio.to_thread(_end, run, store, lease, hold, outage_of(engine).patience):
            raise failure


def _begin(run: RunFolder, store: RunStore, lease: Lease) -> None:
    lease.start()
    store.take(run, lease)
    store.pull(run.id, run.path, str(run.config.storage))


def _end(run: RunFolder, store: RunStore, lease: Lease, hold: Hold, patience: Patience) -> SQLAlchemyError | None:
    """Store the files that changed, and give the run back. Returns why something of it failed."""
    failure = None
    steps = ((RUN_FILES, hold.close), (LEASE, partial(store.release, run.id, lease.member)), (LEASE, lease.end))
    for what, step in steps:
        try:
            step()
        except SQLAlchemyError as error:
            failure = failure or error
            patience.lose(what)
    return failure


def discard(run: RunFolder, *, is_first: bool = False) -> None:
    """Remove the folder of a run that could not be started, and what a storage has of it.

    Args:
        run: The run.
        is_first: Whether the folder of runs was made for it, and is removed, too.
    """
    run.discard()
    if is_first:
        with suppress(OSError):  # another run was begun there meanwhile
            run.path.parent.rmdir()
    if run.config.storage:
        with open_store(run.config.storage) as (store, _):
            store.remove(run.id)


def is_running(run: RunFolder) -> bool:
    """Whether a process of this or another machine works on a run."""
    if run.is_locked or run.config.storage is None:
        return run.is_locked
    with open_store(run.config.storage) as (store, _):
        return any(stored.is_running for stored in store.runs() if stored.run == run.id)


def up_to_date(path: Path, storage: str | None) -> None:
    """Bring the folder of a run up to date, if the run is in a storage; nothing for any other path.

    Args:
        path: A path, as of a run's folder.
        storage: The storage, if it is reached in another way than the run's settings have.

    Raises:
        ConfigError: The run has no result here, and the storage cannot be used.
    """
    # The folder of a finished run has this file only if the run is in a storage.
    may_be_stored = (path / KNOWN).is_file() or not (path / "result.json").is_file()
    run = find_run(path) if may_be_stored and (path / "config.yaml").is_file() else None
    place = isinstance(run, RunFolder) and run.config.storage and (storage or run.config.storage)
    if not isinstance(run, RunFolder) or not place or run.is_locked:
        return
    # What has a result is read without its storage too, which may be gone.
    with suppress(*(ConfigError,) if (path / "result.json").is_file() else ()), open_store(place) as (store, _):
        store.pull(run.id, path, place)


class Hold:
    """What a process has of the run that it works on: an observer that stores the files of the run that changed.

    It uses the storage in a thread. What fails there is raised by the next event.

    Args:
        run: The run.
        store: The runs of its storage; None if it has no storage, so that no other process can continue it elsewhere.
        member: The process.
        clock: Monotonic time in seconds.
        thread: Where the storage is used; a thread of its own unless given.

    Attributes:
        condition: What must hold in each transaction that stores something of the run; None if it has no storage.
    """

    def __init__(
        self,
        run: RunFolder,
        store: RunStore | None = None,
        member: str = "",
        *,
        clock: Callable[[], float] = time.monotonic,
        thread: Executor | None = None,
    ) -> None:
        self._run, self._store, self._member, self._clock = run, store, member, clock
        self.condition = Condition(held_by(run.id, member), self._taken) if store else None
        self._pushed: dict[str, tuple[float, int]] = {}
        self._checked = -math.inf
        self._thread = thread or ThreadPoolExecutor(1, thread_name_prefix="hold")
        self._next: Future[None] | None = None
        self._failures = list[Exception]()

    def __call__(self, event: Event) -> None:
        """Check the hold, after examples at most once a second, and store the files that changed.

        Raises:
            Exception: What failed since an earlier event, such as `check`.
        """
        is_due = not isinstance(event, ExampleDone) or self._clock() - self._checked >= CHECK_SECONDS
        # What waits for the thread will find the files as they are then.
        is_planned = self._next and not self._next.running() and not self._next.done()
        if self._store and is_due and not is_planned:
            self._checked = self._clock()
            self._next = self._thread.submit(self._keep)
        if self._failures and not isinstance(event, Stopping):
            raise self._failures[0]

    def _keep(self) -> None:
        try:
            self.check()
            self.push()
        except Exception as error:  # noqa: BLE001 - raised by the next event
            self._failures.append(error)

    def check(self) -> None:
        """Check that no other process has continued the run, before something of it is stored.

        Raises:
            JournalError: One has, because the lease of this process was over.
        """
        if self._store and self.condition:
            self._store.check(self.condition)

    def push(self) -> None:
        """Store the files that changed.

        Raises:
            JournalError: As `check`.
        """
        for name in FILES if self._store else ():
            path = self._run.path / name
            with suppress(FileNotFoundError):
                state = path.stat()
                at = (state.st_mtime, state.st_size)
                if self._pushed.get(name) != at:
                    self._write(name, path.read_text(encoding="utf-8", errors="replace"))
                    self._pushed[name] = at

    def close(self) -> None:
        """Store the files that changed, unless another process has the run, and its files."""
        self._thread.shutdown()
        with suppress(JournalError):
            self.push()

    def _write(self, name: str, content: str) -> None:
        if self._store:
            if not self._store.write(self._run.id, self._member, name, content):
                raise self._taken()
            remember(self._run.path, name, content)

    def _taken(self) -> JournalError:
        remedy = f"see `agentopt runs list --all`; later, `{self._run.resuming}`"
        return JournalError(f"another process has continued this run\n  remedy: {remedy}")
