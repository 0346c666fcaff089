"""A worker: claims chunks of examples in a storage, evaluates them, and writes the results."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agentopt.core.budget import Usage
from agentopt.core.cost import Unit
from agentopt.core.database import open_engine
from agentopt.core.errors import AgentoptError, BudgetExceeded, ConfigError
from agentopt.core.message_text import counted
from agentopt.core.records import ExampleResult
from agentopt.core.task import Example, Task
from agentopt.evaluation.evaluator import Evaluator
from agentopt.evaluation.judge import Judge
from agentopt.models.catalog import Catalog, ModelSpec
from agentopt.models.lease import Lease
from agentopt.models.session import Session, open_session
from agentopt.runs.config import Config
from agentopt.runs.ending import ending_once
from agentopt.runs.evaluators import open_evaluator
from agentopt.runs.task_identity import fingerprint
from agentopt.runs.workers.chunks import Chunk, ChunkStore
from agentopt.runs.workers.failures import as_json, in_a_line
from agentopt.runs.workers.outages import patiently
from agentopt.taskfile.loading import load_task
from agentopt.workflow.base import Draw

WINDOW = 64
"""Examples of a chunk that run concurrently."""
FIRST_POLL, LONGEST_POLL = 0.02, 0.5
"""Seconds between two looks for a chunk."""
WATCH_SECONDS = 0.1
"""Seconds between two looks whether a chunk is withdrawn, while it runs."""
LONGEST_IDLE = 5.0
"""Seconds without a chunk of a run after which a worker that is not bound to it looks for another run."""

Log = Callable[[str], None]
"""Logs one line."""


def job_of(task: Task, task_path: Path, config: Config) -> dict[str, Any]:
    """Return what a worker needs to load the task of a run, in JSON.

    Args:
        task: The task.
        task_path: The task's folder or file.
        config: The settings; the journal's URL, which may hold a password, is not part of it.
    """
    settings = config.absolute().model_copy(update={"journal": None, "storage": None}).model_dump(mode="json")
    return {"task": str(task_path), "fingerprint": fingerprint(task, config), "config": settings}


async def work(
    place: Path | str, *, run: str | None = None, log: Log = lambda _: None, idle_seconds: float = LONGEST_IDLE
) -> None:
    """Work until cancelled, or until the run is over.

    Args:
        place: The storage: a path or a SQLAlchemy URL.
        run: The run to work for; any that has chunks unless given.
        log: Logs one line.
        idle_seconds: Seconds without a chunk of a run after which it looks for another one, unless `run` is given.

    Raises:
        UserError: The task of `run` cannot be loaded.
    """
    async with ending_once(lambda event: log(event.message)):
        await _work(place, run, _News(log), idle_seconds)


async def _work(place: Path | str, run: str | None, news: _News, idle_seconds: float) -> None:
    engine = open_engine(place)
    store = ChunkStore(engine, Lease(engine, uuid.uuid4().hex))
    try:
        while True:
            waiting = await patiently(store.waiting_runs)
            news.ended(waiting)
            if run and run not in waiting:
                return
            for name in [run] if run else waiting:
                await _serve(place, name, None if run else idle_seconds, news)
            await asyncio.sleep(LONGEST_POLL)
    finally:
        engine.dispose()


class _News:
    """Logs what is new about runs: a worker leaves and returns to a run that has no chunk for a while.

    Args:
        log: Logs one line.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        self._last: dict[str, str] = {}
        self._served = set[str]()

    def serves(self, run: str) -> None:
        """Log that a run is worked for."""
        self._served.add(run)
        self._changed(run, f"works for run {run}")

    def cannot_serve(self, run: str, error: AgentoptError) -> None:
        """Log why a run is not worked for."""
        self._changed(run, f"run {run} cannot be worked for: {error}")

    def ended(self, waiting: Sequence[str]) -> None:
        """Log which runs have no coordinator any more."""
        for run in [run for run in self._last if run not in waiting]:
            del self._last[run]
            if run in self._served:
                self._served.discard(run)
                self.log(f"run {run} needs no more work")

    def _changed(self, run: str, line: str) -> None:
        if self._last.get(run) != line:
            self._last[run] = line
            self.log(line)


async def _serve(place: Path | str, run: str, idle_seconds: float | None, news: _News) -> None:
    """Work for one run until it has no coordinator, or has had no chunk for so long (None: for any time)."""
    engine = open_engine(place)
    try:
        job = await patiently(ChunkStore(engine, Lease(engine, "")).job, run)
        try:
            task, specs, config = _loaded(job)
        except AgentoptError as error:
            if idle_seconds is None:
                raise
            news.cannot_serve(run, error)
            return
        opening = open_session(specs, run, caps=config.budget.caps(), journal=str(place), is_shared=True)
        async with _closed_in_any_case(opening) as session:
            news.serves(run)
            store = ChunkStore(engine, Lease(engine, session.journal.session))
            await _Serving(task, config, session, store, run, news.log).serve(idle_seconds)
    finally:
        engine.dispose()


@asynccontextmanager
async def _closed_in_any_case(opening: AbstractAsyncContextManager[Session]) -> AsyncIterator[Session]:
    """Close the session also if this is cancelled meanwhile: it waits for calls in flight whose run may be over."""
    stack = AsyncExitStack()
    session = await stack.enter_async_context(opening)
    try:
        yield session
    finally:
        closing = asyncio.create_task(stack.aclose())
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await closing
            raise


