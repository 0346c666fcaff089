"""`agentopt gate`."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from rich.console import Console

from agentopt.api import LoadedTask, evaluate
from agentopt.cli.output import interruptible, print_json, print_plain, stderr_console
from agentopt.cli.run_names import CANDIDATE_FILE, run_path
from agentopt.core.candidate import Candidate, load_candidate
from agentopt.core.comparison import compare, shared_scores
from agentopt.core.errors import ConfigError, UserError
from agentopt.core.events import Event, ExampleDone
from agentopt.core.files import check_writable, write_output
from agentopt.core.gate import rows_needed
from agentopt.core.phrases import counted
from agentopt.core.records import Evaluation, Split
from agentopt.deploy.deployment import Deployment, find_deployment
from agentopt.evaluation.checked import checked_candidate
from agentopt.report.bars import counting_bar
from agentopt.report.gate import BASELINE, CostRatio, GateReport
from agentopt.runs.result import Measures, SubtaskCostShown, load_result

SUMMARY = "GITHUB_STEP_SUMMARY"
"""Environment variable of a GitHub Actions job: the file to which its summary is appended."""


@dataclass(frozen=True, slots=True)
class GateOptions:
    """The options of `agentopt gate`; see its help."""

    candidate: Path
    against: str
    task: Path | None
    margin: float
    max_cost_ratio: float | None
    split: Split
    rows_needed: bool
    as_json: bool
    markdown: Path | None

    def check(self) -> None:
        """Raise `UserError` for a number outside its range, or a file that cannot be written."""
        if not 0 <= self.margin < 1:
            rule = f"--margin must be from 0 to less than 1, but got {self.margin:g}"
            raise UserError(rule, remedy="give the loss of score that is acceptable, such as 0.02")
        if self.max_cost_ratio is not None and not (self.max_cost_ratio > 0 and math.isfinite(self.max_cost_ratio)):
            rule = f"--max-cost-ratio must be a positive number, but got {self.max_cost_ratio:g}"
            raise UserError(rule, remedy="1 allows no higher cost than the reference's")
        if self.markdown is not None:
            check_writable(self.markdown)


def run_gate(options: GateOptions, settings: Sequence[str], console: Console) -> None:
    """`agentopt gate`: prints the report, writes the Markdown, and exits with the verdict's code."""
    options.check()
    source = run_path(options.candidate, settings, otherwise=CANDIDATE_FILE)
    stored = source.is_dir() and options.against == BASELINE and options.split == "test" and not options.rows_needed
    report = _stored(source, options) if stored else _evaluated(source, options, settings)
    if options.markdown is not None:
        write_output(options.markdown, report.markdown())
    if options.as_json:
        print_json(report.data)
    else:
        for line in report.lines():
            print_plain(console, line)
    if summary := os.environ.get(SUMMARY):
        _append(Path(summary), report.markdown())
    if report.exit_code:
        sys.exit(report.exit_code)


def _append(summary: Path, text: str) -> None:
    """Append to the job's summary. A failure is a note: the exit code is that of the verdict."""
    try:
        with summary.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        print_plain(stderr_console(), f"{SUMMARY}: the summary cannot be written: {error}")


def _stored(run: Path, options: GateOptions) -> GateReport:
    """The report on a run's best candidate, from the test scores in its result."""
    result = load_result(run)
    best = result.finalist("best")
    if result.keeps_baseline:
        return _identical(run, options)
    compared = best.against_baseline
    if compared is None:
        rule = "the run has no comparison with the baseline on the test split"
        raise ConfigError(rule, where=run, remedy="add a test split to the task, or use --split validation")
    return GateReport(
        str(run),
        BASELINE,
        "test",
        compared.difference,
        options.margin,
        CostRatio.of(best.cost, result.finalist("baseline").cost),
        options.max_cost_ratio,
        measures=(best.measures, result.finalist("baseline").measures),
    )


def _evaluated(source: Path, options: GateOptions, settings: Sequence[str]) -> GateReport:
    """The report from two evaluations, whose responses come from the journal as far as it has them."""
    given = None if options.against == BASELINE else load_candidate(options.against)
    found = find_deployment(source, options.task, settings)
    reference = checked_candidate(given or found.task.baseline, found.task)
    if dict(found.candidate) == dict(reference):  # whatever the order of the subtasks in the files
        return _identical(source, options)
    ours, theirs = _evaluations(found, [found.candidate, reference], options.split)
    difference = compare(ours, theirs, seed=found.config.seed)
    if difference is None:
        rule = f"no row of the {options.split} split has a score for both candidates"
        raise ConfigError(rule, where=source, remedy="see `agentopt evaluate` for what failed")
    rows = rows_needed(*shared_scores(ours, theirs), margin=options.margin) if options.rows_needed else None
    too_few = options.rows_needed and rows is None
    return GateReport(
        str(source),
        options.against,
        options.split,
        difference,
        options.margin,
        CostRatio.of(_costs(ours, found.candidate), _costs(theirs, found.candidate)),
        options.max_cost_ratio,
        rows,
        (*_unscored(options, ours, theirs), *(["rows needed: a million are not enough"] if too_few else [])),
        (Measures.of(ours), Measures.of(theirs)),
    )


def _identical(source: Path, options: GateOptions) -> GateReport:
    cost, ratio = CostRatio(1.0, None), options.max_cost_ratio
    notes = ("rows needed: none, because nothing is compared",) if options.rows_needed else ()
    return GateReport(str(source), options.against, options.split, None, options.margin, cost, ratio, notes=notes)


def _evaluations(found: Deployment, candidates: Sequence[Candidate], split: Split) -> list[Evaluation]:
    progress, done = stderr_console(), count(1)
    total = len(candidates) * len(found.task.splits.get(split, ()))
    with interruptible(progress), counting_bar(progress, "examples") as show:

        def observe(event: Event) -> None:
            if isinstance(event, ExampleDone):
                show(next(done), total)

        source = LoadedTask(found.task, found.specs)
        return [evaluate(source, one, found.config, split=split, callbacks=[observe]) for one in candidates]


def _costs(evaluation: Evaluation, candidate: Candidate) -> dict[str, SubtaskCostShown]:
    return {subtask: SubtaskCostShown.of(evaluation, subtask) for subtask in candidate}


def _unscored(options: GateOptions, ours: Evaluation, theirs: Evaluation) -> list[str]:
    named = {str(options.candidate): ours, options.against: theirs}
    return [f"{name}: {counted(len(of.errors), 'row')} without a score" for name, of in named.items() if of.errors]
