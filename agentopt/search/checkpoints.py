"""Where the state of the search agent's graph is kept: an SQLite file, or a PostgreSQL database."""

from __future__ import annotations

import asyncio
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.sqlite import SqliteSaver
from sqlalchemy.dialects import sqlite

from agentopt.core.database import (
    BUSY_SECONDS,
    LOCK,
    LONGEST_PAUSE,
    Condition,
    names_in,
    open_engine,
    outage_of,
    sqlite_url,
    transact,
)
from agentopt.core.errors import ConfigError, JournalError
from agentopt.core.extras import install_command
from agentopt.core.files import create_private
from agentopt.core.outages import Outage, is_passing, outage_at

T = TypeVar("T")

SETUP_LOCK = LOCK + 1
"""Key of the advisory lock under which the tables are created. It is not `LOCK`: an index that is created concurrently
waits for the transactions of others, which may wait for that."""
MIGRATIONS = "checkpoint_migrations"
"""The table with the versions of the tables."""


@asynccontextmanager
async def open_saver(place: Path | str, condition: Condition | None = None) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """Open the checkpoints in a database; they are closed at the end of the block.

    Args:
        place: An SQLite file, or the URL of a PostgreSQL database.
        condition: Checked in each transaction that writes; if it does not hold, nothing is stored.

    Raises:
        ConfigError: The extra `postgres` is not installed.
    """
    if isinstance(place, str):
        async with _postgres_saver(place, condition) as saver:
            yield saver
        return
    create_private(place)
    # The saver turns on WAL mode.
    with closing(sqlite3.connect(place, timeout=BUSY_SECONDS, check_same_thread=False)) as connection:
        async with _one_thread() as thread:
            yield _SqliteSaver(connection, condition, thread, outage_at(sqlite_url(place)))


@asynccontextmanager
async def _one_thread() -> AsyncIterator[ThreadPoolExecutor]:
    thread = ThreadPoolExecutor(1, "checkpoints")
    try:
        yield thread
    finally:
        await asyncio.to_thread(thread.shutdown)


class _InThread(BaseCheckpointSaver[Any], ABC):
    """The asynchronous methods of a saver, which call its others in one thread, and again while the database is away.

    A transaction across several turns of the event loop would wait forever for code of the loop that waits for the
    locks of this transaction, such as the check that this process still has the run.
    """

    _thread: ThreadPoolExecutor

    @abstractmethod
    def _repeated(self, function: Callable[[], T]) -> T:
        """Call the function, again while the database is away."""

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        return await self._call(lambda: self.get_tuple(config))

    async def alist(self, config: RunnableConfig | None, **named: Any) -> AsyncIterator[CheckpointTuple]:
        for one in await self._call(lambda: list(self.list(config, **named))):
            yield one

    async def aput(self, *arguments: Any, **named: Any) -> RunnableConfig:
        return await self._call(lambda: self.put(*arguments, **named))

    async def aput_writes(self, *arguments: Any, **named: Any) -> None:
        await self._call(lambda: self.put_writes(*arguments, **named))

    async def _call(self, function: Callable[[], T]) -> T:
        with _reported():
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: self._repeated(function))


@contextmanager
def _reported() -> Iterator[None]:
    """Report that the database could not be used for as long as transactions are repeated."""
    try:
        yield
    except Exception as error:
        if not is_passing(error):
            raise
        rule = f"the state of the search cannot be stored: {error}"
        remedy = "check the database and its URL, and end what keeps a lock there"
        raise JournalError(f"{rule}\n  remedy: {remedy}") from error


class _SqliteSaver(_InThread, SqliteSaver):
    """Checkpoints in SQLite. A condition is checked in the transaction of each write."""

    def __init__(
        self, connection: sqlite3.Connection, condition: Condition | None, thread: ThreadPoolExecutor, outage: Outage
    ) -> None:
        super().__init__(connection)
        self._condition, self._thread, self._outage = condition, thread, outage

    def _repeated(self, function: Callable[[], T]) -> T:
        return self._outage.repeat(function)

    def put(self, *arguments: Any, **named: Any) -> RunnableConfig:
        with self._checked():
            return super().put(*arguments, **named)

    def put_writes(self, *arguments: Any, **named: Any) -> None:
        with self._checked():
            super().put_writes(*arguments, **named)

    @contextmanager
    def _checked(self) -> Iterator[None]:
        """Inside the block, a transaction in which the condition holds. What writes in it commits it."""
        if self._condition is None:
            yield
            return
        self.setup()
        self.conn.execute("BEGIN IMMEDIATE")
        try:
            if self.conn.execute(self._condition.sql(sqlite.dialect())).fetchone() is None:
                raise self._condition.failure()
            yield
        finally:
            self.conn.rollback()  # of a write that failed; otherwise nothing is left to roll back


