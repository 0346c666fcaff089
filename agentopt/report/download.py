"""A progress bar for downloads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from agentopt.models.weights import Progress


@contextmanager
def download_bar(console: Console) -> Iterator[Callable[[Progress], None]]:
    """Inside the block, a function that keeps one bar for each source of the file up to date."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=console) as bars:
        shown: dict[str, TaskID] = {}

        def show(progress: Progress) -> None:
            if progress.source not in shown:
                shown[progress.source] = bars.add_task(escape(f"{progress.file} from {progress.source}"))
            bars.update(shown[progress.source], completed=progress.done_bytes, total=progress.total_bytes)

        yield show
