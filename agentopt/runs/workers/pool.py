"""The workers of a run, as its coordinator starts, watches and ends them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from agentopt.core.database import open_engine
from agentopt.core.errors import CallsFailError, ConfigError, JournalError
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
from agentopt.runs.workers.worker import job_of

STORAGE_VARIABLE = "AGENTOPT_STORAGE"
"""Environment variable that has the storage of a worker, which other users of a host do not see."""
END_SECONDS = 20
"""Seconds that a worker has to end, beyond the time-out of its calls in flight, before it is killed."""
FIRST_POLL, LONGEST_POLL = 0.02, 0.2
"""Seconds between two looks whether the workers have ended."""
MOST_CHARACTERS = 2000
"""Length of the part of a worker's messages that is shown if it cannot work."""
MOST_STARTS = 50
"""Starts of one worker until the run ends: something ends them."""


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


class ProcessPlacement:
    """Workers that are processes of this machine.

    Args:
        place: The storage.
        run: The run.
        workers: Number of workers.
        call_seconds: The longest time-out of a call.
        end_seconds: Seconds that a worker has to end, beyond that time-out, before it is killed.
    """

    def __init__(
        self, place: Path | str, run: str, workers: int, call_seconds: float, *, end_seconds: float = END_SECONDS
    ) -> None:
        self._place, self._run, self._end_seconds = place, run, call_seconds + end_seconds
        self._logs = tempfile.TemporaryDirectory(prefix="agentopt-workers-")
        self._starts = [0] * workers
        self._interrupted = set[int]()
        self._processes = [self._start(i) for i in range(workers)]

    def check(self) -> None:
        """Replace the workers that were killed.

        Raises:
            CallsFailError: A worker cannot work.
        """
        for i, process in enumerate(self._processes):
            code = process.poll()
            if code is None:
                continue
            if code > 0 or self._starts[i] >= MOST_STARTS:
                raise CallsFailError(
                    f"a worker ended with exit code {code}: {self._message(i)}", remedy="fix the cause and start again"
                )
            self._processes[i] = self._start(i)

    def interrupt(self) -> None:
        """Let the workers send nothing more, and end once their calls in flight are answered."""
        for process in self._processes:
            # A second signal would end a worker at once, as a second Ctrl-C does.
            if process.pid not in self._interrupted and process.poll() is None:
                process.terminate()
                self._interrupted.add(process.pid)

    async def ended(self) -> None:
        """Wait until the workers have ended, or will not end."""
        wait = FIRST_POLL
        with suppress(TimeoutError):
            async with asyncio.timeout(self._end_seconds):
                while any(process.poll() is None for process in self._processes):
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, LONGEST_POLL)

    def kill(self) -> None:
        """Kill the workers that have not ended."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._logs.cleanup()

    def _start(self, i: int) -> subprocess.Popen[bytes]:
        self._starts[i] += 1
        with self._log_file(i).open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", "agentopt", "worker", "--run", self._run],
                env={**os.environ, STORAGE_VARIABLE: str(self._place)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the coordinator, which ends the workers
            )

    def _log_file(self, i: int) -> Path:
        return Path(self._logs.name) / f"{i}.log"

    def _message(self, i: int) -> str:
        """The end of what a worker wrote to stderr."""
        written = self._log_file(i).read_text(errors="replace").strip()
        return written[-MOST_CHARACTERS:] or "it wrote no message"


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
        observer: Receives a `Stopping` if workers are waited for.

    Raises:
        ConfigError: Another process coordinates the run.
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
        placement = PLACEMENTS[config.engine](place, session.run, config.workers, call_seconds)
        try:
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


PLACEMENTS: dict[str, Callable[[Path | str, str, int, float], Placement]] = {"processes": ProcessPlacement}
"""Engine -> what places its workers."""
