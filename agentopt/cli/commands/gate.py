"""`agentopt gate`."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from rich.console import Console

from agentopt.api import LoadedTask, evaluate
from agentopt.cli.output import CommandError, interruptible, print_json, print_plain, stderr_console
from agentopt.cli.run_names import CANDIDATE_FILE, run_path
from agentopt.core.candidate import Candidate, load_candidate
from agentopt.core.comparison import compare, shared_scores
from agentopt.core.errors import AgentoptError, ConfigError, UserError
from agentopt.core.events import Event, ExampleDone
from agentopt.core.files import check_writable, write_output
from agentopt.core.gate import rows_needed
from agentopt.core.message_text import counted
from agentopt.core.records import Evaluation, Split
from agentopt.core.stats import Difference
from agentopt.deploy.deployment import Deployment, find_deployment
from agentopt.evaluation.candidate_check import candidate_notes, checked_candidate
from agentopt.report.bars import counting_bar
from agentopt.report.gate import BASELINE, CostRatio, GateReport
from agentopt.runs.example_costs import ExampleCosts, SubtaskCostShown
from agentopt.runs.folder import RECORD, RunFolder
from agentopt.runs.result import load_result
from agentopt.runs.run_record import read_record

UNDECIDED = 4
"""Exit code if a cap is reached, or calls fail, before both candidates are measured."""
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
    if options.against == BASELINE:
        _check_searched(source)
    is_recorded = source.is_dir() and options.against == BASELINE and options.split == "test"
    report = (_recorded(source, options) if is_recorded else None) or _measured(source, options, settings)
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


def _check_searched(source: Path) -> None:
    """Raise `ConfigError` if the source is of a run that compared nothing, so that its candidate would pass."""
    run = source.parent if source.name in ("best.yaml", "recommended.yaml") else source
    if not (run / "result.json").is_file():
        return
    result = load_result(run)
    if result.unparsed:
        rule = f"a verdict needs responses that can be parsed, but in this run {result.unparsed}"
        remedy = f"change the prompt or the parser, and search again: {shlex.join(['agentopt', 'inspect', str(run)])}"
        raise ConfigError(rule, where=source, remedy=remedy)
    if result.unsearched:
        rule = f"a verdict needs a candidate that was measured, but the run {result.unsearched}"
        raise ConfigError(rule, where=source, remedy=RunFolder.open(run).resuming_after(result.ended))


def _append(summary: Path, text: str) -> None:
    """Append to the job's summary. A failure is a note: the exit code is that of the verdict."""
    try:
        with summary.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        print_plain(stderr_console(), f"{SUMMARY}: the summary cannot be written: {error}")


def _recorded(run: Path, options: GateOptions) -> GateReport | None:
    """The report on a run's best candidate, from its test; None if that needs scores which the run did not record."""
    result = load_result(run)
    best, baseline = result.finalist("best"), result.finalist("baseline")
    if result.keeps_baseline:
        return _identical(run, options)
    compared = best.against_baseline
    if compared is None:
        rule = "the run has no comparison with the baseline on the test split"
        raise ConfigError(rule, where=run, remedy="add a test split to the task, or use --split validation")
    tests = read_record(run / RECORD).tests
    if best.trial in tests and baseline.trial in tests:
        return _report(run, options, compared.difference, (tests[best.trial], tests[baseline.trial]), best.candidate)
    if options.rows_needed:
        return None
    return GateReport(
        str(run),
        BASELINE,
        "test",
        compared.difference,
        options.margin,
        CostRatio.of(best.cost, baseline.cost),
        options.max_cost_ratio,
        measures=(best.measures, baseline.measures),
        measured_on="validation",
    )


def _measured(source: Path, options: GateOptions, settings: Sequence[str]) -> GateReport:
    """The report from two evaluations. That they did not end is no verdict, and has an exit code of its own."""
    try:
        return _evaluated(source, options, settings)
    except UserError:
        raise
    except AgentoptError as error:
        raise CommandError(error, UNDECIDED) from error


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
    report = _report(source, options, difference, (ours, theirs), found.candidate)
    named = {str(options.candidate): found.candidate, options.against: reference}
    notes = (f"{name}: {note}" for name, one in named.items() for note in candidate_notes(one, found.task, found.specs))
    return replace(report, notes=(*report.notes, *notes))


def _report(
    source: Path,
    options: GateOptions,
    difference: Difference,
    evaluations: tuple[Evaluation, Evaluation],
    candidate: Candidate,
) -> GateReport:
    """The report from the evaluations of the candidate and of the reference on the split of the options."""
    ours, theirs = evaluations
    scores, gain = shared_scores(ours, theirs), difference.mean
    rows = rows_needed(*scores, margin=options.margin) if options.rows_needed else None
    if_real = rows_needed(*scores, margin=options.margin, gain=gain) if options.rows_needed and gain > 0 else None
    of_gain = (f"rows needed: {if_real:,}, if the measured {gain:+.3f} is the true difference",) if if_real else ()
    too_few = options.rows_needed and rows is None
    return GateReport(
        str(source),
        options.against,
        options.split,
        difference,
        options.margin,
        CostRatio.of(_costs(ours, candidate), _costs(theirs, candidate)),
        options.max_cost_ratio,
        rows,
        (*of_gain, *_unscored(options, ours, theirs), *(["rows needed: a million are not enough"] if too_few else [])),
        (ExampleCosts.of(ours), ExampleCosts.of(theirs)),
        options.split,
    )


def _identical(source: Path, options: GateOptions) -> GateReport:
    cost, ratio = CostRatio(1.0, None), options.max_cost_ratio
    notes = ("rows needed: none, because nothing is compared",) if options.rows_needed else ()
    split = options.split
    return GateReport(
        str(source), options.against, split, None, options.margin, cost, ratio, notes=notes, measured_on=split
    )


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
