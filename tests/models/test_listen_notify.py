"""Notifications of PostgreSQL, by which a process that waits for another one's request is woken."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from agentopt.core.database import open_engine
from agentopt.models.listen_notify import CHANNEL, CHECK_SECONDS, Signal

LISTENING = sa.text("SELECT pid FROM pg_stat_activity WHERE query = :query AND pid <> pg_backend_pid()")


@pytest.fixture
def engine(postgres_url: str) -> Iterator[sa.Engine]:
    engine = open_engine(postgres_url)
    yield engine
    engine.dispose()


def listening(engine: sa.Engine) -> list[int]:
    """The connections that listen."""
    with engine.connect() as connection:
        return list(connection.scalars(LISTENING, {"query": f"LISTEN {CHANNEL}"}))


async def test_one_connection_listens_and_a_notification_ends_a_wait(engine: sa.Engine) -> None:
    signal = Signal(engine)
    try:
        await signal.wait(60)  # of what was sent before it listened
        first = listening(engine)
        await asyncio.sleep(3 * CHECK_SECONDS)
        assert len(first) == 1
        assert listening(engine) == first, "it was opened anew"
        waiting = asyncio.create_task(signal.wait(600))
        with engine.begin() as connection:
            connection.execute(sa.text(f"NOTIFY {CHANNEL}"))
        await asyncio.wait_for(waiting, 60)
    finally:
        await asyncio.to_thread(signal.close)
