"""Prints a result in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from agentopt.core.budget import Usage
from agentopt.core.candidate import SubtaskChoice
from agentopt.core.cost import SHOWN, format_cost
from agentopt.core.gate import MARGIN, GateVerdict
from agentopt.core.records import outcome
from agentopt.core.usd import format_usd
from agentopt.report.formatting import APPROXIMATE, format_difference, format_interval, format_p_value, usage_cells
from agentopt.report.prompts import prompt_tables
from agentopt.report.tables import Column, Row, table_of
from agentopt.runs.result import Finalist, Measured, Measures, Result, SubtaskCostShown, TrialLine

MEASURE_COLUMNS: tuple[Column[Measures | None], ...] = (
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
    Column("validation", lambda finalist: _measured(finalist.validation)),
    Column("shrunk", lambda finalist: _shrunk(finalist.shrunk)),
    Column("test", lambda finalist: _measured(finalist.test)),
    Column("against the baseline on test", lambda finalist: _compared(finalist)),
)
"""First columns of the finalists; a column for each metric follows."""

COST_COLUMNS: tuple[Column[Finalist], ...] = (Column("prompt + completion tokens", lambda finalist: _tokens(finalist)),)
"""Last columns of the finalists."""

SUBTASK_COLUMNS: tuple[Column[tuple[str, SubtaskChoice, SubtaskCostShown]], ...] = (
    Column("subtask", lambda row: row[0]),
    Column("model", lambda row: row[1].model),
    Column("samples", lambda row: str(row[1].num_samples), "right"),
    Column("measured units", lambda row: f"{row[2].units:.1f}", "right"),
    Column("USD", lambda row: format_usd(row[2].usd + row[2].fusion_usd), "right"),
    Column("prompt tokens", lambda row: f"{row[2].prompt_tokens:.0f}", "right"),
    Column("completion tokens", lambda row: f"{row[2].completion_tokens:.1f}", "right"),
    Column("fusion tokens", lambda row: f"{row[2].fusion_tokens:.1f}", "right"),
)
"""Columns of a chosen candidate. A row is a subtask, its choice and its cost per example."""

SPEND_COLUMNS: tuple[Column[tuple[str, Usage]], ...] = (
    Column("purpose", lambda row: row[0]),
    Column("calls", lambda row: usage_cells(row[1])[0], "right"),
    Column("prompt tokens", lambda row: usage_cells(row[1])[1], "right"),
    Column("completion tokens", lambda row: usage_cells(row[1])[2], "right"),
    Column("USD", lambda row: usage_cells(row[1])[3], "right"),
)

SHRUNK = (
    "Shrunk: posterior mean of the validation score given all trials. The highest of many scores is partly luck, so "
    "the best candidate, the recommended one and the Pareto front are chosen by it."
)

VERDICTS: dict[GateVerdict, str] = {
    "superior": "the best candidate is superior to the baseline",
    "non-inferior": f"the best candidate is non-inferior to the baseline within a margin of {MARGIN:g}",
    "inferior": "the best candidate is inferior to the baseline",
    "not enough rows": "not enough rows to decide between the best candidate and the baseline",
}


def print_result(result: Result, console: Console) -> None:
    """Print everything that a reader needs to trust the result, the verdict last."""
    for part in _parts(result):
        console.print(part)


def _parts(result: Result) -> Iterator[RenderableType]:
    ended = escape(str(result.ended))
    yield f"\n[bold]{escape(result.task)}[/bold]: {ended}, after {result.seconds:.0f} s; {escape(result.run)}"
    yield _trials(result)
    yield _proposers(result)
    yield from prompt_tables(result.prompts)
    yield _finalists(result)
    if any(_is_approximate(finalist) for finalist in result.finalists):
        yield APPROXIMATE
    if any(finalist.shrunk is not None for finalist in result.finalists):
        yield SHRUNK
    for role in ("best", "recommended"):
        chosen = result.finalist(role)
        if role == "best" or chosen is not result.finalist("best"):
            yield _chosen(role, chosen)
            yield _prompts(chosen)
    yield _spend(result)
    yield from (
        escape(str(issue)) if issue.is_harmless else f"[yellow]{escape(str(issue))}[/yellow]"
        for issue in result.incomplete
    )
    yield from (f"[yellow]{escape(str(left_out))}[/yellow]" for left_out in result.left_out)
    if result.failure_reasons:
        yield "Evaluations of an example in which a call failed, by reason:"
        yield from (f"  {count} x {escape(reason)}" for reason, count in result.failure_reasons.items())
    cut = [f"the test was cut short: {result.test_ended}"] if result.test_ended else []
    yield from (f"[yellow]{escape(note)}[/yellow]" for note in (*cut, *result.notes))
    yield f"[bold]{_verdict(result)}[/bold]"


def _trials(result: Result) -> Table:
    rows = [(trial, trial.number in result.pareto) for trial in result.trials]
    cost = "cost" if result.cost_in in ("units", "tokens") else "USD and median latency"
    columns = [*TRIAL_COLUMNS[:-1], *_cost_columns(result, lambda row: row[0], rows), TRIAL_COLUMNS[-1]]
    return table_of(f"Trials (* on the Pareto front of score and {cost})", columns, rows)


def _cost_columns(
    result: Result, line: Callable[[Row], TrialLine | Finalist], rows: Sequence[Row]
) -> list[Column[Row]]:
    """The measures that some row has, and the cost of the result's measure if it is not one of them."""
    measure = result.cost_in
    own: Column[Row] = Column(SHOWN[measure][1], lambda row: format_cost(line(row).units, measure), "right")
    measured = [
        _of_line(column, line)
        for column in MEASURE_COLUMNS
        if any(column.cell(line(row).measures) not in ("-", "0") for row in rows)
    ]
    is_measured = measure in ("usd", "seconds") and all(line(row).measures for row in rows)
    return measured if is_measured else [own, *measured]


