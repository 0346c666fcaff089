"""`agentopt runs`: lists and shows earlier runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agentopt.cli.commands.optimize import show_result
from agentopt.cli.output import print_plain
from agentopt.cli.run_names import run_path
from agentopt.core.errors import ConfigError
from agentopt.report.terminal import print_result
from agentopt.runs.config import load_config
from agentopt.runs.folder import RunFolder, UnreadableRun, find_run, list_runs
from agentopt.runs.result import KEPT, load_result


def show_runs(settings: Sequence[str], console: Console) -> None:
    """`agentopt runs list`."""
    folder = load_config(settings).runs
    table = Table()
    for column in ("run", "state", "best on validation", "test", "verdict"):
        table.add_column(column)
    for run in list_runs(folder):
        table.add_row(escape(str(run.path)), *_run_cells(run))
    console.print(table if table.row_count else f"no runs in {folder}")


def _run_cells(run: RunFolder | UnreadableRun) -> tuple[str, str, str, str]:
    try:
        result = load_result(run.path)
        best = result.finalist("best")
    except ConfigError:
        state = f"cannot be read: {run.error}" if isinstance(run, UnreadableRun) else f"unfinished; {run.resuming}"
        return escape(state), "", "", ""
    test = f"{best.test.score:.3f}" if best.test else "-"
    verdict = KEPT if result.keeps_baseline else result.verdict or "-"
    return "finished", f"{best.validation.score:.3f}", test, verdict


def show_run(run: Path, settings: Sequence[str], console: Console) -> None:
    """`agentopt runs show`."""
    found = find_run(run_path(run, settings))
    if isinstance(found, RunFolder):
        show_result(load_result(found.path), found.task, console)
        return
    if not found.is_finished:
        raise found.error
    print_result(load_result(found.path), console)
    print_plain(console, f"The run cannot be used or resumed now: {found.error}")
