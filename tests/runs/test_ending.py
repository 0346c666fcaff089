"""What a worker or a coordinator, and a run that ends, do while their database is away."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from agentopt.core.errors import JournalError
from agentopt.core.events import Event, NotStored
from agentopt.core.outages import current
from agentopt.runs.ending import ending_once
from agentopt.runs.workers.outages import patiently
from agentopt.testing.postgres import PostgresServer
from tests.runs.test_crash import write_task
from tests.runs.test_stopped_workers import Held, until


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


HELD = 4
"""Responses that are on their way when the database goes away."""


@pytest.mark.faults
@pytest.mark.parametrize(("interrupts", "is_told"), [(1, True), (2, False)])
async def test_a_run_whose_server_has_stopped_ends_after_ctrl_c(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path, interrupts: int, is_told: bool
) -> None:
    try:
        async with Held(first=10) as server:
            process = await start(write_task(tmp_path, server.base_url), tmp_path, postgres_url)
            await until(lambda: server.in_flight >= HELD)
            await asyncio.to_thread(postgres_server.stop, is_crash=True)
            process.send_signal(signal.SIGINT)
            await read_until(process, b"stopping: waiting for ")
            server.release.set()
            for _ in range(interrupts - 1):
                process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
    finally:
        postgres_server.start()
    message = err.decode()
    assert process.returncode == 130, message
    assert "Traceback" not in message
    assert "stopped; answers that were stored are not paid again. Resume with:\n" in message
    if is_told:
        assert re.search(r"not stored: \d+ responses that were paid for", message)
        assert "that this process has ended (its lease ends by itself" in message


async def start(task: Path, folder: Path, storage: str) -> asyncio.subprocess.Process:
    """A run in a storage, whose calls go on at once."""
    settings = ["strategy=random", "budget.trials=3", "prompts.when=never", f"storage={storage}"]
    settings += [f"runs={folder}/runs", f"models=[{folder}/models.yaml]"]
    options = [part for setting in settings for part in ("-c", setting)]
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agentopt", "optimize", str(task), *options),
        env={**os.environ, "AGENTOPT_CACHE": str(folder / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


async def read_until(process: asyncio.subprocess.Process, begin: bytes) -> None:
    """Read the lines of stderr until one begins so."""
    assert process.stderr
    async with asyncio.timeout(300):
        async for line in process.stderr:
            if line.startswith(begin):
                return
    raise AssertionError("the run ended")
