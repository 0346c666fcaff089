"""Prints prompt optimisation and its diagnosis in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from agentopt.core.message_text import counted
from agentopt.core.usd_text import format_usd
from agentopt.prompts.diagnosis import NO_VERDICT, Diagnosis
from agentopt.report.formatting import format_interval, format_p_value
from agentopt.report.tables import titled
from agentopt.runs.prompt_report import PromptFinal, PromptReport

SHADES = {
    0.2: "white on red",
    0.4: "black on dark_orange",
    0.6: "black on yellow",
    0.8: "black on green_yellow",
    1.0: "black on green",
}
"""Upper end of a cell's place between the lowest and the highest mean -> its colours."""

Diagnoses = tuple[Diagnosis, ...]
"""The output of `agentopt diagnose --json`, one for each subtask."""


def prompt_tables(reports: Sequence[PromptReport]) -> Iterator[RenderableType]:
    """The outcome for each subtask's prompt, its cost in output tokens, and what each proposer contributed."""
    if not reports:
        return
    title = "System prompts (improved by: gain on validation, shrunk by the evidence of the whole race)"
    table = Table()
    for column in ("subtask", "race", "outcome", "validation (95%)", "improved by", "raw gain", "output tokens"):
        table.add_column(column)
    for report in reports:
        table.add_row(*_report_cells(report))
    yield titled(title, table)
    for outcome in dict.fromkeys(report.outcome for report in reports):
        alike = [report for report in reports if report.outcome == outcome]
        yield f"  {', '.join(dict.fromkeys(escape(report.subtask) for report in alike))}: {escape(outcome)}"
        for report in alike:
            if report.tried:
                yield _earned(report)
            yield from (f"  {report.subtask}: fell back: {escape(reason)}" for reason in report.fallbacks)


def _report_cells(report: PromptReport) -> tuple[str, ...]:
    finals, compared = report.finals, report.adoption
    parts = {"prompt": len(report.tried), "response": report.responses, "user prompt": len(report.user_prompts)}
    raw = f"{compared.raw_gain:+.3f} {format_p_value(compared.p_value)}" if compared else "-"
    return (
        f"{report.subtask} ({report.phase} the search)",
        ", ".join(counted(number, noun) for noun, number in parts.items()) if report.tried else "none",
        report.decision,
        " -> ".join(map(_validation, finals)) or "-",
        f"{compared.gain:+.3f}" if compared and compared.adopted else "-",
        raw,
        " -> ".join(f"{final.tokens:.1f}" for final in finals) or "-",
    )


def _validation(final: PromptFinal) -> str:
    if final.score is None or final.interval is None:
        return "-"
    return f"{final.score:.3f} {format_interval(final.interval)}"


def _earned(report: PromptReport) -> str:
    """Number of prompts by proposer, and the best estimated reward of each."""
    parts = []
    for name in dict.fromkeys(tried.proposer for tried in report.tried):
        mine = [tried.reward for tried in report.tried if tried.proposer == name]
        parts.append(f"{name} {len(mine)} (best {max(mine):.3f})")
    return f"  {report.subtask}: prompts by " + ", ".join(parts)


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Print the verdict, the variances behind it, the heat map, and the chosen user prompts with their texts."""
    for part in _parts(diagnosis):
        console.print(part, highlight=False)


def _parts(diagnosis: Diagnosis) -> Iterator[RenderableType]:
    yield f"\n[bold]{escape(diagnosis.task)}, {escape(diagnosis.subtask)}: {diagnosis.verdict}[/bold]"
    is_sentence = diagnosis.verdict != NO_VERDICT  # which begins with the name of a subtask
    yield f"{escape(diagnosis.reason[0].upper() + diagnosis.reason[1:] if is_sentence else diagnosis.reason)}."
    yield f"This rests on {diagnosis.variants}: other prompts may differ more or less."
    has_equal_rewards = len(diagnosis.examples) in (len(diagnosis.always_right), len(diagnosis.always_wrong))
    if not has_equal_rewards and diagnosis.verdict != NO_VERDICT:
        yield from _differences(diagnosis)
    use = diagnosis.usage
    calls = f"{counted(use.calls, 'call')}, {counted(use.tokens, 'token')}, {format_usd(use.usd)} USD"
    yield f"\nAnalysed: {counted(diagnosis.responses, 'response')} of {escape(diagnosis.subtask)}."
    yield f"Spent, with the calls of other subtasks, judges and prompt writers: {calls}."


def _differences(diagnosis: Diagnosis) -> Iterator[RenderableType]:
    yield _variance_parts(diagnosis)
    yield _heat_map(diagnosis)
    yield from _legend(diagnosis)
    chosen = "The user prompts to optimise on" if diagnosis.verdict == "optimise on these" else "The best subset"
    yield f"\n[bold]{chosen}[/bold] (p = {diagnosis.subset_p_value:.3g}; {diagnosis.search} search):"
    for position in diagnosis.subset:
        example, prompt = escape(diagnosis.examples[position]), _indented(diagnosis.user_prompts[position])
        yield f"  {position + 1}. example {example}: {prompt}"


def _variance_parts(diagnosis: Diagnosis) -> Table:
    table = Table(show_header=False, box=None)
    planned = f"{counted(diagnosis.intended[0], 'user prompt')} x {diagnosis.intended[1]:g} responses"
    rows = {
        "signal (variance between system prompts)": f"{diagnosis.signal:.5f}",
        f"noise at {planned}": f"{diagnosis.noise:.5f}",
        "signal / noise on all user prompts": _ratio(diagnosis.ratio),
        f"signal / noise on the best {len(diagnosis.subset)}": _ratio(diagnosis.subset_ratio),
        "responses per cell for twice as much signal as noise, on all": _count(diagnosis.responses_needed),
        "score of the best subset; by chance at most; cross-fitted": (
            f"{diagnosis.subset_score:.4f}; {diagnosis.chance_score:.4f}; {_number(diagnosis.cross_fitted_score)}"
        ),
        "always right / always wrong user prompts": f"{len(diagnosis.always_right)} / {len(diagnosis.always_wrong)}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _ratio(value: float | None) -> str:
    return "infinite, as there is no noise" if value is None else f"{max(value, 0):.2f}"


def _heat_map(diagnosis: Diagnosis) -> RenderableType:
    """Mean reward by system prompt (rows) and user prompt (columns, chosen ones with a star)."""
    table = Table()
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
    return titled("Mean reward: system prompts x user prompts (* in the best subset)", table)


def _cell(value: float | None, low: float, high: float) -> Text:
    if value is None:
        return Text("-")
    place = (value - low) / (high - low) if high > low else 0.5
    return Text(f"{value:.2f}", style=next(style for bound, style in SHADES.items() if place <= bound + 1e-9))


def _legend(diagnosis: Diagnosis) -> Iterator[str]:
    for number, (text, proposer) in enumerate(diagnosis.system_prompts.items(), 1):
        tokens = diagnosis.tokens[number - 1]
        yield f"  S{number} ({escape(proposer)}, {tokens:.1f} output tokens): {_indented(text) or '(empty)'}"


def _indented(text: str) -> str:
    return escape(text).replace("\n", "\n     ")


def _count(value: float | None) -> str:
    return "no number is enough" if value is None else f"{value:.1f}"


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.4f}"
