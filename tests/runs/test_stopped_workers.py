"""A run that ends early: no process sends anything more, and the calls in flight are answered and stored."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from agentopt.api import aevaluate
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.errors import CallsFailError
from agentopt.core.events import Observer
from agentopt.runs.config import load_config
from agentopt.testing.faults import Fault
from agentopt.testing.servers import OpenAIServer, planted_answer
from tests.runs.test_crash import QUALITY, lost_in_flight
from tests.runs.test_workers import Coordinator, coordinating, write_distinct_task

CANARY_CALLS = 10
"""Calls of the first five examples, which run before all others."""
EACH = 2
"""Calls that each process may have in flight. The calls of its other examples wait."""


class Held(OpenAIServer):
    """A server that holds its responses after the first ones until `release` is set.

    Args:
        first: How many it does not hold.
        fault_at: Number of a request that is refused with HTTP 401 in place of being held; none if 0.
    """

    def __init__(self, first: int = CANARY_CALLS, fault_at: int = 0) -> None:
        super().__init__(planted_answer(QUALITY))
        self._first, self._fault_at = first, fault_at
        self.release = asyncio.Event()

    async def _respond(self, request: web.Request, body: dict[str, Any], fault: Fault | None) -> web.StreamResponse:
        if self.calls == self._fault_at:
            return self._error(401, "Incorrect API key provided")
        if self.calls > self._first:
            await self.release.wait()
        return await super()._respond(request, body, fault)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(300):
        while not condition():  # noqa: ASYNC110 - a server and a database have no event for it
            await asyncio.sleep(0.01)


def write_narrow_task(folder: Path, base_url: str) -> Path:
    """A task whose models answer `EACH` calls of a process at a time."""
    task = write_distinct_task(folder, base_url)
    models = yaml.safe_load((folder / "models.yaml").read_text())
    for entry in models["models"].values():
        entry["concurrency"] = EACH
    (folder / "models.yaml").write_text(yaml.safe_dump(models))
    return task


def no_chunk_is_claimed(run: Coordinator) -> bool:
    return not any(state.is_claimed for state in run.store.states("run", range(100)).values())


class NotInterrupted:
    """Workers of another machine, which no signal reaches."""

    interrupts = 0

    async def started(self, observe: Observer) -> None:
        pass

    def check(self) -> None:
        pass

    def interrupt(self) -> None:
        self.interrupts += 1

    async def ended(self) -> None:
        pass

    def kill(self) -> None:
        pass


@pytest.mark.parametrize("workers", [1, 2])
async def test_workers_that_no_signal_reaches_stop_once_their_chunks_are_withdrawn(
    tmp_path: Path, workers: int
) -> None:
    async with Held() as server:
        write_narrow_task(tmp_path, server.base_url)
        async with coordinating(tmp_path, server.base_url) as run:
            run.placement = placement = NotInterrupted()
            for _ in range(workers):
                run.start_worker()
            evaluating = asyncio.create_task(run.evaluate())
            await until(lambda: server.in_flight == workers * EACH)
            evaluating.cancel()
            await until(lambda: no_chunk_is_claimed(run))
            assert placement.interrupts == 1, "those that a signal reaches"
            server.release.set()
            await asyncio.gather(evaluating, return_exceptions=True)
        assert server.calls == CANARY_CALLS + workers * EACH
    assert lost_in_flight(tmp_path) == 0


async def test_a_worker_that_is_interrupted_while_it_waits_for_the_last_calls_of_a_run_stores_them(
    tmp_path: Path,
) -> None:
    async with Held() as server:
        write_narrow_task(tmp_path, server.base_url)
        async with coordinating(tmp_path, server.base_url) as run:
            run.placement = NotInterrupted()
            worker = run.start_worker()
            evaluating = asyncio.create_task(run.evaluate())
            await until(lambda: server.in_flight == EACH)
            run.store.retire("run")
            await until(lambda: no_chunk_is_claimed(run))
            await asyncio.sleep(0.5)  # now it closes its session
            assert not worker.done()
            worker.cancel()
            server.release.set()
            evaluating.cancel()
            await asyncio.gather(worker, evaluating, return_exceptions=True)
        assert server.calls == CANARY_CALLS + EACH
    assert lost_in_flight(tmp_path) == 0


async def test_after_an_error_that_ends_the_run_no_worker_sends_a_call(tmp_path: Path) -> None:
    async with Held(fault_at=CANARY_CALLS + 2 * EACH) as server:
        write_narrow_task(tmp_path, server.base_url)
        async with coordinating(tmp_path, server.base_url) as run:
            for _ in range(2):
                run.start_worker()
            evaluating = asyncio.create_task(run.evaluate())
            await until(evaluating.done)
            with pytest.raises(CallsFailError, match="every further call to the model would fail"):
                await evaluating
            server.release.set()
        assert server.calls == CANARY_CALLS + 2 * EACH
    assert lost_in_flight(tmp_path) == 0


class Refusing(Held):
    """A server that refuses the model `small` with HTTP 401 after the first calls, once `EACH` calls are held."""

    small = 0
    is_refusing = False

    async def _respond(self, request: web.Request, body: dict[str, Any], fault: Fault | None) -> web.StreamResponse:
        if self.calls > CANARY_CALLS and body["model"] == "small":
            self.small += 1
            await until(lambda: self.is_refusing or self.in_flight - self.small == EACH)
            self.is_refusing = True
            return self._error(401, "Incorrect API key provided")
        return await super()._respond(request, body, fault)


BY_MODELS = Candidate.of({"find": SubtaskChoice("large", 1), "answer": SubtaskChoice("small", 1)})


async def test_after_a_fatal_error_a_worker_calls_no_other_model_for_the_examples_that_are_left(tmp_path: Path) -> None:
    async with Refusing(first=CANARY_CALLS + 1) as server:
        write_narrow_task(tmp_path, server.base_url)
        async with coordinating(tmp_path, server.base_url) as run:
            run.start_worker()
            evaluating = asyncio.create_task(run.evaluate(1, candidate=BY_MODELS))
            await until(lambda: server.is_refusing and not stored_calls(tmp_path, "in flight", "small"))
            server.release.set()
            with pytest.raises(CallsFailError, match="every further call to the model would fail"):
                await evaluating
        assert [r.body["model"] for r in server.requests].count("large") == CANARY_CALLS // 2 + 1 + EACH
    assert lost_in_flight(tmp_path) == 0


@pytest.mark.parametrize("answered", [1, 2])
async def test_after_a_fatal_error_one_process_calls_no_other_model_for_the_examples_that_are_left(
    tmp_path: Path, answered: int
) -> None:
    async with Refusing(first=CANARY_CALLS + answered) as server:
        task = write_narrow_task(tmp_path, server.base_url)
        config = load_config([f"models=[{tmp_path}/models.yaml]", f"journal={tmp_path}/journal.db"])
        evaluating = asyncio.create_task(aevaluate(task, BY_MODELS, config, split="validation"))
        await until(lambda: server.is_refusing and not stored_calls(tmp_path, "in flight", "small"))
        server.release.set()
        with pytest.raises(CallsFailError, match="every further call to the model would fail"):
            await evaluating
        assert [r.body["model"] for r in server.requests].count("large") == CANARY_CALLS // 2 + answered + EACH
    assert stored_calls(tmp_path, "ok", "large") == CANARY_CALLS // 2 + answered + EACH
    assert lost_in_flight(tmp_path) == 0


def stored_calls(folder: Path, outcome: str, model: str) -> int:
    with closing(sqlite3.connect(folder / "journal.db")) as journal:
        found = journal.execute("select count(*) from ledger where outcome = ? and model = ?", (outcome, model))
        return int(found.fetchone()[0])


INTERRUPTED_TASK = """
import asyncio
from rich.console import Console
from agentopt.cli.output import interruptible

async def main():
    async def step():
        raise KeyboardInterrupt  # as the handler of a second Ctrl-C does in whatever runs then
    task = asyncio.create_task(step())
    await asyncio.sleep(10)

with interruptible(Console(stderr=True)):
    asyncio.run(main())
"""


def test_a_task_that_the_second_ctrl_c_ends_prints_no_traceback() -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED_TASK], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (130, 1), ended.stderr
