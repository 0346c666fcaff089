"""A run while it goes on: trials, best so far, spend against each cap, calls per second, time left.

On a terminal one line is kept up to date; elsewhere (a pipe, a log) every finished trial prints a line.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from agentopt.core.events import Event
from agentopt.core.task import Task
from agentopt.models.session import Session
from agentopt.report.formatting import duration_in_words, spend_in_words
from agentopt.runs.trial_store import Study, best_trial
from agentopt.runs.worst_case import FINALISTS


@dataclass
class LiveView:
    """An observer, and a context manager around the run."""

    console: Console
    task: Task
    clock: Callable[[], float] = time.monotonic
    _session: Session | None = None
    _study: Study | None = None
    _live: Live | None = None
    _started: float = 0.0
    _calls_before: int = 0
    _trials_before: int = 0
    _aside: float = 0.0
    """Seconds that went into prompts, and say nothing of the pace of trials."""
    _aside_since: float = 0.0
    _now: str = "starting"
    _examples: int = 0
    _finished: list[float] = field(default_factory=list)

    def __enter__(self) -> LiveView:
        self._started = self.clock()
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._status, console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        if event.kind == "example_done":
            self._examples += 1
            return
        self._examples = 0
        if event.kind == "search_started":
            self._begin(event)
        elif event.kind == "fetching" and self._live:
            self._now = event.message
            return
        elif event.kind == "trial_started":
            self._now = f"trial {event.data['number']}: {event.data['proposal'].candidate}"
            return
        elif event.kind == "trial_done":
            self._finished.append(self.clock())
        elif event.kind == "prompts_started":
            self._aside_since = self.clock()
        elif event.kind == "prompts_done":
            self._aside += self.clock() - self._aside_since
        if event.kind in ("prompts_started", "note", "test_started"):
            self._now = event.message
        self._print(event)

    def _begin(self, event: Event) -> None:
        session, study = event.data["session"], event.data["study"]
        self._session, self._study = session, study
        self._calls_before, self._trials_before = session.budget.spent.calls, len(study.trials)

    def _print(self, event: Event) -> None:
        if event.kind == "run_done":
            return
        words = event.message
        if event.kind == "trial_done":
            words += f" | {event.data['trial'].candidate} | {self._progress()}"
        self.console.print(words, highlight=False, markup=False, soft_wrap=True)

    def _status(self) -> Text:
        return Text(f"{self._now} (example {self._examples})\n{self._progress()}")

    def _progress(self) -> str:
        if self._session is None or self._study is None:
            return "preparing"
        budget, trials = self._session.budget, self._study.trials
        best = best_trial(trials)
        cap = "" if budget.caps.trials is None else f" of {budget.caps.trials}"
        calls = budget.spent.calls - self._calls_before
        rate = calls / max(self.clock() - self._started, 1e-9)
        shown = [
            f"{len(trials)}{cap} trials",
            f"best {best.score:.3f} (trial {best.number})" if best and best.score is not None else "no score yet",
            spend_in_words(budget.spent, budget.seconds, budget.caps),
            f"{rate:.1f} calls/s",
            self._time_left(),
        ]
        return " | ".join(shown)

    def _time_left(self) -> str:
        """From the pace of this session's trials; the test counts by its number of examples."""
        if not self._finished or self._session is None or self._study is None:
            return "time left unknown"
        pace = max(0.0, self._finished[-1] - self._started - self._aside) / len(self._finished)
        cap = self._session.budget.caps.trials
        trials_left = 0 if cap is None else cap - len(self._study.trials)
        splits = self.task.splits
        share = len(splits.get("test", ())) / max(len(splits["validation"]), 1)
        left = pace * (trials_left + FINALISTS * share)
        bound = self._session.budget.seconds_left
        return f"about {duration_in_words(left if bound is None else min(left, bound))} left"
