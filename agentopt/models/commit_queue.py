"""Commits the writes of concurrent callers together, in a thread: one flush of the disk for all that wait."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa

from agentopt.core.errors import JournalError

Write = tuple[sa.Executable, dict[str, object] | None]
"""A statement and its values."""
_Pending = tuple[list[Write], asyncio.Future[None]]
"""Writes that are committed together, and the future of their caller."""


class CommitQueue:
    """The writes to the journal. Use from one event loop.

    Args:
        engine: The database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._pending: list[_Pending] = []
        self._flushing: asyncio.Task[None] | None = None

    async def write(self, writes: list[Write]) -> None:
        """Commit, together with all other writes that arrive meanwhile, in one disk flush.

        Args:
            writes: Statements of one transaction.

        Raises:
            JournalError: They cannot be committed.
        """
        done = asyncio.get_running_loop().create_future()
        self._pending.append((writes, done))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        await asyncio.shield(done)

    async def flush(self) -> None:
        """Wait until everything is committed."""
        if self._flushing:
            await self._flushing

    def close(self) -> None:
        """End the writing thread."""
        self._thread.shutdown()

    async def _flush(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            failure = await self._failure_of(batch)
            if failure is None or len(batch) == 1 or isinstance(failure.__cause__, sa.exc.OperationalError):
                _resolve(batch, failure)
                continue
            # The database works, but refuses a row: commit the others without it.
            for one in batch:
                _resolve([one], await self._failure_of([one]))

    async def _failure_of(self, batch: list[_Pending]) -> JournalError | None:
        """Commit the batch, and return why it failed if it did."""
        writes = [write for of_one, _ in batch for write in of_one]
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._commit, writes)
        except Exception as error:  # noqa: BLE001 - every waiting caller must be informed, whatever it is
            failure = JournalError(f"the journal cannot be written: {error}\n  remedy: check its disk and its URL")
            failure.__cause__ = error
            return failure
        return None

    def _commit(self, writes: list[Write]) -> None:
        with self._engine.begin() as connection:
            for statement, values in writes:
                connection.execute(statement, values)


def _resolve(batch: list[_Pending], failure: JournalError | None) -> None:
    """Resolve the futures of the batch."""
    for _, done in batch:
        if done.done():
            continue
        if failure:
            done.set_exception(failure)
        else:
            done.set_result(None)
