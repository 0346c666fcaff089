"""The live page of a run that waits after a trial until the test lets it go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from agentopt.api import optimize
from agentopt.core.events import Event, TrialDone
from agentopt.report.page.server import PageServer
from agentopt.report.progress import RunProgress
from agentopt.runs.archive import RunArchive
from agentopt.testing.toy import toy_model, toy_task
from tests.report.pages import archive_in, settings


@dataclass
class LiveRun:
    """A run on the toy task, in a thread, and the server of its page, in another.

    Attributes:
        folder: Has the run and its journal.
        stops: Numbers of the trials after which the run waits for `go_on`.
    """

    folder: Path
    stops: Sequence[int]
    address: str = ""
    _steps: int = 0
    _is_started: bool = False
    _go_on: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    _progress: RunProgress = field(default_factory=RunProgress)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve the page inside the block, and let the run end."""
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        server = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(ready),))
        self._run = threading.Thread(target=self._optimize)
        server.start()
        assert ready.wait(60)
        try:
            yield
        finally:
            self.go_on(len(self.stops))
            if self._is_started:
                self._run.join()
            self._loop.call_soon_threadsafe(self._closing.set)
            server.join()
            self._loop.close()

    def start(self) -> None:
        """Start the run."""
        self._is_started = True
        self._run.start()

    def go_on(self, times: int = 1) -> None:
        """Let the run go on after a stop."""
        self._go_on.release(times)

    def end(self) -> None:
        """Wait for the end of the run, and show it on the page."""
        self._run.join()
        asyncio.run_coroutine_threadsafe(self._server.end(), self._loop).result(60)

    async def _serve(self, ready: threading.Event) -> None:
        self._closing = asyncio.Event()
        self._server = PageServer(self._read, lambda: self._steps)
        async with self._server.serving() as self.address:
            self._server.show(self._progress.snapshot())
            ready.set()
            await self._closing.wait()

    def _read(self) -> RunArchive | None:
        return archive_in(self.folder, toy_task()) if self._steps else None

    def _optimize(self) -> None:
        optimize(toy_task(), settings(self.folder), provider=toy_model(), callbacks=[self._observe])

    def _observe(self, event: Event) -> None:
        self._progress(event)
        if isinstance(event, TrialDone):
            self._steps += 1
            self._loop.call_soon_threadsafe(self._server.show, self._progress.snapshot())
            if event.trial.number in self.stops:
                self._go_on.acquire()
