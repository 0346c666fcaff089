"""Compares candidates of several runs on the examples that they share, from records alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from agentopt.core.candidate import Candidate
from agentopt.core.duplicates import groups_of, inputs_key, shared_by_group
from agentopt.core.errors import ConfigError, UserError
from agentopt.core.fingerprint import fingerprint
from agentopt.core.gate import GateVerdict, gate_verdict
from agentopt.core.records import Evaluation
from agentopt.core.stats import Difference, paired_difference
from agentopt.runs.archive import RunArchive, RunState
from agentopt.runs.example_costs import ExampleCosts
from agentopt.runs.inspection import InspectedSplit
from agentopt.runs.result import Finalist, Measured, Role
from agentopt.runs.task_identity import sources


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """One run's candidate.

    Attributes:
        run: The run's folder.
        task: The task's name.
        state: Whether the run has ended.
        trial: The candidate's trial.
        candidate: The candidate.
        score: Its score on the split, with its 95% interval; None if it was not evaluated on it.
        measures: USD and latency of a request, measured on the split, else on the validation split; None if unknown.
    """

    run: str
    task: str
    state: RunState
    trial: int
    candidate: Candidate
    score: Measured | None
    measures: ExampleCosts | None


@dataclass(frozen=True, slots=True)
class ComparedPair:
    """The candidate of one run against that of an earlier argument.

    Attributes:
        run: The run's folder.
        reference: The folder of the other run.
        difference: Mean score of `run` minus that of `reference` over the shared examples, each group of repeated rows
            counted once; None if they share none.
        verdict: On the difference, within a margin of .02; `non-inferior` if both are the same candidate.
        reason: Why there is no difference; empty if there is one.
    """

    run: str
    reference: str
    difference: Difference | None
    verdict: GateVerdict | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RunComparison:
    """Candidates of several runs.

    Attributes:
        role: The role that each candidate has in its run.
        split: The split that they are compared on.
        runs: The candidates, in the order of the arguments.
        pairs: Every pair of runs.
        notes: What a reader should know.
    """

    role: Role
    split: InspectedSplit
    runs: tuple[ComparedRun, ...]
    pairs: tuple[ComparedPair, ...]
    notes: tuple[str, ...] = ()


def compare_runs(
    archives: Sequence[RunArchive], *, role: Role = "best", split: InspectedSplit = "test"
) -> RunComparison:
    """Compare the candidates that have a role in their runs.

    Two runs share an example if its inputs and its target are equal, whatever its id and the task's folder.

    Args:
        archives: Two runs or more.
        role: Baseline, best or recommended.
        split: The split.

    Raises:
        UserError: There are fewer than two runs, or none was evaluated on the split.
        ConfigError: A run has no complete trial.
    """
    if len(archives) < 2:
        raise UserError("two runs or more are compared, but got one", remedy="agentopt compare RUN RUN")
    found = [_run(archive, role, split) for archive in archives]
    if not any(run.score for run in found):
        rule = f"no {role} candidate of these runs was evaluated on the {split} split"
        raise UserError(rule, remedy="use --split validation")
    pairs = tuple(_pair(a, b, role, split) for a, b in combinations(archives, 2))
    differ = len(_versions(archives)) > 1 and any(pair.difference for pair in pairs)
    note = "the runs have different tasks or versions of a task: each score is by the scorer of its own task"
    return RunComparison(role, split, tuple(found), pairs, (note,) if differ else ())


def _versions(archives: Sequence[RunArchive]) -> set[str]:
    """Fingerprints of the tasks, apart from the models to choose from and limits: they change no candidate's score."""
    every = tuple(dict.fromkeys(model for archive in archives for model in archive.task.models))
    no_limits: dict[str, Any] = {"cost_measure": None, "max_units": None, "max_usd": None, "max_seconds": None}
    tasks = [
        replace(task, subtasks=tuple(replace(subtask, models=every) for subtask in task.subtasks), **no_limits)
        for task in (archive.task for archive in archives)
    ]
    return {fingerprint(task, sources(task)) for task in tasks}


def _finalist(archive: RunArchive, role: Role) -> Finalist:
    for finalist in archive.finalists:
        if role in finalist.roles:
            return finalist
    raise ConfigError(
        f"the run has no {role} candidate, because no trial is complete",
        where=archive.run.path,
        remedy=archive.run.resuming,
    )


def _evaluation(archive: RunArchive, finalist: Finalist, split: InspectedSplit) -> Evaluation | None:
    if split == "test":
        return archive.tests.get(finalist.trial)
    trial = archive.trial(finalist.trial)
    return trial.evaluation if trial else None


def _run(archive: RunArchive, role: Role, split: InspectedSplit) -> ComparedRun:
    finalist = _finalist(archive, role)
    evaluation = _evaluation(archive, finalist, split)
    return ComparedRun(
        str(archive.run.path),
        archive.task.name,
        archive.state,
        finalist.trial,
        finalist.candidate,
        finalist.test if split == "test" else finalist.validation,
        ExampleCosts.of(evaluation) if evaluation else finalist.measures,
    )


def _pair(reference: RunArchive, run: RunArchive, role: Role, split: InspectedSplit) -> ComparedPair:
    names = str(run.run.path), str(reference.run.path)
    evaluations = [_evaluation(archive, _finalist(archive, role), split) for archive in (run, reference)]
    for archive, evaluation in zip((run, reference), evaluations, strict=True):
        if evaluation is None or not evaluation.row_scores:
            return ComparedPair(*names, None, None, f"{archive.run.path} has no {split} scores of single examples")
    a, b = (_Scores.of(e, x) for e, x in zip(evaluations, (run, reference), strict=True) if e)
    difference = _difference(a, b, run.run.config.seed)
    if difference is None:
        return ComparedPair(*names, None, None, f"not comparable: they share no {split} example")
    is_same = _finalist(run, role).candidate == _finalist(reference, role).candidate
    return ComparedPair(*names, difference, "non-inferior" if is_same else gate_verdict(difference))


Key = tuple[str, int]
"""The content of an example, and how many rows before it in the split have the same."""


@dataclass(frozen=True, slots=True)
class _Scores:
    """Scores and groups of an evaluation, by the content of the examples."""

    scores: Mapping[Key, float]
    group: Mapping[Key, str]

    @classmethod
    def of(cls, evaluation: Evaluation, archive: RunArchive) -> _Scores:
        row_scores, seen = evaluation.row_scores, Counter[str]()
        keys: dict[str, Key] = {}
        for example in archive.task.splits.get(evaluation.split, ()):
            content = inputs_key({"inputs": example.inputs, "target": example.target})
            keys[example.id] = content, seen[content]
            seen[content] += 1
        return cls(
            {key: row_scores[row] for row, key in keys.items() if row in row_scores},
            {key: evaluation.groups.get(row, row) for row, key in keys.items()},
        )


def _difference(a: _Scores, b: _Scores, seed: int) -> Difference | None:
    """Mean of `a - b` over the shared examples; rows that are one group in either run count once."""
    shared = [key for key in b.scores if key in a.scores]
    if not shared:
        return None
    ids = {key: str(place) for place, key in enumerate(shared)}
    groups = groups_of({name: {("a", a.group[key]), ("b", b.group[key])} for key, name in ids.items()})
    first, second = ({name: of.scores[key] for key, name in ids.items()} for of in (a, b))
    return paired_difference(*shared_by_group(first, second, groups), seed=seed)
