"""Checks a task's judge against labels: agreement, the spread of its verdicts, and the corrected mean score."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from agentopt.core.agreement import Agreement, agreement, classes_of, correlation, nearest_class
from agentopt.core.candidate import Candidate
from agentopt.core.duplicates import by_group
from agentopt.core.errors import ModelError, ScorerError, TaskError, UserError
from agentopt.core.message_text import counted, without_example
from agentopt.core.prediction_powered import CorrectedMean, corrected_mean
from agentopt.core.records import Evaluation, Score, Split
from agentopt.core.stats import Difference, Interval, mean_interval, paired_difference
from agentopt.core.task import Example, Task
from agentopt.evaluation.evaluator import Evaluator, OnResult, judged
from agentopt.evaluation.judge import Judge
from agentopt.models.session import Session
from agentopt.runs.config import Config
from agentopt.taskfile.labels import Label, check_one_label_each

FEWEST_LABELS, FEWEST_OTHERS = 3, 2
"""Labelled and other rows without which the mean is not corrected."""

SHOWN_IDS = 5
"""Most unknown ids that an error lists."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Verdicts on one output.

    Attributes:
        verdicts: Number of verdicts on an output.
        deviation: Their standard deviation, pooled over the outputs.
        undecided: Number of outputs with verdicts of several classes; None if the labels are no classes.
    """

    verdicts: int
    deviation: float
    undecided: int | None


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """A judge beside people.

    Attributes:
        judge: Catalogue name of the judge.
        split: The split that the labels are about.
        labels: Number of labelled outputs that the judge scored.
        own: Number of them that are the candidate's outputs.
        agreement: On classes, if the labels are classes.
        correlation: With its 95% interval, if the labels are scores; None without spread.
        difference: The judge's score minus the label, each example counted once.
        spread: None if each output has one verdict.
        label_mean: Mean label, with its interval.
        corrected: The candidate's mean score as people would give it; None with too few labels or other rows.
        failed: Place of a label -> why the judge gave no score.
        notes: What a reader of the report should know.
    """

    judge: str
    split: Split
    labels: int
    own: int
    agreement: Agreement | None
    correlation: tuple[float, Interval] | None
    difference: Difference
    spread: Spread | None
    label_mean: tuple[float, Interval]
    corrected: CorrectedMean | None
    failed: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Labelled:
    """A label, its example, and the judge's scores of each repeat."""

    label: Label
    example: Example
    own: bool
    scores: tuple[Score, ...] = ()

    @property
    def output(self) -> tuple[str, str | None]:
        """The example and the text that was scored, which is None for the candidate's."""
        return self.example.id, None if self.own or self.label.output is None else self.label.output.strip()

    @property
    def verdicts(self) -> list[float]:
        return [value for score in self.scores for value in score.judgements or (score.value,)]


def task_judge(task: Task) -> Judge:
    """The judge that scores the task. Raises `UserError` if another scorer does."""
    if not isinstance(task.scorer, Judge):
        rule = "the task must be scored by a judge, but its scorer is another one"
        raise UserError(rule, where=f"task {task.name}", remedy="set scorer: {kind: judge, model: ..., rubric: ...}")
    return task.scorer


