"""Where the state of the search agent's graph is kept: an SQLite file, or a PostgreSQL database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import aiosqlite
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from sqlalchemy.dialects import postgresql, sqlite

from agentopt.core.database import LOCK, Condition, open_engine
from agentopt.core.errors import ConfigError
from agentopt.core.extras import install_command
from agentopt.core.files import create_private

if TYPE_CHECKING:
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

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
    # The saver turns on WAL mode; the long timeout lets two processes share the file.
    create_private(place)
    async with aiosqlite.connect(place, timeout=60) as connection:
        yield _SqliteSaver(connection, condition) if condition else AsyncSqliteSaver(connection)


class _SqliteSaver(AsyncSqliteSaver):
    """A saver that checks a condition in the transaction of each write."""

    def __init__(self, connection: aiosqlite.Connection, condition: Condition) -> None:
        super().__init__(connection)
        self._condition, self._writing = condition, asyncio.Lock()
        self._query = condition.sql(sqlite.dialect())

    async def aput(self, *arguments: Any, **named: Any) -> RunnableConfig:
        async with self._checked():
            return await super().aput(*arguments, **named)

    async def aput_writes(self, *arguments: Any, **named: Any) -> None:
        async with self._checked():
            await super().aput_writes(*arguments, **named)

    @asynccontextmanager
    async def _checked(self) -> AsyncIterator[None]:
        """Inside the block, a transaction in which the condition holds. What writes in it commits it."""
        await self.setup()
        async with self._writing:
            await self.conn.execute("BEGIN IMMEDIATE")
            try:
                if await (await self.conn.execute(self._query)).fetchone() is None:
                    raise self._condition.failure()
                yield
            finally:
                await self.conn.rollback()  # of a write that failed; otherwise nothing is left to roll back


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
        from psycopg.rows import dict_row
        from psycopg_pool import AsyncConnectionPool
    except ModuleNotFoundError as error:
        rule = f"checkpoints in PostgreSQL need {error.name}, which is not installed"
        raise ConfigError(rule, remedy=install_command("postgres")) from error
    engine = open_engine(url)
    _, connecting = engine.dialect.create_connect_args(engine.url)
    engine.dispose()
    pool = AsyncConnectionPool(
        "",
        kwargs={**connecting, "autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
        min_size=1,
        max_size=2,
        check=AsyncConnectionPool.check_connection,  # one that a restart of the database closed is replaced
        open=False,
    )
    async with pool:
        saver = _checked_saver(pool, condition) if condition else AsyncPostgresSaver(cast(Any, pool))
        async with pool.connection() as connection:
            while not await _is_locked_by(connection):  # noqa: ASYNC110 - other processes change it
                await asyncio.sleep(0.1)
            try:
                await saver.setup()
            finally:
                await connection.execute("SELECT pg_advisory_unlock(%s)", (SETUP_LOCK,))
        yield saver


def _checked_saver(pool: Any, condition: Condition) -> AsyncPostgresSaver:
    """A saver that checks a condition in the transaction of each write."""
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

    query = condition.sql(postgresql.dialect())  # type: ignore[no-untyped-call]

    @asynccontextmanager
    async def checked() -> AsyncIterator[AsyncPostgresSaver]:
        async with pool.connection() as connection, connection.transaction():
            if await (await connection.execute(query)).fetchone() is None:
                raise condition.failure()
            yield AsyncPostgresSaver(connection)

    class Saver(AsyncPostgresSaver):
        async def aput(self, *arguments: Any, **named: Any) -> RunnableConfig:
            async with checked() as saver:
                return await saver.aput(*arguments, **named)

        async def aput_writes(self, *arguments: Any, **named: Any) -> None:
            async with checked() as saver:
                await saver.aput_writes(*arguments, **named)

    return Saver(pool)


async def _is_locked_by(connection: Any) -> bool:
    row = await (await connection.execute("SELECT pg_try_advisory_lock(%s) AS done", (SETUP_LOCK,))).fetchone()
    return bool(row["done"])
