"""A result as text in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from agentopt.core.budget import Usage
from agentopt.report.formatting import interval_in_words, p_in_words, usage_cells
from agentopt.report.prompts import prompt_tables
from agentopt.runs.result import Finalist, Measured, Result


def print_result(result: Result, console: Console) -> None:
    """Everything a reader needs to trust the result, the verdict last."""
    for part in _parts(result):
        console.print(part)


def _parts(result: Result) -> Iterator[RenderableType]:
    ended = escape(str(result.ended))
    yield f"\n[bold]{escape(result.task)}[/bold]: {ended}, after {result.seconds:.0f} s; {result.run}"
    yield _trials(result)
    yield _proposers(result)
    yield from prompt_tables(result.prompts)
    yield _finalists(result)
    for role in ("best", "recommended"):
        chosen = result.finalist(role)
        if role == "best" or chosen is not result.finalist("best"):
            yield _chosen(role, chosen)
            yield _prompts(chosen)
    yield _spend(result)
    cut = [f"the test was cut short: {result.test_ended}"] if result.test_ended else []
    yield from (f"[yellow]{escape(note)}[/yellow]" for note in (*cut, *result.notes))
    yield _verdict(result)


def _trials(result: Result) -> Table:
    table = Table(title="Trials (* on the Pareto front of score and cost)", title_justify="left")
    for column in ("#", "proposed by", "candidate", "score", "units", "state"):
        table.add_column(column, justify="right" if column in ("#", "score", "units") else "left")
    for trial in result.trials:
        mark = "*" if trial.number in result.pareto else " "
        score = "-" if trial.score is None else f"{trial.score:.3f}"
        state = trial.state if trial.state == "complete" else f"{trial.state} after {trial.scored}"
        table.add_row(
            f"{trial.number}{mark}",
            escape(trial.proposer),
            escape(str(trial.candidate)),
            score,
            f"{trial.units:.1f}",
            state,
        )
    return table


def _proposers(result: Result) -> str:
    counts = Counter(trial.proposer for trial in result.trials)
    line = "Proposed by: " + ", ".join(f"{name} {count}" for name, count in counts.items())
    reasons = "".join(f"\n  the fallback stepped in: {escape(reason)}" for reason in result.fallbacks)
    return line + reasons


def _finalists(result: Result) -> Table:
    table = Table(
        title="Finalists (95% intervals; paired difference to the baseline; units by the task's token lengths)",
        title_justify="left",
    )
    metrics = list(dict.fromkeys(name for finalist in result.finalists for name in finalist.metrics))
    for column in (
        "",
        "trial",
        "validation",
        "test",
        "against the baseline on test",
        *map(escape, metrics),
        "units",
        "prompt + completion tokens",
        "USD",
    ):
        table.add_column(column)
    for finalist in result.finalists:
        cost = finalist.cost.values()
        tokens = f"{sum(c.prompt_tokens for c in cost):.0f} + {sum(c.completion_tokens for c in cost):.0f}"
        usd = sum(c.usd + c.fusion_usd for c in cost)
        table.add_row(
            " = ".join(finalist.roles),
            str(finalist.trial),
            _measured(finalist.validation),
            _measured(finalist.test),
            _compared(finalist),
            *(f"{finalist.metrics[name].score:.3f}" if name in finalist.metrics else "-" for name in metrics),
            f"{finalist.units:.1f}",
            tokens,
            f"{usd:.2g}",
        )
    return table


def _measured(measured: Measured | None) -> str:
    if measured is None:
        return "not tested"
    count = f"n={measured.n}" if measured.n == measured.planned else f"n={measured.n} of {measured.planned}"
    return f"{measured.score:.3f} {interval_in_words(measured.interval)} {count}"


def _compared(finalist: Finalist) -> str:
    compared = finalist.against_baseline
    if compared is None:
        return "-"
    difference = compared.difference
    interval = interval_in_words(difference.interval, signed=True)
    return f"{difference.mean:+.3f} {interval} {p_in_words(difference.p_value)} {compared.verdict}"


def _chosen(role: str, finalist: Finalist) -> Table:
    title = f"Chosen ({role}, proposed by {finalist.proposer}); cost per example, measured on validation"
    table = Table(title=title, title_justify="left")
    for column in (
        "subtask",
        "model",
        "samples",
        "measured units",
        "prompt tokens",
        "completion tokens",
        "fusion tokens",
    ):
        table.add_column(column, justify="left" if column in ("subtask", "model") else "right")
    for name, choice in finalist.candidate.items():
        cost = finalist.cost[name]
        table.add_row(
            name,
            choice.model,
            str(choice.num_samples),
            f"{cost.units:.1f}",
            f"{cost.prompt_tokens:.0f}",
            f"{cost.completion_tokens:.1f}",
            f"{cost.fusion_tokens:.1f}",
        )
    return table


def _prompts(finalist: Finalist) -> str:
    prompts = ((name, choice.system_prompt) for name, choice in finalist.candidate.items())
    return "\n".join(f"  {name}: system prompt {escape(repr(prompt))}" for name, prompt in prompts)


def _spend(result: Result) -> Table:
    failed = ", ".join(f"{count} x {kind}" for kind, count in result.failures.items())
    table = Table(title=f"Spent by purpose (failed attempts: {failed or 'none'})", title_justify="left")
    for column in ("purpose", "calls", "prompt tokens", "completion tokens", "USD"):
        table.add_column(column, justify="left" if column == "purpose" else "right")
    rows: Mapping[str, Usage] = {**result.spent, "total": result.total}
    for purpose, usage in rows.items():
        table.add_row(purpose, *usage_cells(usage))
    return table


def _verdict(result: Result) -> str:
    best = result.finalist("best")
    if "baseline" in best.roles:
        others = [trial for trial in result.trials if trial.state != "incomplete" and trial.number != best.trial]
        why = "nothing beat it on validation" if others else "nothing else was evaluated"
        return f"[bold]Verdict: keep the baseline; {why}, so there was nothing to compare on the test split.[/bold]"
    compared = best.against_baseline
    if compared is None or best.test is None:
        return "[bold]Verdict on the test split: none, because the baseline or the best was not tested.[/bold]"
    difference = compared.difference
    words = {
        "better": "better than the baseline",
        "worse": "worse than the baseline",
        "not distinguishable": "not distinguishable from the baseline",
    }
    interval = interval_in_words(difference.interval, signed=True)
    return (
        f"[bold]Verdict on the test split: the best candidate is {words[compared.verdict]}: "
        f"{difference.mean:+.3f} {interval}, {p_in_words(difference.p_value)}, n={difference.n}.[/bold]"
    )
