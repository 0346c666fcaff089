"""Prints prompt optimisation and its diagnosis in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from agentopt.prompts.diagnosis import Diagnosis
from agentopt.report.formatting import format_interval, format_p_value
from agentopt.runs.result import PromptFinal, PromptReport

SHADES = {
    0.2: "white on red",
    0.4: "black on dark_orange",
    0.6: "black on yellow",
    0.8: "black on green_yellow",
    1.0: "black on green",
}
"""Upper end of a cell's place between the lowest and the highest mean -> its colours."""


def prompt_tables(reports: Sequence[PromptReport]) -> Iterator[RenderableType]:
    """The outcome for each subtask's prompt, its cost in output tokens, and what each proposer contributed."""
    if not reports:
        return
    title = "System prompts (95% intervals; paired difference to the seed prompt on validation)"
    table = Table(title=title, title_justify="left")
    for column in ("subtask", "pilot", "optimised on", "outcome", "validation", "against the seed", "output tokens"):
        table.add_column(column)
    for report in reports:
        table.add_row(*_report_cells(report))
    yield table
    yield from (_earned(report) for report in reports if report.tried)
    for report in reports:
        if report.against_seed:
            yield f"  {report.subtask}: {escape(report.ended)}"
        yield from (f"  {report.subtask}: fell back: {escape(reason)}" for reason in report.fallbacks)


def _report_cells(report: PromptReport) -> tuple[str, ...]:
    finals = {final.system_prompt: final for final in report.finals}
    first, chosen = next(iter(report.finals), None), finals.get(report.chosen)
    pilot = f"{report.verdict} ({report.pilot_responses} responses)" if report.verdict else "none"
    compared = "-"
    if report.against_seed:
        difference = report.against_seed.difference
        interval = format_interval(difference.interval, signed=True)
        compared = f"{difference.mean:+.3f} {interval} {format_p_value(difference.p_value)}"
    return (
        f"{report.subtask} ({report.phase} the search)",
        pilot,
        f"{len(report.user_prompts)} user prompts" if report.user_prompts else "nothing",
        f"by {report.proposer}" if report.against_seed else f"kept: {escape(report.ended)}",
        _from_to(first, chosen, lambda final: "-" if final.validation is None else f"{final.validation.score:.3f}"),
        compared,
        _from_to(first, chosen, lambda final: f"{final.tokens:.1f}"),
    )


def _from_to(first: PromptFinal | None, chosen: PromptFinal | None, shown: Callable[[PromptFinal], str]) -> str:
    if first is None or chosen is None:
        return "-"
    return shown(first) if chosen is first else f"{shown(first)} -> {shown(chosen)}"


def _earned(report: PromptReport) -> str:
    """Number of prompts by proposer, its best reward, and its prompts that were evaluated on validation."""
    parts = []
    for name in dict.fromkeys(tried.proposer for tried in report.tried):
        mine = [tried for tried in report.tried if tried.proposer == name]
        met = sum(final.proposer == name for final in report.finals)
        won = ", chosen" if report.proposer == name else ""
        parts.append(f"{name} {len(mine)} (best {max(t.reward for t in mine):.3f}, {met} on validation{won})")
    return f"  {report.subtask}: prompts by " + ", ".join(parts)


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Print the verdict, the variances behind it, the heat map, and the chosen user prompts with their texts."""
    for part in _parts(diagnosis):
        console.print(part, highlight=False)


def _parts(diagnosis: Diagnosis) -> Iterator[RenderableType]:
    yield f"\n[bold]{escape(diagnosis.task)}, {escape(diagnosis.subtask)}: {diagnosis.verdict}[/bold]"
    yield f"{escape(diagnosis.reason)}."
    yield _variance_parts(diagnosis)
    yield _heat_map(diagnosis)
    yield from _legend(diagnosis)
    chosen = "The user prompts to optimise on" if diagnosis.verdict == "optimise on these" else "The best subset"
    yield f"\n[bold]{chosen}[/bold] (p = {diagnosis.subset_p_value:.3g}; {diagnosis.search} search):"
    for position in diagnosis.subset:
        yield f"  {position + 1}. {escape(diagnosis.examples[position])}: {escape(diagnosis.user_prompts[position])}"
    calls = f"{diagnosis.usage.calls} calls, {diagnosis.usage.tokens} tokens, {diagnosis.usage.usd:.4f} USD"
    yield f"\n{diagnosis.responses} responses were analysed; this took {calls}."


def _variance_parts(diagnosis: Diagnosis) -> Table:
    table = Table(show_header=False, box=None)
    planned = f"{diagnosis.intended[0]} user prompts x {diagnosis.intended[1]:g} responses"
    rows = {
        "signal (variance between system prompts)": f"{diagnosis.signal:.5f}",
        f"noise at {planned}": f"{diagnosis.noise:.5f}",
        "signal / noise on all user prompts": f"{diagnosis.ratio:.2f}",
        f"signal / noise on the best {len(diagnosis.subset)}": f"{diagnosis.subset_ratio:.2f}",
        "responses per cell for twice as much signal as noise, on all": _count(diagnosis.responses_needed),
        "score of the best subset; by chance at most; cross-fitted": (
            f"{diagnosis.subset_score:.4f}; {diagnosis.chance_score:.4f}; {_number(diagnosis.cross_fitted_score)}"
        ),
        "always right / always wrong user prompts": f"{len(diagnosis.always_right)} / {len(diagnosis.always_wrong)}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _heat_map(diagnosis: Diagnosis) -> Table:
    """Mean reward by system prompt (rows) and user prompt (columns, chosen ones with a star)."""
    table = Table(title="Mean reward: system prompts x user prompts (* in the best subset)", title_justify="left")
    table.add_column("")
    for position in range(len(diagnosis.examples)):
        table.add_column(f"{position + 1}{'*' if position in diagnosis.subset else ''}", justify="right")
    table.add_column("all", justify="right")
    known = [value for row in diagnosis.mean for value in row if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    for number, row in enumerate(diagnosis.mean, 1):
        whole = [value for value in row if value is not None]
        cells = [_cell(value, low, high) for value in row]
        table.add_row(f"S{number}", *cells, _cell(float(np.mean(whole)) if whole else None, low, high))
    return table


def _cell(value: float | None, low: float, high: float) -> Text:
    if value is None:
        return Text("-")
    place = (value - low) / (high - low) if high > low else 0.5
    return Text(f"{value:.2f}", style=next(style for bound, style in SHADES.items() if place <= bound + 1e-9))


def _legend(diagnosis: Diagnosis) -> Iterator[str]:
    for number, (text, proposer) in enumerate(diagnosis.system_prompts.items(), 1):
        tokens = diagnosis.tokens[number - 1]
        yield f"  S{number} ({escape(proposer)}, {tokens:.1f} output tokens): {escape(text) or '(empty)'}"


def _count(value: float | None) -> str:
    return "no number is enough" if value is None else f"{value:.1f}"


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4f}"
