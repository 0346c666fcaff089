"""`agentopt judge check`: a task's judge beside labels that people gave."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.table import Table

from agentopt.api import check_repeats, load, model_router, required_models
from agentopt.cli.output import interruptible, print_json, print_plain, stderr_console
from agentopt.cli.run_names import candidate_of
from agentopt.core.agreement import Agreement
from agentopt.core.candidate import Candidate
from agentopt.core.errors import TaskError
from agentopt.core.events import Event
from agentopt.core.message_text import counted, failures_in_words, in_words
from agentopt.core.records import ExampleResult, Split
from agentopt.evaluation.candidate_check import checked_candidate
from agentopt.models.session import open_session, spend_reported
from agentopt.report.bars import counting_bar
from agentopt.report.formatting import format_interval
from agentopt.runs.config import Config
from agentopt.runs.ending import ending_once
from agentopt.runs.judge_check import JudgeReport, Spread, check_judge, labels_of_split, task_judge
from agentopt.taskfile.labels import Label, read_labels


def run_judge_check(
    task: Path,
    labels: Path,
    candidate: Path | None,
    split: Split,
    repeats: int,
    settings: Sequence[str],
    console: Console,
    *,
    as_json: bool,
    fresh: bool = False,
) -> None:
    """`agentopt judge check`: progress on stderr, the report on stdout. Exits with 1 if an output has no score."""
    check_repeats(repeats)
    read = read_labels(labels)
    chosen, config = candidate_of(candidate, settings)
    progress = stderr_console()
    with interruptible(progress):
        report = asyncio.run(_check(task, read, chosen, split, repeats, config, progress, fresh=fresh))
    if as_json:
        print_json(report)
    else:
        show_judge_report(report, console)
    if report.failed:
        sys.exit(1)


async def _check(
    path: Path,
    labels: Sequence[Label],
    candidate: Candidate | None,
    split: Split,
    repeats: int,
    config: Config,
    progress: Console,
    *,
    fresh: bool,
) -> JudgeReport:
    task, specs = load(path, config, agent=False)
    task_judge(task)
    if not task.splits.get(split):
        rule = f"a {split} split is needed, but the task has {in_words(task.splits)}"
        raise TaskError(rule, where=f"task {task.name}", remedy="choose another one by --split")
    chosen = checked_candidate(candidate or task.baseline, task)
    labels_of_split(labels, task, split)  # a wrong label is reported before the journal is opened
    done, total = count(1), len(task.splits[split])
    with counting_bar(progress, "examples") as show:

        def observe(event: Event) -> None:
            print_plain(progress, event.message)

        def count_result(_: ExampleResult) -> None:
            show(next(done), total)

        caps, run = config.budget.caps(), f"judge check {task.name} {uuid.uuid4().hex}"
        models = model_router(specs, observe, required_models(task))
        opening = open_session(
            specs, run, caps=caps, journal=config.journal, provider=models, observer=observe, fresh=fresh
        )
        async with ending_once(observe), spend_reported(opening, observe) as session:
            return await check_judge(
                task, chosen, split, labels, config, session, repeats=repeats, on_result=count_result
            )


def show_judge_report(report: JudgeReport, console: Console) -> None:
    """Print the agreement, the judge's errors and the corrected score."""
    print_plain(
        console,
        f"judge {report.judge} on {counted(report.labels, 'labelled output')} of the {report.split} split, "
        f"{report.own} of them the candidate's",
    )
    if report.failed:
        left_out = f"{len(report.failed)} of {counted(report.labels + len(report.failed), 'labelled output')}"
        print_plain(console, f"{left_out} have no score by the judge, and are left out below")
    if report.agreement:
        console.print(_table(report.agreement))
    for line in _lines(report):
        print_plain(console, line)
    for line in failures_in_words(report.failed, report.labels + len(report.failed), "labelled output"):
        print_plain(console, f"  {line}")


def _table(found: Agreement) -> Table:
    table = Table("label", *(f"judge {value:g}" for value in found.classes), "errors of the judge")
    errors = {error.label: error for error in found.errors}
    for label, row in zip(found.classes, found.table, strict=True):
        error = errors.get(label)
        rate = f"{error.wrong / error.n:.3f} {format_interval(error.interval)}" if error else "-"
        table.add_row(f"{label:g}", *map(str, row), rate)
    return table


def _lines(report: JudgeReport) -> Iterator[str]:
    if found := report.agreement:
        yield (
            f"agreement: Cohen's kappa {found.kappa:.2f} {format_interval(found.interval)} at 95%, n={found.n}; "
            f"{found.same} of {found.n} in the same class"
        )
    if report.correlation:
        value, interval = report.correlation
        yield f"correlation with the labels: {value:.2f} {format_interval(interval)} at 95%, n={report.difference.n}"
    difference = report.difference
    interval_of_error = format_interval(difference.interval, signed=True)
    yield f"mean error of the judge (score - label): {difference.mean:+.3f} {interval_of_error}, n={difference.n}"
    if report.spread:
        yield _spread_line(report.spread)
    mean, interval = report.label_mean
    yield f"mean label: {mean:.3f} {format_interval(interval)}"
    if corrected := report.corrected:
        yield (
            f"corrected score: {corrected.mean:.3f} {format_interval(corrected.interval)} at 95%, from "
            f"{corrected.labelled} labelled and {counted(corrected.unlabelled, 'other example')}, whose mean by the "
            f"judge is {corrected.judge_mean:.3f} (weight {corrected.weight:.2f})"
        )
    yield from report.notes


def _spread_line(spread: Spread) -> str:
    undecided = (
        "" if spread.undecided is None else f"; {counted(spread.undecided, 'output')} with verdicts of several classes"
    )
    each = f"{counted(spread.verdicts, 'verdict')} on an output"
    return f"spread: {each}, standard deviation {spread.deviation:.3f}{undecided}"
