"""Where the state of the search agent's graph is kept: an SQLite file, or a PostgreSQL database."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.sqlite import SqliteSaver
from sqlalchemy.dialects import postgresql, sqlite

from agentopt.core.database import LOCK, LONGEST_PAUSE, WAIT_SECONDS, Condition, open_engine
from agentopt.core.errors import ConfigError, JournalError
from agentopt.core.extras import install_command
from agentopt.core.files import create_private

T = TypeVar("T")

SETUP_LOCK = LOCK + 1
"""Key of the advisory lock under which the tables are created. It is not `LOCK`: an index that is created concurrently
waits for the transactions of others, which may wait for that."""


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
    # The saver turns on WAL mode; the long timeout lets two processes share the file.
    with closing(sqlite3.connect(place, timeout=60, check_same_thread=False)) as connection, _one_thread() as thread:
        yield _SqliteSaver(connection, condition, thread)


def _one_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "checkpoints")


class _InThread(BaseCheckpointSaver[Any]):
    """The asynchronous methods of a saver, which call its others in one thread.

    A transaction across several turns of the event loop would wait forever for code of the loop that waits for the
    locks of this transaction, such as the check that this process still has the run.
    """

    _thread: ThreadPoolExecutor

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
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)


class _SqliteSaver(_InThread, SqliteSaver):
    """Checkpoints in SQLite. A condition is checked in the transaction of each write."""

    def __init__(self, connection: sqlite3.Connection, condition: Condition | None, thread: ThreadPoolExecutor) -> None:
        super().__init__(connection)
        self._condition, self._thread = condition, thread

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
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
        from psycopg import AsyncConnection
        from psycopg.rows import dict_row
        from psycopg_pool import ConnectionPool
    except ModuleNotFoundError as error:
        rule = f"checkpoints in PostgreSQL need {error.name}, which is not installed"
        raise ConfigError(rule, remedy=install_command("postgres")) from error
    engine = open_engine(url)
    _, connecting = engine.dialect.create_connect_args(engine.url)
    engine.dispose()
    options: dict[str, Any] = {**connecting, "autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    # In the event loop, because it may wait for other processes and Ctrl-C must end that.
    async with await AsyncConnection.connect(**options) as connection:
        while not await _is_locked_by(connection):  # noqa: ASYNC110 - other processes change it
            await asyncio.sleep(0.1)
        await AsyncPostgresSaver(connection).setup()  # the lock is released with the connection

    def limit_pauses(connection: Any) -> None:
        connection.execute(f"SET idle_in_transaction_session_timeout = '{LONGEST_PAUSE}s'")

    # A pool, because it replaces a connection that a restart of the database closed.
    check = ConnectionPool.check_connection
    pool = ConnectionPool("", kwargs=options, min_size=1, max_size=1, configure=limit_pauses, check=check, open=True)
    with pool, _one_thread() as thread:
        yield _checked_saver(pool, condition, thread)


def _checked_saver(pool: Any, condition: Condition | None, thread: ThreadPoolExecutor) -> BaseCheckpointSaver[Any]:
    """Checkpoints in PostgreSQL. A condition is checked in the transaction of each write."""
    from langgraph.checkpoint.postgres import PostgresSaver

    query = condition.sql(postgresql.dialect()) if condition else ""  # type: ignore[no-untyped-call]

    class Saver(_InThread, PostgresSaver):
        _thread = thread

        async def _call(self, function: Callable[[], T]) -> T:
            return await super()._call(lambda: _repeated(function))

        def put(self, *arguments: Any, **named: Any) -> RunnableConfig:
            with self._checked() as saver:
                return saver.put(*arguments, **named)

        def put_writes(self, *arguments: Any, **named: Any) -> None:
            with self._checked() as saver:
                saver.put_writes(*arguments, **named)

        @contextmanager
        def _checked(self) -> Iterator[PostgresSaver]:
            with pool.connection() as connection, connection.transaction():
                if condition and connection.execute(query).fetchone() is None:
                    raise condition.failure()
                yield PostgresSaver(connection, serde=self.serde)

    return Saver(pool)


def _repeated(function: Callable[[], T]) -> T:
    """Call a function that may be repeated, again while PostgreSQL cannot be reached, as when it restarts."""
    from psycopg import OperationalError

    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return function()
        except OperationalError as error:
            if time.monotonic() > deadline:
                remedy = "check the database and its URL"
                raise JournalError(f"the storage cannot be reached: {error}\n  remedy: {remedy}") from error
        time.sleep(0.5)


async def _is_locked_by(connection: Any) -> bool:
    row = await (await connection.execute("SELECT pg_try_advisory_lock(%s) AS done", (SETUP_LOCK,))).fetchone()
    return bool(row["done"])
