"""`agentopt evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path

from rich.console import Console

from agentopt.api import evaluate
from agentopt.cli.loading import load_shown
from agentopt.cli.output import interruptible, print_json, print_plain, stderr_console
from agentopt.cli.run_names import candidate_of
from agentopt.core.budget import Usage
from agentopt.core.called_models import called_models
from agentopt.core.events import Event, ExampleDone, JournalUsed, Spent
from agentopt.core.message_text import failures_in_words
from agentopt.core.records import Evaluation, Split, SubtaskUse, TrialState
from agentopt.core.repeats import NoiseParts, noise_parts, pass_at, score_table
from agentopt.core.stats import mean_interval
from agentopt.core.usd_text import usd_in_words
from agentopt.report.bars import counting_bar
from agentopt.report.formatting import APPROXIMATE, format_interval
from agentopt.runs.response_issues import incomplete_responses, left_out, left_out_notes
from agentopt.runs.result import Measured


def run_evaluation(
    task: Path,
    candidate: Path | None,
    split: Split,
    settings: Sequence[str],
    console: Console,
    *,
    fresh: bool = False,
    repeats: int = 1,
    as_json: bool = False,
) -> None:
    """`agentopt evaluate`: progress on stderr, the scores on stdout, as one JSON object if `as_json`."""
    chosen, config = candidate_of(candidate, settings)
    source = load_shown(task, config, stderr_console(), agent=False)
    notes = list(source.task.notes)
    reported: list[Event] = []
    spent: list[Spent] = []
    progress, done, total = stderr_console(), count(1), repeats * len(source.task.splits.get(split, ()))
    try:
        with interruptible(progress), counting_bar(progress, "examples") as show:

            def observe(event: Event) -> None:
                if isinstance(event, ExampleDone):
                    show(next(done), total)
                elif isinstance(event, JournalUsed):
                    notes.append(f"{event.message}; --fresh requests new ones")
                elif isinstance(event, Spent):
                    spent.append(event)
                elif event not in reported:  # each of many concurrent calls may report the same
                    reported.append(event)
                    print_plain(progress, event.message)

            evaluation = evaluate(
                source, chosen, config, split=split, callbacks=[observe], fresh=fresh, repeats=repeats
            )
    except BaseException:  # Ctrl-C included
        for event in spent:
            print_plain(progress, event.message)
        raise
    incomplete = incomplete_responses(source.task, [(chosen or source.task.baseline, evaluation)])
    notes += [*map(str, incomplete), *left_out_notes(left_out([evaluation]))]
    if as_json:
        print_json(EvaluationSummary.of(evaluation, spent[0], notes))
    else:
        called = called_models(source.task, chosen or source.task.baseline)
        unpriced = [name for name in called if not source.specs[name].is_priced]
        show_evaluation(evaluation, console, [spent[0].message, *notes], unpriced)
    if evaluation.errors:
        sys.exit(1)


def show_evaluation(
    evaluation: Evaluation, console: Console, notes: Iterable[str] = (), unpriced: Collection[str] = ()
) -> None:
    """Print the score with its interval, the mean cost per example and what failed.

    Args:
        evaluation: The evaluation.
        console: Where it is printed.
        notes: Printed below it.
        unpriced: Models of the candidate that have no price.
    """
    measured = Measured.of(evaluation)
    if measured is None:
        console.print(f"no example of {evaluation.split} could be scored")
    else:
        repeats = f", mean of {evaluation.repeats} repeats" if evaluation.repeats > 1 else ""
        console.print(
            f"{evaluation.split}: score {measured.score:.3f} {format_interval(measured.interval)} at 95%, "
            f"n={measured.n} of {measured.planned}{repeats}, in {evaluation.seconds:.1f} s"
        )
        if measured.interval.approximate:
            console.print(f"  {APPROXIMATE}")
        if evaluation.repeats > 1:
            console.print(f"  {_noise(evaluation)}")
        of_repeats = {f"pass@{k}": found for k, found in passes(evaluation).items()}
        for name, metric in {**of_repeats, **Measured.metrics_of(evaluation)}.items():
            console.print(f"  {name} {metric.score:.3f} {format_interval(metric.interval)}", markup=False)
        console.print(_cost(evaluation, unpriced))
    for note in notes:
        print_plain(console, note)
    for line in failures_in_words(evaluation.errors, evaluation.planned, "row"):
        print_plain(console, f"  {line}")


def passes(evaluation: Evaluation) -> dict[int, Measured]:
    """pass@k for the powers of two up to the number of repeats, and that number; none unless scores are 0 or 1."""
    table, found = score_table(evaluation), {}
    most = evaluation.repeats
    for k in sorted({*(2**power for power in range(1, most.bit_length())), most} - {1}):
        rows = pass_at(table, k)
        if rows is not None and len(rows):
            ends = mean_interval(rows.tolist())
            found[k] = Measured(float(rows.mean()), ends, len(rows), evaluation.planned_scores)
    return found


def _noise(evaluation: Evaluation) -> str:
    """The variance parts of one score, and how the standard error depends on the repeats."""
    parts, rows, repeats = noise_parts(score_table(evaluation)), len(evaluation.scores), evaluation.repeats
    judge = f", judge {parts.judge:.4f}" if any(result.judgements for result in evaluation.results) else ""
    return (
        f"variance of one score: rows {parts.rows:.4f}, sampling {parts.sampling:.4f}{judge}; standard error of the "
        f"mean with 1 repeat {parts.error(rows):.3f}, with {repeats} {parts.error(rows, repeats):.3f}"
    )


def _cost(evaluation: Evaluation, unpriced: Collection[str]) -> str:
    mean = evaluation.per_example
    # Without parameter counts there are no units.
    units = f"{mean('units'):.1f} units, " if mean("units") else ""
    known = evaluation.latencies
    latency = f"; {evaluation.latency(0.5):.2f} s (p50), {evaluation.latency(0.95):.2f} s (p95)" if known else ""
    fusion = f"; {mean('fusion_tokens'):,.1f} tokens of fusion calls" if mean("fusion_tokens") else ""
    tokens = f"{mean('prompt_tokens'):,.1f} prompt + {mean('completion_tokens'):,.1f} completion tokens"
    return f"per example: {units}{tokens}, {usd_in_words(evaluation.usd_per_example, unpriced)}{fusion}{latency}"


@dataclass(frozen=True, slots=True)
class EvaluationSummary:
    """The output of `agentopt evaluate --json`.

    Attributes:
        split: The split.
        state: `complete`, or why it is not.
        repeats: Independent repeats of each example.
        score: Mean score with its 95% interval; None if no example could be scored.
        noise: Variance of one score by source; None with one repeat.
        pass_at: k -> the mean of pass@k; empty with one repeat, or if a score is neither 0 nor 1.
        metrics: Metric -> its mean.
        per_example: Tokens, USD, seconds and others of one example, on average; None if none could be scored.
        latency: p50 and p95 of an example in seconds; None if they are not known.
        spent: Purpose -> usage, and their total.
        scores: Example id -> score.
        errors: Example id -> why it has no score.
        notes: Remarks.
        seconds: Wall time.
    """

    split: Split
    state: TrialState
    repeats: int
    score: Measured | None
    noise: NoiseParts | None
    pass_at: dict[int, Measured]
    metrics: dict[str, Measured]
    per_example: dict[str, float] | None
    latency: dict[str, float | None]
    spent: dict[str, Usage]
    scores: dict[str, float]
    errors: dict[str, str]
    notes: tuple[str, ...]
    seconds: float

    @classmethod
    def of(cls, evaluation: Evaluation, spent: Spent, notes: Sequence[str]) -> EvaluationSummary:
        """The summary of an evaluation."""
        measured, mean = Measured.of(evaluation), evaluation.per_example
        return cls(
            split=evaluation.split,
            state=evaluation.state,
            repeats=evaluation.repeats,
            score=measured,
            noise=noise_parts(score_table(evaluation)) if evaluation.repeats > 1 else None,
            pass_at=passes(evaluation),
            metrics=Measured.metrics_of(evaluation),
            per_example={f.name: mean(f.name) for f in fields(SubtaskUse)} if measured else None,
            latency={"p50": evaluation.latency(0.5), "p95": evaluation.latency(0.95)},
            spent={**spent.by_purpose, "total": spent.total},
            scores=dict(evaluation.scores),
            errors=dict(evaluation.errors),
            notes=tuple(notes),
            seconds=evaluation.seconds,
        )
