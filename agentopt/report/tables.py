"""The tables of the printed result. Columns are declared as data: to add one, add a `Column` to its tuple."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from agentopt.core.budget import Usage
from agentopt.core.candidate import SubtaskChoice
from agentopt.core.cost import SHOWN, CostMeasure, format_cost
from agentopt.core.plain_text import visible
from agentopt.core.records import outcome
from agentopt.core.usd_text import format_usd
from agentopt.report.formatting import format_difference, format_interval, usage_cells
from agentopt.runs.earnings import Earned
from agentopt.runs.example_costs import ExampleCosts, SubtaskCostShown
from agentopt.runs.result import Finalist, Measured, Result, TrialLine

Row = TypeVar("Row")

EARNED = "Who earned what (rises of the highest validation score so far, and their sum)"
"""Title of the table of proposers."""


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """One column of a table.

    Attributes:
        header: The text above it.
        cell: The text of a row's cell. It is shown as it is, whatever it contains.
        justify: `left` for text, `right` for numbers.
    """

    header: str
    cell: Callable[[Row], str]
    justify: Literal["left", "right"] = "left"


MEASURE_COLUMNS: tuple[Column[ExampleCosts | None], ...] = (
    Column("USD per 1,000", lambda row: format_usd(1000 * row.usd) if row else "-", "right"),
    Column("s p50", lambda row: _seconds(row.seconds_p50 if row else None), "right"),
    Column("s p95", lambda row: _seconds(row.seconds_p95 if row else None), "right"),
)
"""Columns of what a request costs, of a trial or of a finalist; those without a value in any row are left out."""

TRIAL_COLUMNS: tuple[Column[tuple[TrialLine, bool]], ...] = (
    Column("#", lambda row: f"{row[0].number}{'*' if row[1] else ' '}", "right"),
    Column("proposed by", lambda row: row[0].proposer),
    Column("candidate", lambda row: str(row[0].candidate)),
    Column("score", lambda row: "-" if row[0].score is None else f"{row[0].score:.3f}", "right"),
    Column("shrunk", lambda row: _shrunk(row[0].shrunk), "right"),
    Column("state", lambda row: outcome(row[0].state, row[0].scored, row[0].planned, row[0].stopped)),
)
"""Columns of the history. A row is a trial, and whether it is on the Pareto front."""

FINALIST_COLUMNS: tuple[Column[Finalist], ...] = (
    Column("", lambda finalist: " = ".join(finalist.roles)),
    Column("trial", lambda finalist: str(finalist.trial)),
    Column("validation", lambda finalist: measured_cell(finalist.validation)),
    Column("shrunk", lambda finalist: _shrunk(finalist.shrunk)),
    Column("test", lambda finalist: measured_cell(finalist.test)),
    Column("against the baseline on test", lambda finalist: _compared(finalist)),
)
"""First columns of the finalists; a column for each metric follows."""

COST_COLUMNS: tuple[Column[Finalist], ...] = (Column("prompt + completion tokens", lambda finalist: _tokens(finalist)),)
"""Last columns of the finalists, measured on the validation split."""

SUBTASK_COLUMNS: tuple[Column[tuple[str, SubtaskChoice, SubtaskCostShown]], ...] = (
    Column("subtask", lambda row: row[0]),
    Column("model", lambda row: row[1].model),
    Column("samples", lambda row: str(row[1].num_samples), "right"),
    Column("settings", lambda row: ", ".join(f"{name}={value}" for name, value in row[1].settings)),
    Column("measured units", lambda row: f"{row[2].units:.1f}", "right"),
    Column("USD", lambda row: format_usd(row[2].usd + row[2].fusion_usd), "right"),
    Column("prompt tokens", lambda row: f"{row[2].prompt_tokens:,.1f}", "right"),
    Column("completion tokens", lambda row: f"{row[2].completion_tokens:,.1f}", "right"),
    Column("fusion tokens", lambda row: f"{row[2].fusion_tokens:,.1f}", "right"),
)
"""Columns of a chosen candidate. A row is a subtask, its choice and its cost per example."""

SPEND_COLUMNS: tuple[Column[tuple[str, Usage]], ...] = (
    Column("purpose", lambda row: row[0]),
    Column("calls", lambda row: usage_cells(row[1])[0], "right"),
    Column("prompt tokens", lambda row: usage_cells(row[1])[1], "right"),
    Column("completion tokens", lambda row: usage_cells(row[1])[2], "right"),
    Column("USD", lambda row: usage_cells(row[1])[3], "right"),
)

EARNED_COLUMNS: tuple[Column[Earned], ...] = (
    Column("proposed by", lambda row: row.proposer),
    Column("trials", lambda row: str(row.trials), "right"),
    Column("rises", lambda row: str(row.raised), "right"),
    Column("gain", lambda row: f"+{row.gain:.3f}" if row.raised else "-", "right"),
    Column("best score", lambda row: "-" if row.best is None else f"{row.best:.3f}", "right"),
    Column("agent's calls", lambda row: usage_cells(row.usage)[0] if row.usage else "-", "right"),
    Column("agent's USD", lambda row: usage_cells(row.usage)[3] if row.usage else "-", "right"),
)
"""Columns of the proposers. The last two are of the search agent's calls; those without a value are left out."""


def titled(title: str, table: Table) -> RenderableType:
    """Return a table below its title, which is wrapped at the width of the terminal; Rich wraps it at the table's."""
    return Group(Text(visible(title), style="table.title"), table)