async def check_judge(
    task: Task,
    candidate: Candidate,
    split: Split,
    labels: Sequence[Label],
    config: Config,
    session: Session,
    *,
    repeats: int = 1,
    on_result: OnResult = lambda _: None,
) -> JudgeReport:
    """Evaluate the candidate, let the judge score what is labelled, and compare.

    Args:
        task: A task that is scored by a judge.
        candidate: Its outputs are those of labels without an output.
        split: The labels are about its examples.
        labels: At least one. Those of examples of other splits are left out, with a note.
        config: Its seeds, and what becomes of failed examples.
        session: The models.
        repeats: Independent repeats of the judge's verdicts on each labelled output.
        on_result: Called after each example of the split.

    Raises:
        TaskError: A label is about no example of the task, or about several, no label is about the split, or an output
            has two labels.
        ScorerError: The judge gave no score to any labelled output; the message has the first cause.
        BudgetExceeded: A cap is reached.
    """
    judge, seed = task_judge(task), config.response_seed
    evaluators = [
        Evaluator(task, session.model, session.specs, seed=seed, failed_examples=config.failed_examples, judge_repeat=n)
        for n in range(repeats)
    ]
    known = {example.id: example for example in task.splits[split]}
    labels, left_out = labels_of_split(labels, task, split)
    evaluation = await evaluators[0].evaluate(candidate, split, on_result=on_result)
    found = [_located(label, evaluation, known, split) for label in labels]
    check_one_label_each((one.output, one.label) for one in found)

    async def scored(one: _Labelled) -> _Labelled | str:
        try:
            if one.own:
                results = [await evaluator.run_example(candidate, one.example) for evaluator in evaluators]
                errors = [result.error for result in results if result.error]
                scores = [Score(r.score, judgements=r.judgements) for r in results if r.score is not None]
                if errors:
                    return without_example(errors[0], one.example.id)
                return replace(one, scores=tuple(scores))
            scorers = [judge.using(session.model, seed, repeat) for repeat in range(repeats)]
            return replace(one, scores=tuple([await judged(s, one.example, one.label.output) for s in scorers]))
        except (ModelError, ScorerError) as error:
            return without_example(str(error), one.example.id)

    outcomes = await asyncio.gather(*(scored(one) for one in found), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    scored_ones = [outcome for outcome in outcomes if isinstance(outcome, _Labelled)]
    failed = {label.where: o for label, o in zip(labels, outcomes, strict=True) if isinstance(o, str)}
    if not scored_ones:
        first = next(iter(failed.values()))
        raise ScorerError(f"the judge scored no labelled output: {first}\n  remedy: {_remedy(judge.model)}")
    report = _report(judge.model, evaluation, scored_ones, failed)
    return replace(report, notes=(*left_out, *report.notes))


def _remedy(judge: str) -> str:
    return (
        "if the judge's replies have no verdict, set another `model`, or a higher `max_tokens`, under `scorer` of the "
        f"task; if calls fail, `agentopt models check {judge}` reports why"
    )


def labels_of_split(labels: Sequence[Label], task: Task, split: Split) -> tuple[list[Label], list[str]]:
    """Return the labels of the split's examples and those without an id, and a note if others are left out.

    Args:
        labels: Labels of any split.
        task: The task.
        split: The split.

    Raises:
        TaskError: A label is about no example of the task, or no label is about the split.
    """
    splits = {example.id: name for name, examples in task.splits.items() for example in examples}
    splits |= {example.id: split for example in task.splits[split]}
    unknown = [label for label in labels if label.example is not None and label.example not in splits]
    if unknown:
        ids = ", ".join(repr(label.example) for label in unknown[:SHOWN_IDS])
        more = f" and {len(unknown) - SHOWN_IDS} more" if len(unknown) > SHOWN_IDS else ""
        rule = f"a label must be about an example of the task, but there is no {ids}{more}"
        remedy = "correct the ids, or remove these rows; `id` is the example's id, or its line number without one"
        raise TaskError(rule, where=unknown[0].where, remedy=remedy)
    found = [label for label in labels if label.example is None or splits[label.example] == split]
    others = Counter(splits[label.example] for label in labels if label.example and splits[label.example] != split)
    if not found:
        rule = f"a label must be about an example of the {split} split, but all are of {' and '.join(others)}"
        raise TaskError(rule, where=labels[0].where, remedy=f"choose the split by --split {min(others)}")
    notes = [f"left out: {counted(count, 'label')} of examples of the {name} split" for name, count in others.items()]
    return found, notes


def _located(label: Label, evaluation: Evaluation, known: Mapping[str, Example], split: Split) -> _Labelled:
    """The label with its example, which the id names, or else the output."""
    outputs = {result.id: result.output.strip() for result in evaluation.results if result.error is None}
    text = label.output.strip() if label.output is not None else None
    if label.example is not None:
        return _Labelled(label, known[label.example], text in (None, outputs.get(label.example)))
    ids = [example for example, output in outputs.items() if output == text]
    if len(ids) != 1:
        rule = f"an output without an id must be the candidate's on one example of {split}, but is so on {len(ids)}"
        raise TaskError(rule, where=label.where, remedy="add the column `id` with the example's id")
    return _Labelled(label, known[ids[0]], own=True)


def _report(judge: str, evaluation: Evaluation, found: Sequence[_Labelled], failed: dict[str, str]) -> JudgeReport:
    labels, scores = [one.label.score for one in found], [one.scores[0].value for one in found]
    units = [evaluation.groups.get(one.example.id, one.example.id) for one in found]
    classes = classes_of(labels)
    unit_of = {str(number): unit for number, unit in enumerate(units)}
    of_label, of_judge = (by_group(dict(zip(unit_of, values, strict=True)), unit_of) for values in (labels, scores))
    own = {unit for unit, one in zip(units, found, strict=True) if one.own}
    others = [score for unit, score in evaluation.scores.items() if unit not in own]
    means, unlabelled = list(of_label.values()), evaluation.planned_scores - len(own)
    unscored = evaluation.planned - len(evaluation.row_scores)
    return JudgeReport(
        judge=judge,
        split=evaluation.split,
        labels=len(found),
        own=sum(one.own for one in found),
        agreement=agreement(labels, scores, classes, units) if classes else None,
        correlation=None if classes else correlation(means, list(of_judge.values())),
        difference=paired_difference(of_judge, of_label),
        spread=_spread(found, classes),
        label_mean=(float(np.mean(means)), mean_interval(means)),
        corrected=_corrected(means, list(of_judge.values()), others),
        failed=failed,
        notes=tuple(_notes(found, len(means), len(others), unlabelled, unscored)),
    )


def _spread(found: Sequence[_Labelled], classes: Sequence[float] | None) -> Spread | None:
    verdicts = [one.verdicts for one in found if len(one.verdicts) > 1]
    if not verdicts:
        return None
    freedom = sum(len(values) - 1 for values in verdicts)
    pooled = sum(float(np.var(values)) * len(values) for values in verdicts) / freedom
    undecided = None
    if classes:
        undecided = sum(len({nearest_class(value, classes) for value in values}) > 1 for values in verdicts)
    return Spread(max(map(len, verdicts)), pooled**0.5, undecided)


def _corrected(labels: list[float], scores: list[float], others: list[float]) -> CorrectedMean | None:
    enough = len(labels) >= FEWEST_LABELS and len(others) >= FEWEST_OTHERS
    return corrected_mean(labels, scores, others) if enough else None


def _notes(found: Sequence[_Labelled], labels: int, others: int, unlabelled: int, unscored: int) -> Iterable[str]:
    """What a reader should know.

    Args:
        found: The labelled outputs with a score.
        labels: Number of their examples.
        others: Number of the other examples with a score.
        unlabelled: Number of the examples of the split that are not among those whose own output is labelled.
        unscored: Number of the examples of the split that have no score.
    """
    foreign = sum(not one.own for one in found)
    if foreign:
        yield (
            f"{foreign} of {len(found)} labels are of other outputs than the candidate's: the corrected score assumes "
            "that the judge makes the same errors on both"
        )
    if unscored:
        yield f"left out: the candidate's outputs on {counted(unscored, 'example')} of the split, which have no score"
    if not unlabelled and not foreign:
        yield "every row is labelled, so the mean label is the score"
    elif others < FEWEST_OTHERS:
        yield f"no corrected score: it needs scores of at least {FEWEST_OTHERS} other examples, but got {others}"
    elif labels < FEWEST_LABELS:
        yield f"no corrected score: it needs labels of at least {FEWEST_LABELS} examples, but got {labels}"
    else:
        yield "the corrected score holds if the labelled examples were chosen at random"
