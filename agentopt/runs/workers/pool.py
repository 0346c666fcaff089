"""The workers of a run, as its coordinator starts, watches and ends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from agentopt.core.database import open_engine
from agentopt.core.errors import ConfigError, JournalError
from agentopt.core.events import Observer, Stopping
from agentopt.core.task import Task
from agentopt.models.base import ChatModel
from agentopt.models.catalog import ModelSpec
from agentopt.models.lease import Lease
from agentopt.models.session import Session, journal_place, open_session
from agentopt.runs.config import Config
from agentopt.runs.workers.chunks import ChunkStore
from agentopt.runs.workers.evaluator import ChunkedEvaluator, Placement
from agentopt.runs.workers.outages import patiently
from agentopt.runs.workers.processes import ProcessPlacement
from agentopt.runs.workers.ray_placement import RayPlacement, check_ray
from agentopt.runs.workers.worker import job_of


class Pool:
    """The workers of one run, and its chunks.

    Args:
        store: The chunks.
        run: The run.
        workers: Number of workers.
        placement: The workers.
    """

    def __init__(self, store: ChunkStore, run: str, workers: int, placement: Placement) -> None:
        self._store, self._run, self._workers, self._placement = store, run, workers, placement

    def evaluator(self, task: Task, config: Config, session: Session, seed: int) -> ChunkedEvaluator:
        """Return an evaluator whose examples the workers run.

        Args:
            task: The task.
            config: The settings.
            session: The models and the budget.
            seed: Seed of the responses.
        """
        return ChunkedEvaluator(
            task,
            session.model,
            session.specs,
            seed=seed,
            failed_examples=config.failed_examples,
            store=self._store,
            run=self._run,
            workers=self._workers,
            budget=session.budget,
            placement=self._placement,
        )


def check_engine(config: Config, task: Task, provider: ChatModel | None) -> None:
    """Check that workers can load what a run needs.

    Args:
        config: The settings.
        task: The task.
        provider: What makes the model calls in place of the catalogue's transports.

    Raises:
        ConfigError: They cannot.
    """
    if config.engine == "local":
        return
    if config.engine == "ray":
        check_ray()
    if provider is not None:
        rule = f"engine {config.engine} needs models of the catalogue, but got a provider that exists in this process"
        raise ConfigError(rule, remedy="leave provider out, or set engine=local")
    if task.file is None:
        rule = f"engine {config.engine} needs a task that workers can load, but it was built in Python"
        raise ConfigError(rule, remedy="write it as a task folder, or set engine=local")


@asynccontextmanager
async def open_run(
    run: str, task: Task, config: Config, specs: Mapping[str, ModelSpec], provider: ChatModel, observer: Observer
) -> AsyncIterator[tuple[Session, Pool | None]]:
    """Open the session of a run, and start its workers.

    Args:
        run: The run in the ledger.
        task: The task.
        config: The settings.
        specs: Catalogue name -> entry.
        provider: Makes the model calls of this process.
        observer: Receives the findings about models.

    Raises:
        ConfigError: The journal cannot be opened, or another process coordinates the run.
    """
    opening = open_session(
        specs,
        run,
        caps=config.budget.caps(),
        purpose_caps=config.purpose_caps(),
        journal=config.journal,
        provider=provider,
        observer=observer,
        is_shared=config.engine != "local",
    )
    async with opening as session, open_pool(config, task, session, observer) as pool:
        yield session, pool


@asynccontextmanager
async def open_pool(config: Config, task: Task, session: Session, observer: Observer) -> AsyncIterator[Pool | None]:
    """Start the workers of a run; end them at the end of the block. There is none with `engine: local`.

    Args:
        config: The settings.
        task: The task, which has a file.
        session: The session, which is shared.
        observer: Receives a `Stopping` if workers are waited for, and notes of the engine.

    Raises:
        ConfigError: Another process coordinates the run, or no worker can be started.
    """
    if config.engine == "local" or task.file is None:
        yield None
        return
    place = journal_place(config.journal)
    engine = open_engine(place)
    store = ChunkStore(engine, Lease(engine, session.journal.session))
    try:
        await patiently(store.coordinate, session.run, job_of(task, task.file, config))
        call_seconds = max(spec.timeout_seconds for spec in session.specs.values())
        placement = _placement(place, session.run, config, call_seconds)
        try:
            await placement.started(observer)
            yield Pool(store, session.run, config.workers, placement)
        finally:
            await _end(placement, store, session, observer)
    finally:
        engine.dispose()


async def _end(placement: Placement, store: ChunkStore, session: Session, observer: Observer) -> None:
    """End the workers: at once if this is cancelled, as by a second Ctrl-C."""
    placement.interrupt()
    current = asyncio.current_task()
    try:
        retiring = asyncio.create_task(_retire(store, session.run))
        if current and current.cancelling():
            with suppress(JournalError):  # it is only reported
                if calls := await patiently(store.in_flight, session.run):
                    observer(Stopping(calls))
        await placement.ended()
        await retiring
    finally:
        placement.kill()


async def _retire(store: ChunkStore, run: str) -> None:
    with suppress(JournalError):  # the lease of this process ends by itself
        await patiently(store.retire, run)


def _placement(place: Path | str, run: str, config: Config, call_seconds: float) -> Placement:
    """Start the workers that `engine` names."""
    if config.engine == "ray":
        return RayPlacement(place, run, config.workers, call_seconds, config.ray)
    return ProcessPlacement(place, run, config.workers, call_seconds)
