"""The observer of all trackers: passes a run to its sink in a thread, so that the run never waits for a tracker."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from agentopt.core.budget import Budget
from agentopt.core.errors import UserError
from agentopt.core.events import Event, RunDone, RunStarted, SearchStarted, TrialDone
from agentopt.core.files import PRIVATE
from agentopt.core.plain_text import one_line
from agentopt.core.records import BestSoFar, Trial
from agentopt.report.trackers.contents import (
    TrackedRun,
    finite,
    result_metrics,
    spend_metrics,
    tracked_run,
    trial_metrics,
)
from agentopt.runs.folder import TRACKED
from agentopt.runs.result import load_result

MOST_WAITING = 1_000
"""Updates that wait for the tracker, at most."""
DEADLINE = 60.0
"""Seconds that the end of a run waits for the tracker, at most."""

log = logging.getLogger("agentopt.trackers")


class Sink(Protocol):
    """Where a run is recorded. Every method is called in one thread, and may block or raise anything.

    It is called later than what it records happened: the tracker may take seconds to load. `at` is the time of the
    event, in seconds since 1970.
    """

    def trial(self, trial: Trial, at: float | None) -> None:
        """Record a trial that ended `at`, None in an earlier session; one that was recorded before is updated."""

    def metrics(self, values: dict[str, float], step: int, at: float) -> None:
        """Record metrics of the run.

        Args:
            values: Metric -> value.
            step: Number of the trial.
            at: Time of the event.
        """

    def files(self, run: TrackedRun) -> None:
        """Record the files of the run."""

    def close(self, *, is_done: bool, at: float) -> None:
        """End the tracker's run."""


Work = Callable[[Sink], None]


class Tracker:
    """An observer that records a run. A failure is logged once; the run continues without the tracker.

    Args:
        name: Name of the library and of the extra.
        open_sink: Opens the tracker's run, or continues it.
        deadline: Seconds that `close` waits, at most.
        clock: Seconds since 1970.

    Raises:
        UserError: The library is not installed.
    """

    def __init__(
        self,
        name: str,
        open_sink: Callable[[TrackedRun], Sink],
        deadline: float = DEADLINE,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        spec = find_spec(name)
        if spec is None or spec.origin is None:  # a folder of that name, which an offline run leaves, has no origin
            raise UserError(f"the tracker {name} is not installed", remedy=f"pip install 'agentopt[{name}]'")
        self._name, self._open, self._deadline, self._clock = name, open_sink, deadline, clock
        self._waiting = queue.Queue[Work | None](MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._budget: Budget | None = None
        self._folder = Path()
        self._begun, self._done, self._failed = 0.0, 0.0, False

    def __call__(self, event: Event) -> None:
        """Queue what the event changes; never blocks."""
        match event:
            case RunStarted():
                self._start(event.folder)
            case SearchStarted():
                self._budget = event.budget
                for trial in event.trials:
                    self._put(lambda sink, trial=trial: sink.trial(trial, None))  # type: ignore[misc]
            case TrialDone():
                self._trial_done(event.trial, event.best)
            case RunDone():
                self._done, spent = self._clock(), self._spent()
                self._put(lambda sink: self._record_result(sink, spent))

    def close(self) -> None:
        """Record the files, end the tracker's run, and wait for it until the deadline. Safe to call twice."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        folder, begun, done = self._folder, self._begun, self._done
        ended = done or self._clock()
        self._put(lambda sink: sink.files(tracked_run(folder, begun)), thread)
        self._put(lambda sink: sink.close(is_done=bool(done), at=ended), thread)
        self._put(None, thread)
        thread.join(self._deadline)
        if thread.is_alive():
            self._report(f"it did not finish within {self._deadline:g} s")

    async def aclose(self) -> None:
        """As `close`, in a thread: `optimize` awaits it at the end of a run."""
        await asyncio.to_thread(self.close)

    def _start(self, folder: Path) -> None:
        self.close()
        self._folder, self._budget, self._failed = folder, None, False
        self._begun, self._done = self._clock(), 0.0
        self._waiting = queue.Queue(MOST_WAITING)
        with suppress(OSError):
            (folder / f"{self._name}{TRACKED}").touch(mode=PRIVATE)
        self._thread = threading.Thread(
            target=self._work, args=(folder, self._begun, self._waiting), name=f"agentopt-{self._name}", daemon=True
        )
        self._thread.start()

    def _work(self, folder: Path, begun: float, waiting: queue.Queue[Work | None]) -> None:
        try:
            sink = self._open(tracked_run(folder, begun))
            while work := waiting.get():
                work(sink)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a tracker may raise anything, and ends no run
            self._report(f"{type(error).__name__}: {one_line(' '.join(str(error).split()), 300)}")

    def _put(self, work: Work | None, thread: threading.Thread | None = None) -> None:
        thread = thread or self._thread
        if thread is None or not thread.is_alive():
            return
        try:
            self._waiting.put_nowait(work)
        except queue.Full:
            self._report(f"more than {MOST_WAITING:,} updates wait for it")

    def _report(self, problem: str) -> None:
        if not self._failed:
            self._failed = True
            log.warning("%s does not record this run completely: %s; the run is not affected", self._name, problem)

    def _spent(self) -> dict[str, float]:
        return spend_metrics(self._budget.spent_by_purpose) if self._budget else {}

    def _trial_done(self, trial: Trial, best: BestSoFar | None) -> None:
        of_trial = {"validation_score": trial_metrics(trial).get("validation_score")}
        values = finite({**of_trial, "best_so_far": best.score if best else None, **self._spent()})
        at = self._clock()

        def record(sink: Sink) -> None:
            sink.trial(trial, at)
            sink.metrics(values, trial.number, at)

        self._put(record)

    def _record_result(self, sink: Sink, spent: dict[str, float]) -> None:
        result = load_result(self._folder)
        sink.metrics({**result_metrics(result), **spent}, len(result.trials), self._done)
