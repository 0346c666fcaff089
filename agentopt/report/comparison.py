"""The comparison of runs, as tables in a terminal and as one self-contained HTML page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from rich.console import RenderableType

from agentopt.core.gate import MARGIN
from agentopt.core.plain_text import visible
from agentopt.core.unicode_text import well_formed
from agentopt.report.formatting import format_difference
from agentopt.report.page.build import resource
from agentopt.report.tables import MEASURE_COLUMNS, Column, Row, measured_cell, table_of
from agentopt.runs.example_costs import ExampleCosts
from agentopt.runs.run_comparison import ComparedPair, ComparedRun, RunComparison


def _of_measures(column: Column[ExampleCosts | None]) -> Callable[[ComparedRun], str]:
    return lambda row: column.cell(row.measures)


RUN_COLUMNS: tuple[Column[ComparedRun], ...] = (
    Column("run", lambda row: visible(row.run)),
    Column("task", lambda row: visible(row.task)),
    Column("state", lambda row: row.state),
    Column("trial", lambda row: str(row.trial), "right"),
    Column("candidate", lambda row: visible(str(row.candidate))),
    Column("score", lambda row: measured_cell(row.score)),
    *(Column(c.header, _of_measures(c), c.justify) for c in MEASURE_COLUMNS),
)

PAIR_COLUMNS: tuple[Column[ComparedPair], ...] = (
    Column("run", lambda row: visible(row.run)),
    Column("against", lambda row: visible(row.reference)),
    Column("difference", lambda row: format_difference(row.difference) if row.difference else row.reason),
    Column("examples", lambda row: str(row.difference.n) if row.difference else "-", "right"),
    Column("verdict", lambda row: row.verdict or "-"),
)


def comparison_tables(found: RunComparison) -> list[RenderableType]:
    """The runs, and the pairs of them.

    Args:
        found: The comparison.
    """
    return [
        table_of(_runs_title(found), RUN_COLUMNS, found.runs),
        table_of(_pairs_title(found), PAIR_COLUMNS, found.pairs),
    ]


def comparison_page(found: RunComparison) -> str:
    """The comparison as HTML, without a script and without a request to a network.

    Args:
        found: The comparison.
    """
    from jinja2 import Environment, StrictUndefined

    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(resource("comparison.html"))
    names = _short_names([run.run for run in found.runs])
    runs = [replace(run, run=names[run.run]) for run in found.runs]
    pairs = [replace(pair, run=names[pair.run], reference=names[pair.reference]) for pair in found.pairs]
    tables = [_plain(_runs_title(found), RUN_COLUMNS, runs), _plain(_pairs_title(found), PAIR_COLUMNS, pairs)]
    folders = [(visible(name), visible(path)) for path, name in names.items()]
    page: str = template.render(tables=tables, folders=folders, notes=found.notes, style=resource("page.css"))
    return well_formed(page)


def _short_names(paths: Sequence[str]) -> dict[str, str]:
    """Path of a run -> the name of its folder, or the path if two runs have that name."""
    count = Counter(PurePath(path).name for path in dict.fromkeys(paths))
    return {path: name if count[name := PurePath(path).name] == 1 else path for path in paths}


def _plain(title: str, columns: Sequence[Column[Row]], rows: Sequence[Row]) -> dict[str, Any]:
    """The table as texts, without the columns that have no value in any row."""
    cells = [(column.header, column.justify, [column.cell(row) for row in rows]) for column in columns]
    shown = [column for column in cells if any(cell != "-" for cell in column[2])]
    headers = [(header, justify) for header, justify, _ in shown]
    by_row = zip(*(texts for *_, texts in shown), strict=True)
    return {"title": title, "columns": headers, "rows": [list(zip(headers, row, strict=True)) for row in by_row]}


def _runs_title(found: RunComparison) -> str:
    return f"The {found.role} candidate of each run on the {found.split} split (95% intervals)"


def _pairs_title(found: RunComparison) -> str:
    return f"Paired differences over the examples that two runs share (margin {MARGIN:g})"