def _of_line(column: Column[Measures | None], line: Callable[[Row], TrialLine | Finalist]) -> Column[Row]:
    return Column(column.header, lambda row: column.cell(line(row).measures), column.justify)


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f}"


def _shrunk(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"


def _proposers(result: Result) -> str:
    counts = Counter(trial.proposer for trial in result.trials)
    line = "Proposed by: " + ", ".join(f"{escape(name)} {count}" for name, count in counts.items())
    reasons = "".join(f"\n  the fallback strategy was used: {escape(reason)}" for reason in result.fallbacks)
    return line + reasons


def _finalists(result: Result) -> Table:
    by_lengths = "; units by the task's token lengths" if result.cost_in == "units" else ""
    title = f"Finalists (95% intervals; paired difference to the baseline{by_lengths})"
    cost = _cost_columns(result, lambda finalist: finalist, result.finalists)
    names = dict.fromkeys(name for finalist in result.finalists for name in finalist.metrics)
    metrics = [_metric_column(name) for name in names]
    return table_of(title, (*FINALIST_COLUMNS, *metrics, *cost, *COST_COLUMNS), result.finalists)


def _is_approximate(finalist: Finalist) -> bool:
    compared = finalist.against_baseline
    shown = (finalist.validation, finalist.test, compared and compared.difference)
    return any(measured.interval.approximate for measured in shown if measured)


def _metric_column(name: str) -> Column[Finalist]:
    return Column(name, lambda row: f"{row.metrics[name].score:.3f}" if name in row.metrics else "-")


def _measured(measured: Measured | None) -> str:
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


def _chosen(role: str, finalist: Finalist) -> Table:
    title = f"Chosen ({role}, proposed by {finalist.proposer}); cost per example, measured on validation"
    rows = [(name, choice, finalist.cost[name]) for name, choice in finalist.candidate.items()]
    columns = [c for c in SUBTASK_COLUMNS if c.header != "measured units" or any(cost.units for _, _, cost in rows)]
    return table_of(title, columns, rows)


def _prompts(finalist: Finalist) -> str:
    prompts = ((name, choice.system_prompt) for name, choice in finalist.candidate.items())
    return "\n".join(f"  {escape(name)}: system prompt {escape(repr(prompt))}" for name, prompt in prompts)


def _spend(result: Result) -> Table:
    failed = ", ".join(f"{count} x {kind}" for kind, count in result.failures.items())
    rows = {**result.spent, "total": result.total}.items()
    return table_of(f"Spent by purpose (failed attempts: {failed or 'none'})", SPEND_COLUMNS, rows)


def _verdict(result: Result) -> str:
    best = result.finalist("best")
    if "baseline" in best.roles:
        others = [trial for trial in result.trials if trial.state != "incomplete" and trial.number != best.trial]
        why = "nothing beat its shrunk score on validation" if others else "nothing else was evaluated"
        return f"Verdict: keep the baseline; {why}, so there was nothing to compare on the test split."
    compared = best.against_baseline
    if compared is None or best.test is None:
        return "Verdict on the test split: none, because the baseline or the best was not tested."
    difference = compared.difference
    interval, p_value = format_interval(difference.interval, signed=True), format_p_value(difference.p_value)
    return (
        f"Verdict on the test split: {VERDICTS[compared.verdict]}: "
        f"{difference.mean:+.3f} {interval}, {p_value}, n={difference.n}."
    )
