"""Stores the trials of a run in one Optuna study, and finds the one to beat.

A record is written once, when an evaluation ends, so a killed run leaves no partial one. A candidate has one trial with
one number: a trial that is continued, or completed after it was pruned, is recorded again, and the last record counts.
The study can be opened with any Optuna tool: each record is a trial of the study, and what Optuna has no field for (the
evaluation, the proposer) is in its user attributes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from agentopt.core.candidate import Candidate
from agentopt.core.database import Condition, open_engine
from agentopt.core.errors import NothingEvaluated
from agentopt.core.files import own_file
from agentopt.core.records import BestSoFar, Evaluation, Trial
from agentopt.core.task import Task
from agentopt.core.ties import highest
from agentopt.models.catalog import ModelSpec
from agentopt.runs.folder import RunFolder, StudyPlace
from agentopt.runs.studies import add_trial, has_study, open_study, read_attributes
from agentopt.runs.task_identity import TaskChangedError, is_same_task
from agentopt.runs.trial_attributes import Results, TrialReader, attributes_of, read_results
from agentopt.search.base import Proposal, SearchSpace
from agentopt.search.from_task import needs_measuring, search_space, unlimited_space
from agentopt.search.measured_costs import measured_cost, with_measured_costs
from agentopt.search.observed_costs import observed_units
from agentopt.search.posterior import TOLERANCE, Choice, choose
from agentopt.search.proposer_names import PROMPTS_AFTER


class TrialStore:
    """The trials of one run, in memory and in an Optuna storage.

    Args:
        place: The study, or the path of an SQLite file of its own. It is created if it does not exist.
        space: The search space, for Optuna's distributions and the trials' costs.
        condition: Checked in the transaction that stores a trial: that no other process has continued the run.
    """

    def __init__(self, place: StudyPlace | Path, space: SearchSpace, condition: Condition | None = None) -> None:
        self._condition, self.space = condition, space
        self._place = StudyPlace(place) if isinstance(place, Path) else place
        self._records: dict[Candidate, list[Trial]] = {}
        with _readable(self._place):
            open_study(self._place)
            self._engine = open_engine(self._place.database, keeps_connections=False)  # nobody would close them
            reader = _reader(self._place)
            for attributes in read_attributes(self._place):
                trial = self._read(reader, attributes)
                if self._counts(trial):
                    self._keep(trial)

    def _read(self, reader: TrialReader, attributes: Mapping[str, str]) -> Trial:
        candidate, evaluation = reader.candidate(attributes), reader.evaluation(attributes)
        # Version 0.1.0 recorded neither `fallback` nor `completed_in_search`; what is empty is not stored.
        further = {name: json.loads(attributes[name]) for name in _FURTHER if name in attributes}
        units = trial_cost(self.space, candidate, evaluation)
        proposer = json.loads(attributes["proposer"])
        return Trial(self.number_of(candidate), candidate, evaluation, proposer, units, **further)

    @property
    def trials(self) -> list[Trial]:
        """The trials, oldest first; one for each candidate."""
        return [records[-1] for records in self._records.values()]

    @property
    def searched(self) -> list[Trial]:
        """The trials as the search sees them: a pruned one that was completed after it is pruned."""
        return [_as_searched(records) for records in self._records.values()]

    @property
    def completions(self) -> int:
        """Number of pruned trials that were completed after the search."""
        return sum(_as_searched(records).state != records[-1].state for records in self._records.values())

    def number_of(self, candidate: Candidate) -> int:
        """The number of the candidate's trial; the next free one if it has none."""
        records = self._records.get(candidate)
        return records[0].number if records else len(self._records)

    def add(self, proposal: Proposal, evaluation: Evaluation) -> Trial:
        """Record an evaluation as the candidate's trial; it is on disk when this returns.

        An incomplete evaluation replaces neither a finished one nor one with more scores: if a cap stopped it, it may
        stop earlier when it is repeated.

        Returns:
            The candidate's trial.

        Raises:
            JournalError: Another process has continued the run; nothing is stored.
        """
        trial = Trial(
            self.number_of(proposal.candidate),
            proposal.candidate,
            evaluation,
            proposal.proposer,
            trial_cost(self.space, proposal.candidate, evaluation),
            proposal.note,
            proposal.fallback,
            proposal.completed_in_search,
        )
        if self._counts(trial):
            self._store(trial)
            self._keep(trial)
        return self._records[trial.candidate][-1]

    def _store(self, trial: Trial) -> None:
        from agentopt.search.optuna_trials import to_frozen_trial

        frozen = to_frozen_trial(with_measured_costs(self.space, [trial]), trial)
        add_trial(self._engine, self._place, frozen, attributes_of(trial), self._condition)

    def _counts(self, trial: Trial) -> bool:
        if trial.state != "incomplete" or trial.candidate not in self._records:
            return True
        last = self._records[trial.candidate][-1]
        return last.state == "incomplete" and len(last.evaluation.scores) <= len(trial.evaluation.scores)

    def _keep(self, trial: Trial) -> None:
        self._records.setdefault(trial.candidate, []).append(trial)

    def find(self, candidate: Candidate, *, unfinished: bool = False) -> Trial | None:
        """The trial of `candidate` as the search saw it, or None; an incomplete one only with `unfinished`."""
        if candidate not in self._records:
            return None
        trial = _as_searched(self._records[candidate])
        return None if trial.state == "incomplete" and not unfinished else trial

    def choice(self, tolerance: float = TOLERANCE) -> Choice | None:
        """The best and the recommended trial; None if none is complete."""
        return choose(self.space, self.trials, tolerance=tolerance)

    @property
    def choice_of_search(self) -> Choice | None:
        """The choice without the trial of prompts found after the search, so that a resumed run repeats it."""
        return choose(self.space, [trial for trial in self.trials if trial.proposer != PROMPTS_AFTER])

    @property
    def best_so_far(self) -> BestSoFar | None:
        """The best trial and its shrunk score, for events."""
        choice = self.choice()
        return BestSoFar(choice.best.number, choice.best_score) if choice else None

    @property
    def unfinished(self) -> list[Trial]:
        """The incomplete trials."""
        return [trial for trial in self.trials if trial.state == "incomplete"]


