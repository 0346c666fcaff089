"""Prints a result in the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.markup import escape

from agentopt.core.cost import cost_in_words, format_cost
from agentopt.core.gate import MARGIN, GateVerdict
from agentopt.core.message_text import in_words
from agentopt.core.stop_reason import StopReason
from agentopt.report.formatting import APPROXIMATE, format_duration, format_interval, format_p_value
from agentopt.report.prompts import prompt_tables
from agentopt.report.tables import chosen_table, finalists_table, proposers_table, spend_table, trials_table
from agentopt.runs.response_issues import left_out_notes
from agentopt.runs.result import KEPT, Finalist, Result, Role

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

WHY_CHOSEN: dict[Role, str] = {
    "best": "the highest shrunk score",
    "recommended": "the cheapest within search.tolerance of the best shrunk score",
}
"""File of a candidate, without its suffix -> why it was chosen."""

KEEP_BASELINE = "keep the baseline, or search further: more trials, other models, better prompts"
"""The next step after an inferior candidate."""


def unreadable(result: Result) -> str | None:
    """The next step if most examples of the best candidate had no response that could be parsed; otherwise None."""
    names = [issue.subtask for issue in result.incomplete if issue.is_unusable]
    if not names:
        return None
    return f"change the prompt or the parser of {in_words(names)}, whose responses could not be parsed"


def resumable(result: Result) -> StopReason | None:
    """Why the run ended, if resuming it is a next step: before a search, or at one of its caps; otherwise None."""
    if result.unsearched:
        return result.ended
    return next((reason for reason in (result.ended, result.test_ended) if reason and reason.run_cap), None)


def uses(result: Result) -> dict[Role, str]:
    """The candidates to use -> why each was chosen, empty if there is one only; none if that is the baseline."""
    roles: list[Role] = [role for role in WHY_CHOSEN if "baseline" not in result.finalist(role).roles]
    if result.finalist("recommended") is result.finalist("best"):
        return dict.fromkeys(roles[:1], "")
    return {role: WHY_CHOSEN[role] for role in roles}


def print_result(result: Result, console: Console) -> None:
    """Print everything that a reader needs to trust the result, the verdict last."""
    for part in _parts(result):
        console.print(part)


def _parts(result: Result) -> Iterator[RenderableType]:
    yield f"\n[bold]{escape(result.task)}[/bold]: {escape(str(result.ended))}"
    yield f"{format_duration(result.seconds)}; {escape(result.run)}"
    yield trials_table(result)
    yield proposers_table(result)
    yield from (f"The fallback strategy was used: {escape(reason)}" for reason in result.fallbacks)
    yield from prompt_tables(result.prompts)
    yield finalists_table(result)
    if any(_is_approximate(finalist) for finalist in result.finalists):
        yield APPROXIMATE
    if any(finalist.shrunk is not None for finalist in result.finalists):
        yield SHRUNK
    for role in ("best", "recommended"):
        chosen = result.finalist(role)
        if role == "best" or chosen is not result.finalist("best"):
            yield chosen_table(role, chosen)
            yield _prompts(chosen)
    yield spend_table(result)
    yield from (
        escape(str(issue)) if issue.is_harmless else f"[yellow]{escape(str(issue))}[/yellow]"
        for issue in result.incomplete
    )
    yield from (f"[yellow]{escape(note)}[/yellow]" for note in left_out_notes(result.left_out))
    if result.failure_reasons:
        yield "Evaluations of an example in which a call failed, by reason:"
        yield from (f"  {count} x {escape(reason)}" for reason, count in result.failure_reasons.items())
    cut = [f"the test was cut short: {result.test_ended}"] if result.test_ended else []
    yield from (f"[yellow]{escape(note)}[/yellow]" for note in (*cut, *result.notes))
    yield f"[bold]{_verdict(result)}[/bold]"


def _is_approximate(finalist: Finalist) -> bool:
    compared = finalist.against_baseline
    shown = (finalist.validation, finalist.test, compared and compared.difference)
    return any(measured.interval.approximate for measured in shown if measured)


def _prompts(finalist: Finalist) -> str:
    prompts = {name: choice.system_prompt for name, choice in finalist.candidate.items()}
    shown = {name: f"system prompt {prompt!r}" if prompt else "no system prompt" for name, prompt in prompts.items()}
    return "\n".join(f"  {escape(name)}: {escape(prompt)}" for name, prompt in shown.items())


def _verdict(result: Result) -> str:
    best = result.finalist("best")
    if result.unparsed:
        return f"Verdict: none, because {escape(result.unparsed)}."
    if result.unsearched:
        return f"Verdict: none, because the run {result.unsearched}."
    if result.keeps_baseline:
        others = [trial for trial in result.trials if trial.state != "incomplete" and trial.number != best.trial]
        why = "No other candidate has a higher shrunk score on validation." if others else "Nothing else was evaluated."
        return f"Verdict: {KEPT}. {why}"
    compared = best.against_baseline
    if compared is None or best.test is None:
        return "Verdict on the test split: none, because the baseline or the best was not tested."
    difference = compared.difference
    interval, p_value = format_interval(difference.interval, signed=True), format_p_value(difference.p_value)
    return (
        f"Verdict on the test split: {VERDICTS[compared.verdict]}: "
        f"{difference.mean:+.3f} {interval}, {p_value}, n={difference.n}. {_costs(best, result)}"
    )


def _costs(best: Finalist, result: Result) -> str:
    """What the best candidate and the baseline cost, in one sentence."""
    baseline, measure = result.finalist("baseline"), result.cost_in
    ours, of_baseline = cost_in_words(best.units, measure), format_cost(baseline.units, measure)
    same = format_cost(best.units, measure) == of_baseline
    return f"Both cost {ours}." if same else f"It costs {ours}, and the baseline {of_baseline}."