async def copy_checkpoints(source: tuple[Path | str, str], target: tuple[Path | str, str]) -> int:
    """Copy the checkpoints of one search; those that are there are written again with the same values.

    Args:
        source: The database, and the key of the search in it.
        target: The same of the copy.

    Returns:
        The number of checkpoints.

    Raises:
        ConfigError: The target has checkpoints that the source does not have.
    """
    async with open_saver(source[0]) as reader, open_saver(target[0]) as writer:
        found, there = await _listed(reader, source[1]), await _listed(writer, target[1])
        if {_id(one) for one in there} - {_id(one) for one in found}:
            rule = "the state of the search has gone on in the target since it was copied"
            raise ConfigError(rule, remedy="resume the run there, or copy into an empty database")
        for one in reversed(found):
            await _put(writer, target[1], one)
    return len(found)


async def _listed(saver: BaseCheckpointSaver[Any], thread: str) -> Sequence[CheckpointTuple]:
    """All checkpoints of a search, the newest first."""
    return [one async for one in saver.alist({"configurable": {"thread_id": thread}})]


def _id(one: CheckpointTuple) -> str:
    return str(one.config["configurable"]["checkpoint_id"])


async def _put(saver: BaseCheckpointSaver[Any], thread: str, one: CheckpointTuple) -> None:
    place = one.config["configurable"]
    at = {"thread_id": thread, "checkpoint_ns": place["checkpoint_ns"]}
    before = one.parent_config["configurable"]["checkpoint_id"] if one.parent_config else None
    parent: RunnableConfig = {"configurable": {**at, "checkpoint_id": before} if before else at}
    written = await saver.aput(parent, one.checkpoint, one.metadata, one.checkpoint["channel_versions"])
    by_task: dict[str, list[tuple[str, Any]]] = {}
    for task, channel, value in one.pending_writes or ():
        by_task.setdefault(task, []).append((channel, value))
    for task, writes in by_task.items():
        await saver.aput_writes(written, writes, task)


@asynccontextmanager
async def _postgres_saver(url: str, condition: Condition | None) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    try:
        from langgraph.checkpoint.postgres import PostgresSaver
    except ModuleNotFoundError as error:
        rule = f"checkpoints in PostgreSQL need {error.name}, which is not installed"
        raise ConfigError(rule, remedy=install_command("postgres")) from error

    class Saver(_InThread, PostgresSaver):
        """Checkpoints in PostgreSQL. Each call is a transaction, in which the condition of a write is checked."""

        _connection: sa.Connection

        def __init__(self, thread: ThreadPoolExecutor) -> None:
            super().__init__(None)  # type: ignore[arg-type]  # it gets the connection of each call
            self._thread = thread

        def _repeated(self, function: Callable[[], T]) -> T:
            def work(connection: sa.Connection) -> T:
                self._connection, self.conn = connection, driver_of(connection)
                return function()

            return transact(engine, work)

        def put(self, *arguments: Any, **named: Any) -> RunnableConfig:
            self._check()
            return super().put(*arguments, **named)

        def put_writes(self, *arguments: Any, **named: Any) -> None:
            self._check()
            super().put_writes(*arguments, **named)

        def _check(self) -> None:
            if condition:
                condition.check(self._connection)

    engine = open_engine(url)
    try:
        async with _one_thread() as thread:
            with _reported():
                await asyncio.to_thread(outage_of(engine).repeat, lambda: _set_up(engine))
            yield Saver(thread)
    finally:
        await asyncio.to_thread(engine.dispose)


def driver_of(connection: sa.Connection) -> Any:
    """Return the driver's own connection."""
    return connection.connection.driver_connection


def _set_up(engine: sa.Engine) -> None:
    """Create the tables, unless they are there; one process at a time."""
    from langgraph.checkpoint.postgres import PostgresSaver
    from psycopg.errors import LockNotAvailable

    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if MIGRATIONS in names_in(connection):
            last: sa.Select[Any] = sa.select(sa.func.max(sa.column("v"))).select_from(sa.table(MIGRATIONS))
            if (connection.execute(last).scalar() or 0) >= len(PostgresSaver.MIGRATIONS) - 1:
                return
        driver = driver_of(connection)
        connection.detach()  # the lock is released with the connection
        # PostgreSQL ends the session of a process that was suspended; before version 14 it cannot.
        limit = "SELECT set_config(name, :limit, false) FROM pg_settings WHERE name = 'idle_session_timeout'"
        connection.execute(sa.text(limit), {"limit": f"{LONGEST_PAUSE}s"})
        if not connection.execute(sa.select(sa.func.pg_try_advisory_lock(SETUP_LOCK))).scalar():
            raise LockNotAvailable("another process creates the tables of the checkpoints")
        PostgresSaver(driver).setup()