def _as_searched(records: Sequence[Trial]) -> Trial:
    """The record that the agent had completed, the first finished record of a candidate, or else its last one."""
    finished = [trial for trial in records if trial.state != "incomplete"]
    completed = [trial for trial in finished if trial.completed_in_search]
    return (completed or finished[:1] or records)[-1]


def highest_score(trials: Sequence[Trial]) -> Trial | None:
    """The complete trial with the highest raw score over the examples that none left out; of equals the cheaper one.

    Early stopping compares with it: that a trial cannot catch up is a statement about raw scores on the same rows.
    What a run returns is chosen by `search.posterior.choose`.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    left_out = {example for trial in complete for example in trial.evaluation.left_out}

    def mean(trial: Trial) -> float:
        scores = [score for example, score in trial.evaluation.scores.items() if example not in left_out]
        return sum(scores) / len(scores) if scores else float("-inf")

    return highest(complete, mean, lambda trial: (trial.units, trial.number))


def trial_cost(space: SearchSpace, candidate: Candidate, evaluation: Evaluation) -> float:
    """The cost of an evaluated candidate per example in the measure of the space: measured, or by token lengths.

    Args:
        space: The space.
        candidate: The candidate.
        evaluation: Its evaluation.
    """
    measured = measured_cost(space, evaluation, space.measure)
    return observed_units(space, candidate, evaluation) if measured is None else measured


_FURTHER = ("note", "fallback", "completed_in_search")
"""Attributes of a study's trial that are fields of `Trial` and may be missing."""


def _readable(place: StudyPlace) -> AbstractContextManager[None]:
    """Report a damaged file of a study alone. The responses that were paid for are in the journal."""
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    if place.name or not isinstance(place.database, Path):
        return nullcontext()
    remedy = "remove the file and resume the run: its trials are evaluated again, from the journal"
    return own_file(place.database, remedy, OptunaError, SQLAlchemyError, AssertionError)


def _reader(place: StudyPlace) -> TrialReader:
    return TrialReader(partial(_read_results, place))


def _read_results(place: StudyPlace, text: str) -> Results:
    with _readable(place):
        return read_results(text)


def recorded_evaluations(place: StudyPlace) -> list[tuple[Candidate, Evaluation]]:
    """Read every evaluation of a study with its candidate, the newest first, without the task.

    Args:
        place: The study.
    """
    if not has_study(place):
        return []
    with _readable(place):
        reader = _reader(place)
        return [(reader.candidate(a), reader.evaluation(a)) for a in reversed(read_attributes(place))]


def recorded_trials(run: RunFolder, task: Task, specs: Mapping[str, ModelSpec]) -> list[Trial]:
    """Read the trials of a run, with the costs that they have in it.

    Args:
        run: The run.
        task: Its task.
        specs: Catalogue entries of its models, by name.

    Raises:
        TaskChangedError: It has changed since the run began.
    """
    if not is_same_task(task, run.config, run.fingerprint):
        remedy = (
            "restore the task as it was then, as with git; the run's report.html, `agentopt runs show`, `gate` and "
            "`export` do not need it"
        )
        raise TaskChangedError("the task has changed since the run began", where=run.path, remedy=remedy)
    if not has_study(run.trials):
        return []
    if not needs_measuring(task):
        return TrialStore(run.trials, search_space(task, specs)).trials
    trials = TrialStore(run.trials, unlimited_space(task, specs)).trials
    if not trials:
        return []
    try:
        space = search_space(task, specs, trials[0].evaluation)
    except NothingEvaluated:  # the baseline did not run through, so no cost is known
        return trials
    return [replace(trial, units=trial_cost(space, trial.candidate, trial.evaluation)) for trial in trials]
