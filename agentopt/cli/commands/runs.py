"""`agentopt runs`: lists and shows earlier runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agentopt.cli.commands.optimize import show_result
from agentopt.cli.output import print_json, print_plain
from agentopt.cli.run_names import run_path
from agentopt.core.errors import ConfigError
from agentopt.core.gate import GateVerdict
from agentopt.report.printed_result import print_result
from agentopt.runs.config import load_config
from agentopt.runs.folder import RunFolder, UnreadableRun, find_run, list_runs
from agentopt.runs.result import KEPT, Result, load_result
from agentopt.runs.studies import ALONE, best_scores

RESULT_COLUMNS = ("state", "best on validation", "test", "verdict")
"""Headers of `result_cells`."""
LONGEST_WORD = 12
"""Cells of the terminal for which a longer word of a table, such as a name, need not have room."""
TIME_LENGTH = len("-20260101-120000-2")
"""Characters at the end of a run's name that are shown if it is cut."""


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run of `agentopt runs list --json`.

    Attributes:
        run: The run's folder.
        finished: Whether it has a result that can be read.
        validation: Score of the best candidate on the validation split; if the run is not finished, the highest score
            of a complete trial so far, None without one.
        test: Its score on the test split; None if it was not tested.
        verdict: The best candidate against the baseline on the test split; None without a comparison, if the run ended
            before any other candidate was measured, and if no response could be parsed.
        owner: The user who began it; None unless the runs of a storage are listed, whose `run` is the name.
    """

    run: str
    finished: bool
    validation: float | None = None
    test: float | None = None
    verdict: GateVerdict | None = None
    owner: str | None = None

    @classmethod
    def of(cls, run: str, result: Result | None, owner: str | None = None, so_far: float | None = None) -> RunLine:
        """The line of a run; without a result, it is not finished, and `so_far` is its highest score."""
        if result is None:
            return cls(run, False, so_far, owner=owner)
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
        print_json(RunList(tuple(map(_run_line, list_runs(folder)))))
        return
    runs = list_runs(folder)
    cells = {run.path: _run_cells(run) for run in runs}
    if runs:
        _print_runs(folder, cells, console)
    else:
        console.print(f"no runs in {folder}")
    unfinished = [run for run in runs if isinstance(run, RunFolder) and cells[run.path][0].startswith("stopped")]
    if unfinished:
        print_plain(console, "To resume:")
    for run in unfinished:
        print_plain(console, f"  {run.resuming}")


def _print_runs(folder: Path, cells: Mapping[Path, Sequence[str]], console: Console) -> None:
    """Print a table of runs, with their paths if these fit, else with their names below the folder."""
    headers, rows = ("run", *RESULT_COLUMNS), [(str(path), *of_run) for path, of_run in cells.items()]
    if max(len(str(path)) for path in cells) > _widths([headers, *rows], console.width)[0]:
        print_plain(console, f"Runs in {folder}:")
        rows = [(path.name, *of_run) for path, of_run in cells.items()]
    console.print(run_table(headers, rows, console.width))


def run_table(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Table:
    """A table whose first column has the names of runs, which are never broken: the other columns are wrapped first.

    A name that does not fit all the same is cut in the middle, because it ends with the time of the run.

    Args:
        headers: The headers of the columns.
        rows: The cells of each run.
        width: Width of the terminal.
    """
    table, widths = Table(), _widths([headers, *rows], width)
    fits = sum(widths) + 3 * len(widths) + 1 <= width
    for number, (header, of_column) in enumerate(zip(headers, widths, strict=True)):
        own = of_column if fits or number == 0 else None
        table.add_column(header, width=own, no_wrap=number == 0, overflow="fold" if number else "ellipsis")
    for name, *others in rows:
        table.add_row(*map(escape, (_cut(name, widths[0]), *others)))
    return table


def _widths(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """The widths of columns: the longest word of each, then what is left, from the first column on."""
    columns = list(zip(*rows, strict=True))
    wanted = [max(map(cell_len, column)) for column in columns]
    words = [max(cell_len(word) for cell in column for word in (cell.split() or [""])) for column in columns]
    widths = [min(wanted[0], TIME_LENGTH + 2), *(min(length, LONGEST_WORD) for length in words[1:])]
    left = width - sum(widths) - 3 * len(columns) - 1
    for number, length in enumerate(wanted):
        added = max(0, min(left, length - widths[number]))
        widths[number] += added
        left -= added
    return widths


def _cut(name: str, width: int) -> str:
    """The name, without its middle if it is longer than `width`."""
    tail = min(TIME_LENGTH, width - 2)
    return name if cell_len(name) <= width else f"{set_cell_size(name, width - 1 - tail)}\u2026{name[-tail:]}"


def _run_line(run: RunFolder | UnreadableRun) -> RunLine:
    result = _result_of(run)
    return RunLine.of(str(run.path), result, so_far=None if result else _best_so_far(run))


def _run_cells(run: RunFolder | UnreadableRun) -> tuple[str, str, str, str]:
    if (result := _result_of(run)) is None:
        return unfinished_cells(_state(run), _best_so_far(run))
    return result_cells(result)


def _state(run: RunFolder | UnreadableRun) -> str:
    """The state of a run without a result, by its folder: in a storage, another machine may work on it."""
    if isinstance(run, UnreadableRun):
        return f"cannot be read: {run.error}"
    return "running" if run.is_locked else "stopped here" if run.config.storage else "stopped"


def _best_so_far(run: RunFolder | UnreadableRun) -> float | None:
    """The highest score in the run's own file; a storage, which may be out of reach, is not read for each run."""
    return best_scores(run.path / "trials.db").get(ALONE)


def unfinished_cells(state: str, best: float | None) -> tuple[str, str, str, str]:
    """The cells of a run without a result.

    Args:
        state: Its state.
        best: The highest score of a complete trial; None without one.
    """
    return state, "" if best is None else f"{best:.3f} so far", "", ""


def _result_of(run: RunFolder | UnreadableRun) -> Result | None:
    try:
        return load_result(run.path)
    except ConfigError:
        return None


def result_cells(result: Result) -> tuple[str, str, str, str]:
    """The cells of a finished run: state, scores on validation and test, verdict."""
    best = result.finalist("best")
    test = f"{best.test.score:.3f}" if best.test else "-"
    verdict = result.unparsed or result.unsearched or (KEPT if result.keeps_baseline else result.verdict or "-")
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
