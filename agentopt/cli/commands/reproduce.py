"""`agentopt reproduce`: the tables of the papers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from agentopt.cli.estimates import estimates
from agentopt.cli.output import interruptible, notes_console, print_json, print_plain, stderr_console
from agentopt.cli.reproduce.experiment import Cell, Experiment, cells_of, find_experiment
from agentopt.cli.reproduce.grid import CellResult, Grid
from agentopt.cli.reproduce.table import ReproducedTable, as_text, entries_of
from agentopt.core.budget import Usage
from agentopt.core.errors import ConfigError
from agentopt.core.events import Event
from agentopt.core.message_text import counted
from agentopt.core.observers import Observer
from agentopt.core.usd_text import format_usd
from agentopt.core.yaml_models import did_you_mean
from agentopt.models.api_keys import unset_keys
from agentopt.models.session import open_existing_journal
from agentopt.report.formatting import format_duration, usage_cells
from agentopt.runs.worst_case import estimate_diagnosis, usage_on_split

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ReproduceOptions:
    """The options of `agentopt reproduce`.

    Attributes:
        paper: `agenttts` or `p1`.
        table: Name of the table.
        out: Folder of the runs.
        data: Folder of the data files.
        configs: Folder of the experiments; None for `configs/papers` of the checkout.
        rows: The rows to run; all if empty.
        columns: The columns to run; all if empty.
        seeds: Number of seeds, the first ones; None for those of the experiment.
        as_json: Whether the result is printed as JSON.
    """

    paper: str
    table: str
    out: Path
    data: Path
    configs: Path | None = None
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    seeds: int | None = None
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class GridEstimate:
    """The output of `agentopt reproduce --dry-run --json`.

    Attributes:
        runs: Number of runs.
        worst: `ROW: COLUMN` -> the most that one run uses, before caps and without the responses of other runs.
        expected: The same, of random candidates.
        total: The expected usage of all runs.
        hours: Expected hours of all runs at the pace of earlier calls; None if a model was never called.
        unset_keys: Environment variable of an API key that is not set -> the models that need it.
    """

    runs: int
    worst: dict[str, Usage]
    expected: dict[str, Usage]
    total: Usage
    hours: float | None
    unset_keys: dict[str, tuple[str, ...]]


def run_reproduction(options: ReproduceOptions, settings: Sequence[str], console: Console) -> None:
    """`agentopt reproduce`: progress on stderr, the table on stdout."""
    progress = stderr_console()

    def observe(event: Event) -> None:
        if event.logged and event.kind in SHOWN:
            print_plain(progress, f"  {event.message}")

    grid = _grid(options, settings, observe)
    cells = list(cells_of(grid.experiment))
    results: dict[Cell, CellResult] = {}
    for cell in cells:
        grid.config(cell)  # missing data are reported before anything is paid
    with interruptible(progress):
        for number, cell in enumerate(cells, 1):
            print_plain(progress, f"run {number} of {len(cells)}: {cell}")
            results[cell] = asyncio.run(grid.result(cell))
    table = _table(grid, results)
    if options.as_json:
        print_json(table)
    else:
        _show(table, grid.experiment, console)


SHOWN = ("fall_back", "prompts_fall_back", "prompts_done")
"""Kinds of events that are shown while a grid runs."""


def _grid(options: ReproduceOptions, settings: Sequence[str], observe: Observer = lambda _: None) -> Grid:
    experiment, file = find_experiment(options.paper, options.table, options.configs or _shipped())
    rows = _chosen("row", options.rows, experiment.rows, file)
    columns = _chosen("column", options.columns, experiment.columns, file)
    rows |= {name: experiment.rows[name] for row in rows.values() if (name := row.experience_of)}
    if any(row.experience_of for row in rows.values()):
        columns |= {name: experiment.columns[name] for column in columns.values() if (name := column.like)}
    seeds = experiment.seeds if options.seeds is None else tuple(range(options.seeds))
    kept = experiment.model_copy(update={"rows": rows, "columns": columns, "seeds": seeds})
    return Grid(kept, file, options.out.absolute(), options.data, settings, observe)


def _chosen(kind: str, names: Sequence[str], known: Mapping[str, T], file: Path) -> dict[str, T]:
    """The rows or columns with these names, in the order of the file; all without a name."""
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no {kind} {name!r}", where=file, remedy=did_you_mean(name, list(known)))
    return {name: value for name, value in known.items() if not names or name in names}


def _shipped() -> Path:
    """The folder of the experiments: in the working folder, or in the checkout that this package is in."""
    inside = Path(str(files("agentopt"))).parent / "configs" / "papers"
    here = Path("configs") / "papers"
    return here if here.is_dir() else inside


def _table(grid: Grid, results: dict[Cell, CellResult]) -> ReproducedTable:
    optimum, entries = entries_of(grid.experiment, results)
    by_purpose = _spent(grid)
    total = sum(by_purpose.values(), Usage())
    own = sum((by_purpose.get(name, Usage()).usd for name in ("agent", "prompts")), 0.0)
    notes = [*grid.experiment.notes, *_remarks(results)]
    title, source = grid.experiment.title, grid.experiment.source
    return ReproducedTable(title, source, optimum, entries, total.calls, total.tokens, total.usd, own, tuple(notes))


def _spent(grid: Grid) -> dict[str, Usage]:
    """The usage of every run in the journal: a call is paid once, by the run that first needed it."""
    first = next(cells_of(grid.experiment))
    journal = open_existing_journal(grid.config(first).journal)
    if journal is None:
        return {}
    with closing(journal):
        return dict(journal.spend(None).by_purpose)


def _remarks(results: dict[Cell, CellResult]) -> Iterable[str]:
    """The cells in which the fallback proposed, by row."""
    rows: dict[str, list[CellResult]] = {}
    for cell, result in results.items():
        if result.fallbacks:
            rows.setdefault(cell.row, []).append(result)
    for row, of in rows.items():
        yield f"{row}: the fallback proposed in {counted(len(of), 'run')}, such as: {of[0].fallbacks[0]}"


def _show(table: ReproducedTable, experiment: Experiment, console: Console) -> None:
    shown = Table(title=table.title, title_justify="left")
    shown.add_column("method")
    for column in experiment.columns:
        shown.add_column(f"{column}: here")
        shown.add_column("paper")
    for row in experiment.rows:
        cells = []
        for column in experiment.columns:
            entry = table.entries.get(row, {}).get(column)
            cells += [as_text(entry, experiment) if entry else "not run", (entry and entry.paper) or "none given"]
        shown.add_row(row, *cells)
    console.print(shown)
    what = (
        "median trials to the optimum (model hours until then) / test score"
        if "trials" in experiment.shows
        else ("test score and output tokens of an example")
    )
    print_plain(console, f"{what}, with 95% intervals over examples and seeds; paper: {table.source}")
    if "trials" in experiment.shows:
        best = ", ".join(f"{name} {score:.3f}" for name, score in table.optimum.items())
        print_plain(console, f"optimum, the highest validation score that any run here found: {best}; - if not reached")
    spent = f"{counted(table.calls, 'call')}, {counted(table.tokens, 'token')}, {format_usd(table.usd)} USD"
    print_plain(console, f"spent: {spent}; of these agents and prompt writers {format_usd(table.agent_usd)} USD")
    for note in table.notes:
        print_plain(console, note)


def estimate_reproduction(options: ReproduceOptions, settings: Sequence[str], console: Console) -> None:
    """`agentopt reproduce --dry-run`: what the runs use, without a model call."""
    grid = _grid(options, settings)
    seeds = grid.experiment.seeds
    worst: dict[str, Usage] = {}
    expected: dict[str, Usage] = {}
    seconds: list[float | None] = []
    unset: dict[str, tuple[str, ...]] = {}
    for cell in cells_of(grid.experiment):
        if cell.seed != seeds[0]:
            continue
        name = f"{cell.row}: {cell.column}"
        worst[name], expected[name], spent, missing = _estimate(grid, cell)
        seconds.append(spent)
        unset |= missing
    total = sum(expected.values(), Usage()) * len(seeds)
    hours = None if None in seconds else sum(filter(None, seconds)) * len(seeds) / 3600
    found = GridEstimate(len(worst) * len(seeds), worst, expected, total, hours, unset)
    if options.as_json:
        print_json(found)
    else:
        _show_estimate(found, grid.experiment, console)
    notes = notes_console(console, as_json=options.as_json)
    for variable, names in unset.items():
        print_plain(notes, f"Warning: {variable} is not set; it has the API key of {', '.join(names)}")


def _estimate(grid: Grid, cell: Cell) -> tuple[Usage, Usage, float | None, dict[str, tuple[str, ...]]]:
    """The worst and the expected usage of a cell, its expected seconds, and the keys that are not set."""
    config = grid.config(cell)
    if config.strategy == "mlcopilot":  # its experience is not there yet; its calls are those of the baseline without
        agent = config.agent.model_copy(update={"experience": None})
        config = config.model_copy(update={"strategy": "llm_zero_shot", "agent": agent})
    loaded = grid.loaded(cell, config)
    found = estimates(loaded, config)
    task, specs = loaded
    repeated = usage_on_split(task, found.space, specs, "test") * (grid.experiment.repeats - 1)
    further = repeated
    if grid.experiment.rows[cell.row].filtered:
        for name in (s.name for s in task.subtasks):
            further = sum(estimate_diagnosis(task, specs, found.config, task.baseline, name), further)
    missing = {name: tuple(of) for name, of in unset_keys(specs.values()).items()}
    return found.worst.total + further, found.expected.total + further, found.times["total"], missing


def _show_estimate(found: GridEstimate, experiment: Experiment, console: Console) -> None:
    title = f"{counted(found.runs, 'run')}: expected usage of one run of each; no model was called"
    table = Table(title=title, title_justify="left")
    for column in ("run", "calls", "prompt tokens", "completion tokens", "USD", "USD at most"):
        table.add_column(column, justify="left" if column == "run" else "right")
    for name, usage in found.expected.items():
        table.add_row(name, *usage_cells(usage), format_usd(found.worst[name].usd))
    table.add_row(f"all, {counted(len(experiment.seeds), 'seed')}", *usage_cells(found.total), "")
    console.print(table)
    time = "unknown: a model was never called here" if found.hours is None else format_duration(3600 * found.hours)
    print_plain(console, f"time at the pace of earlier calls: {time}")
    print_plain(console, "Runs share their responses, so that all together cost less than the sum.")
