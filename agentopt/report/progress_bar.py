"""The progress bar of a run, in a terminal, a notebook, a pipe or a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from types import TracebackType
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from agentopt.core.events import (
    BatchWaiting,
    Event,
    ExampleDone,
    FileProgress,
    ModelNotice,
    RewardDrawn,
    RunDone,
    StillRunning,
    TrialDone,
    TrialStarted,
)
from agentopt.core.plain_text import visible
from agentopt.report.progress import RunProgress

PLAIN_SECONDS = 60.0
"""Where no line can be kept up to date, the progress is printed after this many seconds without a line."""

NOTEBOOK_SECONDS = 0.25
"""Least time between two updates of a notebook's output."""

MOST_BAR = 30
"""Cells of the bar."""


@dataclass
class ProgressBar:
    """An observer for `callbacks`, and a context manager around the run.

    In a terminal, and in a notebook, the status is kept up to date. Elsewhere, such as in a pipe or a log, each event
    is a line.

        with ProgressBar() as bar:
            result = optimize(task, config, callbacks=[bar])

    Attributes:
        console: The console that it prints to. Default: stderr.
        clock: Seconds, from any start.
        show: Receives the status as text, in place of the console. Default in a notebook: the output of the cell.
    """

    console: Console = field(default_factory=lambda: Console(stderr=True))
    clock: Callable[[], float] = time.monotonic
    show: Callable[[str], Any] | None = None
    progress: RunProgress = field(init=False)
    """What is shown."""
    _live: Live | None = None
    _printed: float = 0.0
    _notice: ModelNotice | None = None
    _batches: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.progress = RunProgress(self.clock)

    def __enter__(self) -> ProgressBar:
        self._printed = self.clock()
        if self.show is None and self.console.is_jupyter:
            self.show = _notebook_output()
        if self.show is None and self.console.is_terminal:
            self._live = Live(get_renderable=self._status, console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        if self.show:
            self.show(self._text())

    def __call__(self, event: Event) -> None:
        self.progress(event)
        if self.show:
            self._show(event)
        elif self._is_printed(event):
            self._print(event)
        elif not self._live and (isinstance(event, StillRunning) or self.clock() - self._printed >= PLAIN_SECONDS):
            self._line(f"{self.progress.activity_line} | {self._joined()}")

    def _show(self, event: Event) -> None:
        assert self.show
        if not isinstance(event, ExampleDone | RewardDrawn) or self.clock() - self._printed >= NOTEBOOK_SECONDS:
            self._printed = self.clock()
            self.show(self._text())

    def _is_printed(self, event: Event) -> bool:
        """Whether the event gets a line: an event that the status shows, and a repetition, get none."""
        match event:
            case ExampleDone() | RewardDrawn() | RunDone() | TrialStarted() | StillRunning():
                return False
            case FileProgress():
                return self._live is None
            case ModelNotice():  # each of many concurrent calls reports the same
                is_new = event != self._notice
                self._notice = event
                return is_new
            case BatchWaiting():
                is_first = event.batch not in self._batches
                self._batches.add(event.batch)
                return is_first or event.has_ended
        return True

    def _print(self, event: Event) -> None:
        line = event.message
        if isinstance(event, TrialDone):
            line += f" | {event.trial.candidate} | {self._joined()}"
        self._line(line)

    def _line(self, text: str) -> None:
        self._printed = self.clock()
        self.console.print(visible(text), highlight=False, markup=False, soft_wrap=True)

    def _joined(self) -> str:
        return " | ".join(self.progress.fields())

    def _heads(self) -> list[str]:
        share = self.progress.share
        bar = [] if share is None else [f"{bar_of(share, MOST_BAR)} {share:.0%}"]
        return [self.progress.activity_line, *bar]

    def _text(self) -> str:
        return "\n".join([*self._heads(), *self.progress.fields()])

    def _status(self) -> Status:
        return Status(self._heads(), self.progress.fields())


@dataclass(frozen=True)
class Status:
    """Lines that are as wide as the terminal at most: longer ones end with an ellipsis.

    Attributes:
        heads: Each has its own line.
        fields: Share lines as far as they fit.
    """

    heads: list[str]
    fields: list[str]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in (*self.heads, *packed(self.fields, options.max_width)):
            yield Text(visible(line), no_wrap=True, overflow="ellipsis")


def packed(fields: Iterable[str], width: int) -> list[str]:
    """Join fields to lines of at most `width` cells; a field that is longer has its own line."""
    lines: list[str] = []
    for one in fields:
        joined = f"{lines[-1]} | {one}" if lines else one
        if lines and cell_len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(one)
    return lines


def bar_of(share: float, cells: int) -> str:
    """A bar of `cells` characters, filled to `share`."""
    done = round(cells * share)
    return "━" * done + "─" * (cells - done)


def _notebook_output() -> Callable[[str], None]:
    """A function that replaces the text of one output of the cell. Jupyter has loaded the module of IPython."""
    display: Any = import_module("IPython.display").display
    handle = display({"text/plain": "starting"}, raw=True, display_id=True)
    return lambda text: handle.update({"text/plain": text}, raw=True)
