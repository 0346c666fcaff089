"""Progress bars for downloads and for counted work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars

from agentopt.core.events import FileProgress


@contextmanager
def download_bar(console: Console) -> Iterator[Callable[[FileProgress], None]]:
    """Inside the block, a function that updates one bar for each source of the file."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=console) as bars:
        shown: dict[str, TaskID] = {}

        def show(progress: FileProgress) -> None:
            if progress.source not in shown:
                shown[progress.source] = bars.add_task(escape(f"{progress.file} from {progress.source}"))
            bars.update(shown[progress.source], completed=progress.done_bytes, total=progress.total_bytes)

        yield show


@contextmanager
def reading_bar(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Inside the block, a function of (bytes done, bytes in all) that shows how much of a file is read."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bars, shown = Bars(*columns, console=console, disable=not console.is_terminal, transient=True), list[TaskID]()

    def show(done: int, total: int) -> None:
        if not shown:
            shown.append(bars.add_task("reading rows"))
            bars.start()
        bars.update(shown[0], completed=done, total=total)

    try:
        yield show
    finally:
        bars.stop()


@contextmanager
def counting_bar(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Inside the block, a function of (done, total) that updates the bar; it prints nothing unless on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        bar = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)
