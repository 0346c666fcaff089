"""A run as it is recorded: everything a report shows, read from the run's folder and the journal without a call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from agentopt.core.budget import Usage
from agentopt.core.candidate import Candidate
from agentopt.core.cost import CostMeasure
from agentopt.core.errors import NothingEvaluated
from agentopt.core.records import Evaluation, Trial
from agentopt.core.task import Task
from agentopt.models.catalog import ModelSpec
from agentopt.models.journal_records import Spend
from agentopt.models.session import open_existing_journal
from agentopt.runs.folder import RunFolder
from agentopt.runs.result import Finalist, Result, Role, TrialLine, load_result
from agentopt.runs.run_lease import is_running
from agentopt.runs.run_record import GuidelinesEntry, PromptsEntry, read_record
from agentopt.runs.summary import beyond_limits, finalist, trial_line
from agentopt.runs.trial_store import recorded_trials
from agentopt.search.base import SearchSpace
from agentopt.search.from_task import cost_measure, search_space
from agentopt.search.posterior import Choice, choose

RunState = Literal["finished", "running", "stopped"]
"""finished: it has a result; running: a process works on it; stopped: by Ctrl-C, a kill or an error."""


@dataclass(frozen=True)
class RunArchive:
    """A run, read-only.

    Attributes:
        run: The folder and the settings.
        task: Its task.
        specs: Catalogue name -> entry, of its models.
        state: Whether it has ended.
        trials: Its trials, oldest first, with their results on the validation split.
        space: The search space; None before the first trial.
        choice: The best and the recommended trial by the trials so far; None if none is complete.
        result: The recorded result; None unless the run is finished.
        tests: Trial number -> its evaluation on the test split. Runs of earlier versions do not have it.
        guidelines: Of the search agent, in the order in which they were written.
        prompts: The optimisations of system prompts, in order.
        spent: (purpose, catalogue name) -> usage, over all sessions.
        spend: The usage by purpose, the failed attempts by kind, and the wall time, over all sessions.
    """

    run: RunFolder
    task: Task
    specs: Mapping[str, ModelSpec]
    state: RunState
    trials: tuple[Trial, ...]
    space: SearchSpace | None = None
    choice: Choice | None = None
    result: Result | None = None
    tests: Mapping[int, Evaluation] = field(default_factory=dict)
    guidelines: tuple[GuidelinesEntry, ...] = ()
    prompts: tuple[PromptsEntry, ...] = ()
    spent: Mapping[tuple[str, str], Usage] = field(default_factory=dict)
    spend: Spend = field(default_factory=lambda: Spend({}, {}, 0.0))

    @property
    def cost_in(self) -> CostMeasure:
        """The measure of the costs of candidates."""
        return self.result.cost_in if self.result else cost_measure(self.task, self.specs)

    @cached_property
    def finalists(self) -> tuple[Finalist, ...]:
        """The distinct ones of baseline, best and recommended: those of the result, or of the trials so far."""
        if self.result:
            return self.result.finalists
        roles = self._roles_so_far()
        of_baseline = self.tests.get(0)
        return tuple(
            finalist(roles[t.number], t, self.choice, self.tests.get(t.number), of_baseline, self.run.config.seed)
            for t in self.trials
            if self.choice and t.number in roles
        )

    @cached_property
    def lines(self) -> tuple[TrialLine, ...]:
        """The history, oldest first: that of the result, or of the trials so far."""
        if self.result:
            return self.result.trials
        shrunk = self.choice.shrunk if self.choice else {}
        return tuple(trial_line(trial, shrunk) for trial in self.trials)

    @property
    def front(self) -> tuple[int, ...]:
        """Numbers of the trials on the Pareto front, cheapest first."""
        if self.result:
            return self.result.pareto
        return self.choice.pareto if self.choice else ()

    @cached_property
    def beyond_limits(self) -> frozenset[int]:
        """Numbers of the complete trials that cost more than a limit of the task: they are not chosen."""
        return frozenset(beyond_limits(self.space, self.trials) if self.space else ())

    def trial(self, number: int) -> Trial | None:
        """The trial with this number; None if there is none."""
        return next((trial for trial in self.trials if trial.number == number), None)

    def evaluations(self) -> list[tuple[Candidate, Evaluation]]:
        """Every evaluation of the run with its candidate: the trials, then the tests."""
        by_number = {trial.number: trial.candidate for trial in self.trials}
        tested = [(by_number[number], found) for number, found in self.tests.items() if number in by_number]
        return [*((trial.candidate, trial.evaluation) for trial in self.trials), *tested]

    def _roles_so_far(self) -> dict[int, tuple[Role, ...]]:
        if self.choice is None:
            return {}
        by_role: dict[Role, Trial] = {"best": self.choice.best, "recommended": self.choice.recommended}
        if self.trials[0].score is not None:
            by_role = {"baseline": self.trials[0], **by_role}
        numbers = {trial.number for trial in by_role.values()}
        return {number: tuple(r for r, t in by_role.items() if t.number == number) for number in numbers}


def open_archive(run: RunFolder, task: Task, specs: Mapping[str, ModelSpec]) -> RunArchive:
    """Read a run that is finished, running, or was stopped. No model is called.

    Args:
        run: The run.
        task: Its task.
        specs: Catalogue entries of its models, by name.

    Raises:
        ConfigError: The task has changed since the run began, or a file of the run cannot be read.
    """
    running = is_running(run)
    has_result = (run.path / "result.json").is_file() and not running
    trials = tuple(recorded_trials(run, task, specs))
    space = _space(trials, task, specs)
    record = read_record(run.record)
    by_model, spend = spend_of(run)
    return RunArchive(
        run,
        task,
        specs,
        "running" if running else "finished" if has_result else "stopped",
        trials,
        space,
        choose(space, trials, tolerance=run.config.search.tolerance) if space else None,
        load_result(run.path) if has_result else None,
        record.tests,
        record.guidelines,
        record.prompts,
        by_model,
        spend,
    )


def _space(trials: Sequence[Trial], task: Task, specs: Mapping[str, ModelSpec]) -> SearchSpace | None:
    """The search space with the token lengths of the first trial; None if these are not known."""
    try:
        return search_space(task, specs, trials[0].evaluation) if trials else None
    except NothingEvaluated:  # the baseline did not run through, so no cost is known
        return None


def spend_of(run: RunFolder) -> tuple[Mapping[tuple[str, str], Usage], Spend]:
    """Return (purpose, catalogue name) -> usage, and the spend of all sessions; both empty without a journal."""
    journal = open_existing_journal(run.config.journal)
    if journal is None:
        return {}, Spend({}, {}, 0.0)
    with closing(journal):
        return journal.spend_by_model(run.id), journal.spend(run.id)