def _loaded(job: dict[str, Any]) -> tuple[Task, dict[str, ModelSpec], Config]:
    config = Config.model_validate(job["config"])
    catalog = Catalog.load(*config.models)
    task = load_task(Path(job["task"]), catalog=catalog, overrides=config.task)
    if fingerprint(task, config) != job["fingerprint"]:
        rule = "a worker needs the task that the run was started with, but it is another one here"
        raise ConfigError(rule, where=job["task"], remedy="copy the task folder of the coordinator to this machine")
    names = [*task.models, *([task.scorer.model] if isinstance(task.scorer, Judge) else [])]
    return task, {name: catalog[name] for name in dict.fromkeys(names)}, config


@dataclass
class _Serving:
    """The work for one run."""

    task: Task
    config: Config
    session: Session
    store: ChunkStore
    run: str
    log: Log
    evaluators: dict[tuple[int, Unit], Evaluator] = field(default_factory=dict)

    async def serve(self, idle_seconds: float | None) -> None:
        wait, idle_since = FIRST_POLL, time.monotonic()
        while await patiently(self.store.epoch, self.run) is not None:
            if chunk := await patiently(self.store.claim, self.run):
                await self._run(chunk)
                wait, idle_since = FIRST_POLL, time.monotonic()
                continue
            if idle_seconds is not None and time.monotonic() - idle_since > idle_seconds:
                return
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_POLL)

    async def _run(self, chunk: Chunk) -> None:
        evaluator = self._evaluator(chunk.work.seed, chunk.work.unit)
        before, running = evaluator.calls, _Running(self.store, evaluator, chunk)
        calls, tokens, usd, seconds = chunk.work.held_back
        try:
            with self.session.budget.holding_back(Usage(calls, 0, tokens, usd), seconds):
                failure = await running.run(self._examples(chunk))
        except BaseException:
            # Interrupted: the calls in flight are still answered, and another worker runs the rest.
            with suppress(AgentoptError):
                await asyncio.shield(patiently(self.store.release, chunk))
            raise
        await self.session.budget.publish()
        if running.is_withdrawn and not failure:
            await patiently(self.store.release, chunk)
            return
        end = f"ended: {in_a_line(failure)}" if failure else f"has {counted(len(chunk.work.ids), 'result')}"
        self.log(f"chunk {chunk.number} of run {self.run} {end}")
        await patiently(self.store.end, chunk, evaluator.calls - before, failure)

    def _evaluator(self, seed: int, unit: Unit) -> Evaluator:
        if (seed, unit) not in self.evaluators:
            task = replace(self.task, unit=unit)
            self.evaluators[seed, unit] = open_evaluator(task, self.config, self.session, seed=seed)
        return self.evaluators[seed, unit]

    def _examples(self, chunk: Chunk) -> list[Example]:
        by_id = {example.id: example for example in self.task.splits[chunk.work.split]}
        return [by_id[example_id] for example_id in chunk.work.ids]


class _Running:
    """One chunk that is run."""

    def __init__(self, store: ChunkStore, evaluator: Evaluator, chunk: Chunk) -> None:
        self._store, self._evaluator, self._chunk = store, evaluator, chunk
        self.is_withdrawn = False
        self._window = asyncio.Semaphore(WINDOW)
        self._examples: list[asyncio.Task[None]] = []
        self._written: list[ExampleResult] = []
        self._writing = asyncio.Lock()

    async def run(self, examples: Sequence[Example]) -> str:
        """Run the examples that have no result. Returns why one could not be run, in JSON; empty if all were."""
        work = self._chunk.work
        done = await patiently(self._store.results, self._chunk.run, work.evaluation)
        self._examples = [asyncio.create_task(self._run_example(one)) for one in examples if one.id not in done]
        watching = asyncio.create_task(self._watch())
        try:
            outcomes = await asyncio.gather(*self._examples, return_exceptions=True)
        finally:
            watching.cancel()
        # Those that were cancelled are not failures.
        errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if not errors:
            return ""
        # A cap ends the run, whatever else failed at the same time.
        return as_json(next((error for error in errors if isinstance(error, BudgetExceeded)), errors[0]))

    async def _run_example(self, example: Example) -> None:
        work = self._chunk.work
        async with self._window:
            if self.is_withdrawn:
                return
            try:
                result = await self._evaluator.run_example(work.candidate, example, Draw(work.seed, work.repeat))
            except BudgetExceeded:
                self.is_withdrawn = True  # those that have begun may go on with what is left under the cap
                raise
            except Exception:
                self._withdraw()
                raise
        self._written.append(replace(result, repeat=work.repeat))
        async with self._writing:
            batch, self._written = self._written, []
            await patiently(self._store.write, self._chunk, batch)

    async def _watch(self) -> None:
        """Withdraw the chunk once its run does, or has no coordinator."""
        while not self.is_withdrawn:
            await asyncio.sleep(WATCH_SECONDS)
            if await patiently(self._store.epoch, self._chunk.run) != self._chunk.epoch:
                self._withdraw()

    def _withdraw(self) -> None:
        """Send nothing more for the chunk. Calls in flight are answered, and their responses are stored."""
        self.is_withdrawn = True
        for example in self._examples:
            example.cancel()