def table_of(title: str, columns: Sequence[Column[Row]], rows: Iterable[Row]) -> RenderableType:
    """A table with one line for each of `rows`.

    Args:
        title: Title of the table.
        columns: Its columns, from left to right.
        rows: What the columns show, one for each line.
    """
    table = Table()
    for column in columns:
        table.add_column(escape(column.header), justify=column.justify)
    for row in rows:
        table.add_row(*(escape(column.cell(row)) for column in columns))
    return titled(title, table)


def trials_table(result: Result) -> RenderableType:
    """The history, one line for each trial."""
    rows = [(trial, trial.number in result.pareto) for trial in result.trials]
    by = "score and cost" if result.cost_in in ("units", "tokens") else "score, USD and median latency"
    columns = [*TRIAL_COLUMNS[:-1], *cost_columns(result.cost_in, lambda row: row[0], rows), TRIAL_COLUMNS[-1]]
    return table_of(f"Trials (* on the Pareto front by {by})", columns, rows)


def earned_columns(proposers: Sequence[Earned]) -> Sequence[Column[Earned]]:
    """The columns of `EARNED_COLUMNS`, of the last two those that have a value.

    Args:
        proposers: The rows.
    """
    used = (c for c in EARNED_COLUMNS[-2:] if any(c.cell(row) not in ("-", "0") for row in proposers))
    return (*EARNED_COLUMNS[:-2], *used)


def proposers_table(result: Result) -> RenderableType:
    """Who earned what, one line for each proposer."""
    return table_of(EARNED, earned_columns(result.proposers), result.proposers)


def finalists_table(result: Result) -> RenderableType:
    """The baseline, best and recommended candidate, with their scores and costs."""
    by_lengths = "; units by the task's token lengths" if result.cost_in == "units" else ""
    title = f"Finalists (95% intervals; paired difference to the baseline{by_lengths})"
    return table_of(title, finalist_columns(result.cost_in, result.finalists), result.finalists)


def finalist_columns(measure: CostMeasure, finalists: Sequence[Finalist]) -> list[Column[Finalist]]:
    """The columns of the finalists: scores, metrics and costs, each with the split that it was measured on.

    Args:
        measure: The run's measure of costs.
        finalists: The rows.
    """
    metrics = map(_metric_column, dict.fromkeys(name for finalist in finalists for name in finalist.metrics))
    costs = cost_columns(measure, lambda finalist: finalist, finalists)
    by_lengths = SHOWN[measure][1] if measure in ("units", "tokens") else None
    measured = (
        c if c.header == by_lengths else replace(c, header=f"{c.header} on validation") for c in (*costs, *COST_COLUMNS)
    )
    return [*FINALIST_COLUMNS, *metrics, *measured]


def chosen_table(role: str, finalist: Finalist) -> RenderableType:
    """The choices of a finalist, one line for each subtask."""
    title = f"Chosen ({role}, proposed by {finalist.proposer}); cost per example, measured on validation"
    rows = [(name, choice, finalist.cost[name]) for name, choice in finalist.candidate.items()]
    empty = {"measured units": not any(cost.units for _, _, cost in rows)}
    empty["fusion tokens"] = not any(cost.fusion_tokens for _, _, cost in rows)
    empty["settings"] = not any(choice.settings for _, choice, _ in rows)
    columns = [column for column in SUBTASK_COLUMNS if not empty.get(column.header)]
    return table_of(title, columns, rows)


def spend_table(result: Result) -> RenderableType:
    """The spend by purpose, and the total."""
    failed = ", ".join(f"{count} x {kind}" for kind, count in result.failures.items())
    rows = {**result.spent, "total": result.total}.items()
    return table_of(f"Spent by purpose (failed attempts: {failed or 'none'})", SPEND_COLUMNS, rows)


def cost_columns(
    measure: CostMeasure, line: Callable[[Row], TrialLine | Finalist], rows: Sequence[Row]
) -> list[Column[Row]]:
    """The columns of USD and latency that some row has, and the cost in the run's measure if it is not one of them.

    Args:
        measure: The run's measure of costs.
        line: The trial or the finalist of a row.
        rows: The rows.
    """
    own: Column[Row] = Column(SHOWN[measure][1], lambda row: format_cost(line(row).units, measure), "right")
    measured = [
        _of_line(column, line)
        for column in MEASURE_COLUMNS
        if any(column.cell(line(row).measures) not in ("-", "0") for row in rows)
    ]
    is_measured = measure in ("usd", "seconds") and all(line(row).measures for row in rows)
    return measured if is_measured else [own, *measured]


def _of_line(column: Column[ExampleCosts | None], line: Callable[[Row], TrialLine | Finalist]) -> Column[Row]:
    return Column(column.header, lambda row: column.cell(line(row).measures), column.justify)


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f}"


def _metric_column(name: str) -> Column[Finalist]:
    def cell(row: Finalist) -> str:
        if name not in row.metrics:
            return "-"
        return f"{row.metrics[name].score:.3f}{'' if row.test else ' (on validation)'}"

    return Column(f"{name} on test", cell)


def _shrunk(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"


def measured_cell(measured: Measured | None) -> str:
    """The score with its interval and its number of examples; `not tested` without one."""
    if measured is None:
        return "not tested"
    count = f"n={measured.n}" if measured.n == measured.planned else f"n={measured.n} of {measured.planned}"
    return f"{measured.score:.3f} {format_interval(measured.interval)} {count}"


def _compared(finalist: Finalist) -> str:
    compared = finalist.against_baseline
    return f"{format_difference(compared.difference)} {compared.verdict}" if compared else "-"


def _tokens(finalist: Finalist) -> str:
    cost = finalist.cost.values()
    return f"{sum(c.prompt_tokens for c in cost):.0f} + {sum(c.completion_tokens for c in cost):.0f}"
