"""`agentopt runs`: lists and shows earlier runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agentopt.cli.commands.optimize import show_result
from agentopt.cli.output import print_json, print_plain
from agentopt.cli.run_names import run_path
from agentopt.core.errors import ConfigError
from agentopt.core.gate import GateVerdict
from agentopt.report.terminal import print_result
from agentopt.runs.config import load_config
from agentopt.runs.folder import RunFolder, UnreadableRun, find_run, list_runs
from agentopt.runs.result import KEPT, Result, load_result

UNFINISHED = "unfinished"
"""State of a run without a result."""


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run of `agentopt runs list --json`.

    Attributes:
        run: The run's folder.
        finished: Whether it has a result that can be read.
        validation: Score of the best candidate on the validation split; None without a result.
        test: Its score on the test split; None if it was not tested.
        verdict: The best candidate against the baseline on the test split; None without a comparison.
        owner: The user who began it; None unless the runs of a storage are listed, whose `run` is the name.
    """

    run: str
    finished: bool
    validation: float | None = None
    test: float | None = None
    verdict: GateVerdict | None = None
    owner: str | None = None

    @classmethod
    def of(cls, run: str, result: Result | None, owner: str | None = None) -> RunLine:
        """The line of a run; without a result, it is not finished."""
        if result is None:
            return cls(run, False, owner=owner)
        best = result.finalist("best")
        tested = best.test.score if best.test else None
        return cls(run, True, best.validation.score, tested, result.verdict, owner)


@dataclass(frozen=True, slots=True)
class RunList:
    """The output of `agentopt runs list --json`; the oldest run first."""

    runs: tuple[RunLine, ...]


def show_runs(settings: Sequence[str], console: Console, *, as_json: bool = False) -> None:
    """`agentopt runs list`."""
    folder = load_config(settings).runs
    if as_json:
        print_json(RunList(tuple(RunLine.of(str(run.path), _result_of(run)) for run in list_runs(folder))))
        return
    table, runs = Table(), list_runs(folder)
    for column in ("run", "state", "best on validation", "test", "verdict"):
        table.add_column(column, overflow="fold")  # a name is copied into the next command
    cells = {run.path: _run_cells(run) for run in runs}
    for path, of_run in cells.items():
        table.add_row(escape(str(path)), *of_run)
    console.print(table if runs else f"no runs in {folder}")
    unfinished = [run for run in runs if isinstance(run, RunFolder) and cells[run.path][0] == UNFINISHED]
    if unfinished:
        print_plain(console, "To resume:")
    for run in unfinished:
        print_plain(console, f"  {run.resuming}")


def _run_cells(run: RunFolder | UnreadableRun) -> tuple[str, str, str, str]:
    if (result := _result_of(run)) is None:
        state = f"cannot be read: {run.error}" if isinstance(run, UnreadableRun) else UNFINISHED
        return escape(state), "", "", ""
    return result_cells(result)


def _result_of(run: RunFolder | UnreadableRun) -> Result | None:
    try:
        return load_result(run.path)
    except ConfigError:
        return None


def result_cells(result: Result) -> tuple[str, str, str, str]:
    """The cells of a finished run: state, scores on validation and test, verdict."""
    best = result.finalist("best")
    test = f"{best.test.score:.3f}" if best.test else "-"
    verdict = KEPT if result.keeps_baseline else result.verdict or "-"
    return "finished", f"{best.validation.score:.3f}", test, verdict


def show_run(run: Path, settings: Sequence[str], console: Console, *, as_json: bool = False) -> None:
    """`agentopt runs show`."""
    found = find_run(run_path(run, settings))
    if as_json and (isinstance(found, RunFolder) or found.is_finished):
        print_json(load_result(found.path))
        return
    if isinstance(found, RunFolder):
        show_result(load_result(found.path), found.task, console)
        return
    if not found.is_finished:
        raise found.error
    print_result(load_result(found.path), console)
    print_plain(console, f"The run cannot be used or resumed now: {found.error}")
