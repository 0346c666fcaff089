"""Live view of a run: trials, best score, spend against each cap, calls per second, time left.

On a terminal one status line is kept up to date; elsewhere (a pipe, a log) every finished trial prints a line.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from agentopt.core.events import (
    BatchWaiting,
    Event,
    ExampleDone,
    FileProgress,
    GuidelinesWritten,
    ModelNotice,
    Note,
    PromptsDone,
    PromptsStarted,
    RewardDrawn,
    RunDone,
    SearchStarted,
    TestStarted,
    TrialDone,
    TrialStarted,
)
from agentopt.core.phrases import counted
from agentopt.core.records import BestSoFar, Trial
from agentopt.report.formatting import format_duration, format_spend
from agentopt.runs.worst_case import FINALISTS


@dataclass
class LiveView:
    """An observer, and a context manager around the run.

    Attributes:
        console: Where the view is printed.
        clock: Seconds, from any start.
    """

    console: Console
    clock: Callable[[], float] = time.monotonic
    _search: SearchStarted | None = None
    _trials: list[Trial] = field(default_factory=list)
    _best: BestSoFar | None = None
    _live: Live | None = None
    _started: float = 0.0
    _trials_since: float | None = None
    """Start of this session's first trial: what comes before, such as a download, does not count for the pace."""
    _calls_before: int = 0
    _prompt_seconds: float = 0.0
    """Seconds spent on prompts, which do not count for the pace of trials."""
    _prompts_since: float = 0.0
    _activity: str = "starting"
    _examples: int = 0
    _finished: list[float] = field(default_factory=list)
    _responses: int = 0
    _cut_off: int = 0
    _notice: ModelNotice | None = None
    _batches: dict[str, BatchWaiting] = field(default_factory=dict)
    """Open batches by their ids."""

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
        if isinstance(event, ExampleDone | RewardDrawn):
            self._examples += 1
            if isinstance(event, ExampleDone):
                for use in event.result.subtasks.values():
                    self._responses += use.responses
                    self._cut_off += use.cut_off
            return
        if isinstance(event, BatchWaiting):
            self._wait(event)
            return
        if isinstance(event, ModelNotice):
            if event == self._notice:
                return  # each of many concurrent calls reports the same
            self._notice = event
        else:
            self._examples = 0
        self._note(event)
        shown_in_status = isinstance(event, TrialStarted) or (isinstance(event, FileProgress) and self._live)
        if not shown_in_status and not isinstance(event, RunDone):
            self._print(event)

    def _wait(self, event: BatchWaiting) -> None:
        """Keep the batch for the status line; its first and its last event are printed."""
        is_first = event.batch not in self._batches
        self._batches[event.batch] = event
        if event.has_ended:
            del self._batches[event.batch]
        if is_first or event.has_ended:
            self._print(event)

    def _note(self, event: Event) -> None:
        match event:
            case SearchStarted():
                self._search, self._trials, self._best = event, list(event.trials), event.best
                self._calls_before = event.budget.spent.calls
            case TrialStarted():
                self._activity = f"{event.message}: {event.candidate}"
                if self._trials_since is None:
                    self._trials_since, self._prompt_seconds = self.clock(), 0.0
            case TrialDone():
                self._trials = [*(t for t in self._trials if t.number != event.trial.number), event.trial]
                self._best = event.best
                self._finished.append(self.clock())
            case PromptsDone():
                self._prompt_seconds += self.clock() - self._prompts_since
            case PromptsStarted():
                self._prompts_since = self.clock()
                self._activity = event.message
            case FileProgress() | GuidelinesWritten() | ModelNotice() | Note() | TestStarted():
                self._activity = event.message

    def _print(self, event: Event) -> None:
        line = event.message
        if isinstance(event, TrialDone):
            line += f" | {event.trial.candidate} | {self._progress()}"
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _status(self) -> Text:
        return Text(f"{self._activity} (example {self._examples})\n{self._progress()}")

    def _progress(self) -> str:
        if self._search is None:
            return "preparing"
        budget, best = self._search.budget, self._best
        cap = "" if budget.caps.trials is None else f" of {budget.caps.trials}"
        calls = budget.spent.calls - self._calls_before
        rate = calls / max(self.clock() - self._started, 1e-9)
        shown = [
            f"{len(self._trials)}{cap} trials" if cap else counted(len(self._trials), "trial"),
            f"best shrunk score {best.score:.3f} (trial {best.trial})" if best else "no score yet",
            format_spend(budget.spent, budget.seconds, budget.caps),
            f"{rate:.1f} calls/s",
            *self._in_batches(),
            *([f"{self._cut_off:,} of {self._responses:,} responses cut off"] if self._cut_off else []),
            self._time_left(self._search),
        ]
        return " | ".join(shown)

    def _in_batches(self) -> list[str]:
        """The calls that wait in batches, by model."""
        left: Counter[str] = Counter()
        for event in self._batches.values():
            left[event.model] += event.calls - event.done
        return [f"waiting in batches of {model}: {counted(number, 'call')}" for model, number in left.items()]

    def _time_left(self, search: SearchStarted) -> str:
        """The worst case at the pace of this session's trials: every trial that is left, and the test of all finalists.

        The test counts by its number of examples. Without a cap on trials, only a cap on seconds bounds the rest.
        """
        bound, cap = search.budget.seconds_left, search.budget.caps.trials
        if cap is None or not self._finished:
            return "time left unknown" if bound is None else f"at most {format_duration(bound)} left"
        since = self._trials_since if self._trials_since is not None else self._started
        pace = max(0.0, self._finished[-1] - since - self._prompt_seconds) / len(self._finished)
        total = max(cap, len(self._trials))
        share = search.examples.get("test", 0) / max(search.examples["validation"], 1)
        left = pace * (total - len(self._trials) + min(FINALISTS, total) * share)
        return f"at most about {format_duration(left if bound is None else min(left, bound))} left"
