"""What a worker or a coordinator, and a run that ends, do while their database is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from agentopt.core.errors import JournalError
from agentopt.core.events import Event, NotStored
from agentopt.core.outages import current
from agentopt.runs.ending import ending_once
from agentopt.runs.workers.outages import patiently


class AwayError(Exception):
    """The driver's error of a server that shuts down."""

    sqlstate = "57P01"


AWAY = sa.exc.OperationalError("SELECT 1", {}, AwayError())


def fail() -> None:
    raise AWAY


async def test_a_store_that_cannot_be_reached_is_reported_with_the_remedy() -> None:
    assert await patiently(lambda word: f"found {word}", "it") == "found it"
    with pytest.raises(JournalError, match=r"the storage cannot be reached(?s:.)*check the database"):
        await patiently(fail)


async def interrupted(work: Callable[[], object], events: list[Event]) -> str:
    """How a run ends that is interrupted, and does some work at its end."""
    begun = asyncio.Event()

    async def run() -> None:
        async with ending_once(events.append):
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                work()

    task = asyncio.create_task(run())
    await begun.wait()
    task.cancel()
    try:
        await task
    except BaseException as error:  # noqa: BLE001 - whatever it is
        return type(error).__name__
    return "nothing"


async def test_an_interrupted_run_whose_database_is_away_ends_as_one_that_is_interrupted() -> None:
    events: list[Event] = []

    def lose() -> None:
        patience = current()
        assert patience
        assert patience.ending_since() is not None
        patience.lose("responses", 2)
        fail()

    assert await interrupted(lose, events) == "CancelledError"
    (event,) = events
    assert isinstance(event, NotStored)
    assert event.responses == 2
    assert "2 responses that were paid for" in event.message


async def test_an_interrupted_run_that_stored_everything_reports_nothing() -> None:
    events: list[Event] = []
    assert await interrupted(lambda: None, events) == "CancelledError"
    assert not events


async def test_another_failure_of_an_interrupted_run_is_not_hidden() -> None:
    def divide() -> float:
        return 1 / 0

    assert await interrupted(divide, []) == "ZeroDivisionError"


async def test_a_run_whose_database_is_away_reports_it_if_nobody_interrupted_it() -> None:
    with pytest.raises(sa.exc.OperationalError):
        async with ending_once(lambda _: None):
            fail()
