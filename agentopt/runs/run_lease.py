"""Works on a run under a lease, and keeps the files of its folder in its storage."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agentopt.core.errors import JournalError
from agentopt.core.events import Event, ExampleDone
from agentopt.core.observers import Observer
from agentopt.models.lease import Lease
from agentopt.runs.folder import RunFolder, find_run
from agentopt.runs.run_store import FILES, RunStore, open_store, remember


@contextmanager
def holding(run: RunFolder) -> Iterator[Observer]:
    """Work on a run inside of the block, and keep its files in its storage; nothing without a storage.

    Args:
        run: The run, whose folder is locked.

    Yields:
        What stores the files that changed, at each event.

    Raises:
        ConfigError: Another process works on it, or the storage cannot be used.
        JournalError: Another process has continued it, because the lease of this one was over.
    """
    if run.config.storage is None:
        yield lambda _: None
        return
    with open_store(run.config.storage) as (store, engine):
        lease = Lease(engine, uuid.uuid4().hex)
        lease.start()
        try:
            store.take(run, lease)
            store.pull(run.id, run.path, run.config.storage)
            mirror = _Mirror(store, run, lease.member)
            try:
                yield mirror
            finally:
                with suppress(JournalError):  # another process has the run, and its files
                    mirror.push()
                store.release(run.id, lease.member)
        finally:
            lease.end()


def discard(run: RunFolder) -> None:
    """Remove the folder of a run that could not be started, and what a storage has of it."""
    run.discard()
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
    """Bring the folder of an unfinished run up to date, if the run is in a storage; nothing for any other path.

    Args:
        path: A path, as of a run's folder.
        storage: The storage, if it is reached in another way than the run's settings have.
    """
    run = find_run(path) if (path / "config.yaml").is_file() and not (path / "result.json").is_file() else None
    place = isinstance(run, RunFolder) and run.config.storage and (storage or run.config.storage)
    if isinstance(run, RunFolder) and place and not run.is_locked:
        with open_store(place) as (store, _):
            store.pull(run.id, path, place)


class _Mirror:
    """An observer that stores the files of a run that changed."""

    def __init__(self, store: RunStore, run: RunFolder, member: str) -> None:
        self._store, self._run, self._member = store, run, member
        self._pushed: dict[str, tuple[float, int]] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, ExampleDone):
            return
        if not self._store.is_held(self._run.id, self._member):
            self._stop()
        self.push()

    def push(self) -> None:
        """Store the files that changed."""
        for name in FILES:
            path = self._run.path / name
            with suppress(FileNotFoundError):
                state = path.stat()
                at = (state.st_mtime, state.st_size)
                if self._pushed.get(name) != at:
                    content = path.read_text(encoding="utf-8", errors="replace")
                    if not self._store.write(self._run.id, self._member, name, content):
                        self._stop()
                    remember(self._run.path, name, content)
                    self._pushed[name] = at

    def _stop(self) -> None:
        remedy = f"see `agentopt runs list --all`; later, `{self._run.resuming}`"
        raise JournalError(f"another process has continued this run\n  remedy: {remedy}")
