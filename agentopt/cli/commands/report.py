"""`agentopt report`, and the page that `agentopt optimize` leaves."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from agentopt.api import LoadedTask
from agentopt.cli.output import notes_console, print_json, print_plain
from agentopt.cli.run_names import archive_of, run_path
from agentopt.core.errors import TaskError
from agentopt.core.files import check_writable
from agentopt.report.page.build import PAGE, write_page
from agentopt.runs.archive import open_archive
from agentopt.runs.folder import RunFolder
from agentopt.runs.task_identity import TaskChangedError


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """The options of `agentopt report`; see its help."""

    out: Path | None
    every_trial: bool
    open_page: bool
    as_json: bool


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """What `agentopt report` wrote.

    Attributes:
        report: The page.
    """

    report: Path


def build_report(path: Path, settings: Sequence[str], console: Console, options: ReportOptions) -> None:
    """`agentopt report`: writes the page and prints its path."""
    if options.out is not None:
        check_writable(options.out)
    page, note = _page(run_path(path, settings), settings, options)
    if note:
        print_plain(notes_console(console, as_json=options.as_json), note)
    if options.as_json:
        print_json(ReportFiles(page))
    else:
        print_plain(console, f"report: {page}")
    if options.open_page:
        webbrowser.open(page.absolute().as_uri())


def _page(run: Path, settings: Sequence[str], options: ReportOptions) -> tuple[Path, str]:
    """Write the page. If the task is not as it was, return the page that was written before, with a note on that."""
    remedy = "call agentopt.report.page.build.write_page with an archive of the run and the task"
    try:
        archive = archive_of(run, settings, in_python=remedy)
    except (TaskChangedError, TaskError) as error:
        earlier = run / PAGE
        if options.out or options.every_trial or not earlier.is_file():
            raise
        return earlier, f"this page was written before, and cannot be written anew: {error.message}"
    return write_page(archive, options.out, every_trial=options.every_trial), ""


def serve_live(path: Path, settings: Sequence[str], console: Console, *, port: int, open_page: bool) -> None:
    """`agentopt report --live`: prints the address of the page, and serves it until Ctrl-C."""
    from agentopt.cli.commands.live_process import serve_report

    def announce(address: str) -> None:
        print_plain(console, f"live page: {address}\nCtrl-C ends it")

    serve_report(path, settings, port, open_page=open_page, on_start=announce)


def leave_report(run: RunFolder, loaded: LoadedTask, console: Console) -> None:
    """Write the page at the end of a run, and print its path. A failure is reported, and never fails the run."""
    try:
        print_plain(console, f"{'Report:':9}{write_page(open_archive(run, *loaded))}")
    except Exception as error:  # noqa: BLE001 - the result is there, whatever the page lacks
        print_plain(console, f"no report was written: {type(error).__name__}: {error}")
