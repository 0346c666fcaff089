"""The states of the agent's graph in PostgreSQL: a restart during a write, and a process that is suspended in one.

What both databases share is tested with the runs that keep their states there: tests/runs/test_stored_runs.py.
"""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import sqlalchemy as sa
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint

from agentopt.core.database import LONGEST_PAUSE, Condition
from agentopt.search.checkpoints import open_saver

PLACE: RunnableConfig = {"configurable": {"thread_id": "search", "checkpoint_ns": ""}}
END_OTHERS = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"""


async def save(saver: BaseCheckpointSaver[Any]) -> None:
    await saver.aput(PLACE, empty_checkpoint(), {}, {})


async def test_a_write_whose_connection_ends_is_repeated(postgres_url: str) -> None:
    is_over = threading.Event()
    ended: list[Any] = []

    def end_one_connection() -> None:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            while not ended and not is_over.wait(0.002):
                ended.extend(connection.execute(END_OTHERS).fetchall())

    # The query takes long enough that the connection ends inside of a transaction that writes.
    slow = Condition(sa.select(sa.func.pg_sleep(0.01)), lambda: AssertionError("the condition holds"))
    async with open_saver(postgres_url, slow) as saver:
        thread = threading.Thread(target=end_one_connection)
        thread.start()
        try:
            while not ended:
                await save(saver)
        finally:
            is_over.set()
            thread.join()
        assert await saver.aget_tuple({"configurable": {"thread_id": "search"}}) is not None


async def test_a_transaction_of_a_suspended_process_is_ended_by_the_server(postgres_url: str) -> None:
    limit = sa.func.current_setting("idle_in_transaction_session_timeout")
    query = sa.select(sa.literal(1)).where(limit == f"{LONGEST_PAUSE}s")
    async with open_saver(postgres_url, Condition(query, lambda: AssertionError("there is no limit"))) as saver:
        await save(saver)
