"""What a trial did on each example of a split, beside the baseline: from a run's records, without a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentopt.core.candidate import Candidate
from agentopt.core.errors import UserError
from agentopt.core.message_text import in_words
from agentopt.core.records import Evaluation, ExampleResult, SubtaskUse
from agentopt.core.task import Example
from agentopt.core.yaml_models import did_you_mean, shown
from agentopt.runs.archive import RunArchive
from agentopt.runs.traces import SubtaskTrace, traces, why_untraced

InspectedSplit = Literal["validation", "test"]


@dataclass(frozen=True, slots=True)
class ExampleRow:
    """One example under one trial. Of several repeats, the score is the mean and the rest is that of the first.

    Attributes:
        id: The example's id.
        score: Its score; None if it has none.
        baseline_score: The baseline's; None if it has none.
        output: The output as text.
        feedback: The scorer's remark, or why the output is missing.
        failure: Why there is no score, or the reason of the call that failed; empty if neither.
        prompt_tokens: Of all subtasks, fusion calls apart.
        completion_tokens: Of all samples of all subtasks.
        usd: At the catalogue's prices, fusion calls included.
        seconds: Latency along the critical path; None if it is not known.
    """

    id: str
    score: float | None
    baseline_score: float | None
    output: str
    feedback: str
    failure: str
    prompt_tokens: int
    completion_tokens: int
    usd: float
    seconds: float | None

    @property
    def gain(self) -> float | None:
        """Score minus that of the baseline; None unless both are known."""
        return None if self.score is None or self.baseline_score is None else self.score - self.baseline_score


@dataclass(frozen=True, slots=True)
class TrialInspection:
    """A trial on one split.

    Attributes:
        run: The run's folder.
        task: The task's name.
        trial: The trial's number.
        split: The split.
        candidate: The trial's candidate.
        outcome: How the evaluation ended, such as `complete`.
        score: Mean score; None without any.
        baseline_score: That of the baseline.
        examples: The largest losses against the baseline first, then in the order of the split; those without one of
            the two scores last.
    """

    run: str
    task: str
    trial: int
    split: InspectedSplit
    candidate: Candidate
    outcome: str
    score: float | None
    baseline_score: float | None
    examples: tuple[ExampleRow, ...]


@dataclass(frozen=True, slots=True)
class ExampleInspection:
    """A trial on one example.

    Attributes:
        run: The run's folder.
        task: The task's name.
        trial: The trial's number.
        split: The example's split.
        candidate: The trial's candidate.
        inputs: The example's inputs.
        target: Its target.
        result: Scores, output and cost.
        subtasks: What each subtask was sent and answered; empty if there is no trace.
        untraced: Why there is no trace; None if there is one.
    """

    run: str
    task: str
    trial: int
    split: InspectedSplit
    candidate: Candidate
    inputs: Mapping[str, Any]
    target: Any
    result: ExampleRow
    subtasks: tuple[SubtaskTrace, ...]
    untraced: str | None


def inspect_trial(
    archive: RunArchive, number: int | None = None, split: InspectedSplit = "validation"
) -> TrialInspection:
    """Return the examples of a trial.

    Args:
        archive: The run.
        number: The trial. Default: the best one.
        split: The split.

    Raises:
        UserError: There is no such trial, or it was not evaluated on the split.
    """
    number = _trial(archive, number)
    evaluation = _evaluation(archive, number, split)
    baseline = _on(archive, 0, split)
    rows = _rows(evaluation, baseline, archive.task.splits.get(split, ()))
    return TrialInspection(
        str(archive.run.path),
        archive.task.name,
        number,
        split,
        _candidate(archive, number),
        evaluation.outcome,
        evaluation.score,
        baseline.score if baseline else None,
        tuple(sorted(rows, key=lambda row: (row.gain is None, row.gain or 0.0))),
    )


def inspect_example(
    archive: RunArchive, example: str, number: int | None = None, split: InspectedSplit | None = None
) -> ExampleInspection:
    """Return what a trial did on one example.

    Args:
        archive: The run.
        example: The example's id.
        number: The trial. Default: the best one.
        split: The example's split. Default: the first one of validation and test that has the example.

    Raises:
        UserError: There is no such trial or example, or the trial has no result for the example.
    """
    number = _trial(archive, number)
    split, row = _example(archive, example, split)
    evaluation = _evaluation(archive, number, split)
    found = [one for one in _rows(evaluation, _on(archive, 0, split), [row]) if one.id == example]
    if not found:
        rule = f"trial {number} has no result for the example {shown(example)}: it is {evaluation.outcome}"
        raise UserError(rule, remedy="name a trial that evaluated it; trial 0 is the baseline")
    untraced = why_untraced(archive.task)
    trace = traces(archive, [(number, split)], only={example}).get((number, split), {}).get(example, ())
    return ExampleInspection(
        str(archive.run.path),
        archive.task.name,
        number,
        split,
        _candidate(archive, number),
        row.inputs,
        row.target,
        found[0],
        trace,
        None if trace else untraced or "the journal does not have all of its responses",
    )


def _trial(archive: RunArchive, number: int | None) -> int:
    if number is None:
        best = next((finalist.trial for finalist in archive.finalists if "best" in finalist.roles), None)
        if best is None:
            remedy = "name one: --trial 0" if archive.trials else archive.run.resuming
            raise UserError("no trial of this run is complete, so there is no best one", remedy=remedy)
        number = best
    if archive.trial(number) is None:
        last = len(archive.trials) - 1
        remedy = f"name a trial of the run: they are 0 to {last}" if archive.trials else archive.run.resuming
        raise UserError(f"the run has no trial {number}{'' if archive.trials else ': it has none yet'}", remedy=remedy)
    return number


def _candidate(archive: RunArchive, number: int) -> Candidate:
    trial = archive.trial(number)
    assert trial is not None, "checked by _trial"
    return trial.candidate


def _on(archive: RunArchive, number: int, split: InspectedSplit) -> Evaluation | None:
    trial = archive.trial(number)
    if split == "test" or trial is None:
        return archive.tests.get(number)
    return trial.evaluation


def _evaluation(archive: RunArchive, number: int, split: InspectedSplit) -> Evaluation:
    found = _on(archive, number, split)
    if found is None:
        tested = in_words([str(number) for number in sorted(archive.tests)])
        remedy = f"name one of the trials {tested}" if tested else "use --split validation"
        raise UserError(f"the run has no record of trial {number} on the {split} split", remedy=remedy)
    return found


def _example(archive: RunArchive, example: str, split: InspectedSplit | None) -> tuple[InspectedSplit, Example]:
    splits: tuple[InspectedSplit, ...] = (split,) if split else ("validation", "test")
    for name in splits:
        for row in archive.task.splits.get(name, ()):
            if row.id == example:
                return name, row
    known = [row.id for name in splits for row in archive.task.splits.get(name, ())]
    where = f"{splits[0]} split has" if split else "validation and test splits have"
    rule = f"the {where} no example {shown(example)}"
    raise UserError(rule, remedy=did_you_mean(example, known))


def _rows(evaluation: Evaluation, baseline: Evaluation | None, examples: Sequence[Example]) -> list[ExampleRow]:
    """The rows of the examples that the evaluation has a result for."""
    first = {result.id: result for result in reversed(evaluation.results)}
    scores, reference = evaluation.row_scores, baseline.row_scores if baseline else {}
    return [
        _row(first[example.id], scores.get(example.id), reference.get(example.id))
        for example in examples
        if example.id in first
    ]


def _row(result: ExampleResult, score: float | None, baseline_score: float | None) -> ExampleRow:
    use = sum(result.subtasks.values(), SubtaskUse())
    reasons = [result.error, result.failure.reason if result.failure else None]
    return ExampleRow(
        result.id,
        score,
        baseline_score,
        result.output,
        result.feedback,
        next(filter(None, reasons), ""),
        use.prompt_tokens,
        use.completion_tokens,
        use.usd + use.fusion_usd,
        result.seconds,
    )
