"""`agentopt runs`: lists and shows earlier runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agentopt.cli.commands.optimize import show_result
from agentopt.cli.run_names import run_path
from agentopt.core.errors import ConfigError
from agentopt.runs.config import load_config
from agentopt.runs.folder import RunFolder, UnreadableRun, list_runs
from agentopt.runs.result import load_result


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
    if isinstance(run, UnreadableRun):
        return escape(f"cannot be read: {run.error}"), "", "", ""
    try:
        result = load_result(run.path)
        best = result.finalist("best")
    except ConfigError:
        return f"unfinished; {run.resuming}", "", "", ""
    test = f"{best.test.score:.3f}" if best.test else "-"
    return "finished", f"{best.validation.score:.3f}", test, result.verdict or "-"


def show_run(run: Path, settings: Sequence[str], console: Console) -> None:
    """`agentopt runs show`."""
    found = RunFolder.open(run_path(run, settings))
    show_result(load_result(found.path), found.task, console)
