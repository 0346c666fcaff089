"""`agentopt evaluate`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import count
from pathlib import Path

from rich.console import Console

from agentopt.api import evaluate, load
from agentopt.cli.output import interruptible, print_plain
from agentopt.core.candidate import load_candidate
from agentopt.core.events import Event, ExampleDone, JournalUsed
from agentopt.core.records import Evaluation, Split
from agentopt.report.bars import counting_bar
from agentopt.report.formatting import format_interval
from agentopt.runs.config import load_config
from agentopt.runs.response_issues import incomplete_responses, left_out
from agentopt.runs.result import Measured


def run_evaluation(
    task: Path,
    candidate: Path | None,
    split: Split,
    settings: Sequence[str],
    console: Console,
    *,
    fresh: bool = False,
) -> None:
    """`agentopt evaluate`: progress on stderr, the scores on stdout."""
    chosen = load_candidate(candidate) if candidate else None
    config = load_config(settings)
    source = load(task, config, agent=False)
    notes: list[str] = []
    reported: list[Event] = []
    progress, done, total = Console(stderr=True), count(1), len(source.task.splits.get(split, ()))
    with interruptible(progress), counting_bar(progress, "examples") as show:

        def observe(event: Event) -> None:
            if isinstance(event, ExampleDone):
                show(next(done), total)
            elif isinstance(event, JournalUsed):
                notes.append(f"{event.message}; --fresh requests new ones")
            elif event not in reported:  # each of many concurrent calls may report the same
                reported.append(event)
                print_plain(progress, event.message)

        evaluation = evaluate(source, chosen, config, split=split, callbacks=[observe], fresh=fresh)
    notes += map(str, (*incomplete_responses(source.task, [evaluation]), *left_out([evaluation])))
    show_evaluation(evaluation, console, notes)


def show_evaluation(evaluation: Evaluation, console: Console, notes: Iterable[str] = ()) -> None:
    """Print the score with its interval, the mean cost per example and what failed. Exits with 1 on an error."""
    measured = Measured.of(evaluation)
    if measured is None:
        console.print(f"no example of {evaluation.split} could be scored")
    else:
        console.print(
            f"{evaluation.split}: score {measured.score:.3f} {format_interval(measured.interval)} at 95%, "
            f"n={measured.n} of {measured.planned}, in {evaluation.seconds:.1f} s"
        )
        for name, metric in Measured.metrics_of(evaluation).items():
            console.print(f"  {name} {metric.score:.3f} {format_interval(metric.interval)}", markup=False)
        mean = evaluation.per_example
        # Without parameter counts there are no units.
        units = f"{mean('units'):.1f} units, " if mean("units") else ""
        console.print(
            f"per example: {units}{mean('prompt_tokens'):.0f} prompt + "
            f"{mean('completion_tokens'):.1f} completion tokens, {mean('usd') + mean('fusion_usd'):.2g} USD; "
            f"{mean('fusion_tokens'):.1f} tokens of fusion calls"
        )
    for note in notes:
        print_plain(console, note)
    for example, error in evaluation.errors.items():
        print_plain(console, f"  {example}: {error}")
    if evaluation.errors:
        sys.exit(1)
