"""A worker: claims chunks of examples in a storage, evaluates them, and writes the results."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agentopt.core.budget import Usage
from agentopt.core.cost import Unit
from agentopt.core.database import open_engine
from agentopt.core.errors import AgentoptError, BudgetExceeded, ConfigError
from agentopt.core.records import ExampleResult
from agentopt.core.task import Example, Task
from agentopt.evaluation.evaluator import Evaluator
from agentopt.evaluation.judge import Judge
from agentopt.models.catalog import Catalog, ModelSpec
from agentopt.models.lease import Lease
from agentopt.models.session import Session, open_session
from agentopt.runs.config import Config
from agentopt.runs.evaluators import open_evaluator
from agentopt.runs.folder import fingerprint
from agentopt.runs.workers.chunks import Chunk, ChunkStore
from agentopt.runs.workers.failures import as_json
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


async def work(place: Path | str, *, run: str | None = None, log: Log = lambda _: None) -> None:
    """Work until cancelled, or until the run is over.

    Args:
        place: The storage: a path or a SQLAlchemy URL.
        run: The run to work for; any that has chunks unless given.
        log: Logs one line.

    Raises:
        UserError: The task of `run` cannot be loaded.
    """
    engine = open_engine(place)
    store = ChunkStore(engine, Lease(engine, uuid.uuid4().hex))
    try:
        while True:
            waiting = await patiently(store.waiting_runs)
            if run and run not in waiting:
                return
            for name in [run] if run else waiting:
                await _serve(engine_place=place, run=name, is_bound=run is not None, log=log)
            await asyncio.sleep(LONGEST_POLL)
    finally:
        engine.dispose()


async def _serve(engine_place: Path | str, run: str, is_bound: bool, log: Log) -> None:
    """Work for one run until it has no coordinator, or has had no chunk for a while."""
    engine = open_engine(engine_place)
    try:
        job = await patiently(ChunkStore(engine, Lease(engine, "")).job, run)
        try:
            task, specs, config = _loaded(job)
        except AgentoptError as error:
            if is_bound:
                raise
            log(f"run {run} cannot be worked for: {error}")
            return
        caps, place = config.budget.caps(), str(engine_place)
        async with open_session(specs, run, caps=caps, journal=place, is_shared=True) as session:
            log(f"works for run {run}")
            store = ChunkStore(engine, Lease(engine, session.journal.session))
            await _Serving(task, config, session, store, run, log).serve(is_bound)
        log(f"run {run} needs no more work")
    finally:
        engine.dispose()


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

    async def serve(self, is_bound: bool) -> None:
        wait, idle_since = FIRST_POLL, time.monotonic()
        while await patiently(self.store.epoch, self.run) is not None:
            if chunk := await patiently(self.store.claim, self.run):
                await self._run(chunk)
                wait, idle_since = FIRST_POLL, time.monotonic()
                continue
            if not is_bound and time.monotonic() - idle_since > LONGEST_IDLE:
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
        self.log(f"chunk {chunk.number} of run {self.run}: {failure or len(chunk.work.ids)}")
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
