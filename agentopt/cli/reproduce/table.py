"""From the results of cells to the table: trials or hours to the optimum, scores with intervals, output tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from agentopt.cli.reproduce.experiment import Cell, Experiment
from agentopt.cli.reproduce.grid import CellResult
from agentopt.core.repeats import repeated_mean
from agentopt.core.stats import Interval
from agentopt.core.ties import is_higher
from agentopt.report.formatting import format_interval


@dataclass(frozen=True, slots=True)
class Reached:
    """When the runs of an entry reached the optimum.

    Attributes:
        runs: Number of runs that reached it.
        trials: Median number of trials after which they did; None if half of the runs or more did not.
        hours: Median model hours until then; None likewise.
    """

    runs: int
    trials: float | None
    hours: float | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One row and column of the table.

    Attributes:
        paper: The paper's figure, as it prints it; None if it gives none.
        runs: Number of seeds that are done.
        score: Mean test score over examples, repeats and seeds.
        interval: Its 95% interval over examples and seeds.
        examples: Number of test examples.
        tokens: Mean output tokens of a test example.
        reached: When the optimum was reached.
    """

    paper: str | None
    runs: int
    score: float
    interval: Interval
    examples: int
    tokens: float
    reached: Reached


@dataclass(frozen=True, slots=True)
class ReproducedTable:
    """A table.

    Attributes:
        title: Its heading.
        source: Where the paper's figures are from.
        optimum: Column -> the highest validation score that any run found.
        entries: Row -> column -> its entry; a cell without a result is missing.
        calls: Calls of all runs together.
        tokens: Tokens of all runs together.
        usd: USD of all runs together.
        agent_usd: USD of the search agents and prompt writers, which are part of it.
        notes: What differs from the paper, and remarks of the runs.
    """

    title: str
    source: str
    optimum: dict[str, float]
    entries: dict[str, dict[str, Entry]]
    calls: int
    tokens: int
    usd: float
    agent_usd: float
    notes: tuple[str, ...]


def entries_of(
    experiment: Experiment, results: Mapping[Cell, CellResult]
) -> tuple[dict[str, float], dict[str, dict[str, Entry]]]:
    """The optimum of every column, and the entries.

    The optimum is the highest validation score of any run of the column: all runs share their responses, so that the
    same candidate has the same score in each of them.

    Args:
        experiment: The table.
        results: The results so far.
    """
    found: dict[str, list[float]] = {column: [] for column in experiment.columns}
    for cell, result in results.items():
        found[cell.column] += [score for score in result.validation if score is not None]
    optimum = {column: max(scores) for column, scores in found.items() if scores}
    entries: dict[str, dict[str, Entry]] = {}
    for row, of in experiment.rows.items():
        for column in experiment.columns:
            mine = [results[cell] for seed in experiment.seeds if (cell := Cell(row, column, seed)) in results]
            if mine:
                entries.setdefault(row, {})[column] = _entry(of.paper.get(column), mine, optimum.get(column))
    return optimum, entries


def _entry(paper: str | None, results: Sequence[CellResult], optimum: float | None) -> Entry:
    ids = list(dict.fromkeys(name for result in results for name in result.test))
    repeats = max((len(scores) for result in results for scores in result.test.values()), default=1)
    columns = [
        [np.nan if score is None else score for score in result.test.get(name, (None,) * repeats)]
        for name in ids
        for result in results
    ]
    table = np.array(columns, float).reshape(len(ids), len(results) * repeats)
    mean = repeated_mean(table)
    return Entry(
        paper,
        len(results),
        mean.mean,
        mean.interval,
        mean.rows,
        fmean(result.tokens for result in results),
        _reached(results, optimum),
    )


def _reached(results: Sequence[CellResult], optimum: float | None) -> Reached:
    hits = [hit for result in results if (hit := _hit(result, optimum)) is not None]
    if 2 * len(hits) <= len(results):
        return Reached(len(hits), None, None)
    return Reached(len(hits), float(median(n for n, _ in hits)), median(seconds for _, seconds in hits) / 3600)


def _hit(result: CellResult, optimum: float | None) -> tuple[int, float] | None:
    """The number of trials, and the model seconds, until the optimum; None if it was not reached."""
    for place, score in enumerate(result.validation):
        if score is not None and optimum is not None and not is_higher(optimum, score):
            return place + 1, result.seconds[place]
    return None


def as_text(entry: Entry, experiment: Experiment) -> str:
    """An entry as the table prints it.

    Args:
        entry: The entry.
        experiment: The table, which says what is shown.
    """
    score = f"{entry.score:.3f} {format_interval(entry.interval)}"
    if experiment.shows == "score and tokens":
        return f"{score}, {entry.tokens:,.0f} tokens"
    reached = entry.reached
    if reached.trials is None:
        return f"- / {score}"
    hours = f" ({reached.hours:.2g} h)" if reached.hours else ""
    return f"{reached.trials:g}{hours} / {score}"
