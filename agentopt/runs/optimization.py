"""One run, from the baseline through the search to the verdict on the test split."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from agentopt.core.budget import Usage
from agentopt.core.errors import BudgetExceeded, NothingEvaluated
from agentopt.core.events import ExampleDone, Note, Observer, RunDone, RunStarted, SearchStarted, TestStarted
from agentopt.core.records import Evaluation, Trial
from agentopt.core.stop_reason import StopKind, StopReason
from agentopt.core.task import Task
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.session import Session
from agentopt.runs.config import Config
from agentopt.runs.folder import RunFolder
from agentopt.runs.prompt_phase import Prompting
from agentopt.runs.result import Result, Role, finalist, trial_line
from agentopt.runs.strategies import choose_search
from agentopt.runs.trial_runner import StudyRunner
from agentopt.runs.trial_store import Study, best_trial, pareto_front, recommended_trial
from agentopt.runs.worst_case import FINALISTS, times, usage_on_split
from agentopt.search.base import ARCHIVE, BASELINE, PROMPTS, PROMPTS_AFTER, Proposal, Search, SearchSpace
from agentopt.search.from_task import needs_measuring, search_space

Finalists = list[tuple[tuple[Role, ...], Trial]]
"""The trials that meet on the test split, each once, with the roles it has."""


@dataclass
class Optimization:
    """Call `result` once. Every event is passed to `observer`."""

    task: Task
    config: Config
    run: RunFolder
    session: Session
    observer: Observer
    search: Search | None = None
    """Default: the search that `config.strategy` names."""

    async def result(self) -> Result:
        """Search, test the finalists, and write the run's result.

        Raises `AgentoptError` when no candidate could be evaluated.
        """
        self.observer(RunStarted(self.run.path))
        specs, seed, looks = self.session.specs, self.config.response_seed, self.config.search.looks
        evaluator = Evaluator(self.task, self.session.model, specs, seed=seed, looks=looks)
        prompting = Prompting(self.task, self.config, self.session, evaluator, self.observer)
        measured = await evaluator.evaluate(self.task.baseline) if needs_measuring(self.task) else None
        space = search_space(self.task, self.session.specs, measured)
        study = Study(self.run.trials, space)
        examples = {split: len(rows) for split, rows in self.task.splits.items()}
        self.observer(SearchStarted(space.size, examples, tuple(study.trials), self.session.budget))
        ended = await self._search(space, study, evaluator, prompting, measured.seconds if measured else 0.0)
        finalists = self._finalists(space, study, ended)
        tested, test_ended = await self._test(evaluator, finalists)
        result = self._summary(study, ended, finalists, tested, test_ended, prompting)
        result.save(self.run.path)
        self.observer(RunDone(self.run.path))
        return result

    async def _search(
        self, space: SearchSpace, study: Study, evaluator: Evaluator, prompting: Prompting, measured_in: float
    ) -> StopReason:
        """Spend the trials, but not what the test needs. Returns why the search ended.

        `measured_in` is how many seconds the baseline took where it was run for token lengths: trial 0 then finds its
        answers in the journal, and takes none.
        """
        budget, level = self.session.budget, self.config.search.early_stopping
        runner = StudyRunner(study, evaluator, budget, self.observer, early_stopping=level)
        search = self.search or choose_search(self.config, self.session.model, self.task, self.run.checkpoints)
        try:
            first = await runner.run(Proposal(space.baseline, BASELINE, "every subtask's first model once"))
            pace = max(first.evaluation.seconds, measured_in)
            with budget.holding_back(self._kept_for_test(space), self._seconds_kept_for_test(pace)):
                await self._run_archive(space, runner)
                # What an earlier session left incomplete goes first: only the missing part is asked for.
                for trial in study.unfinished:
                    await runner.run(Proposal(trial.candidate, trial.proposer, trial.note, trial.fallback))
                space = await self._better_prompts_before(space, runner, first, prompting)
                await self._spend_trials(search, space, runner, prompting)
                await self._better_prompts_after(study, runner, prompting)
                budget.check_seconds()
        except BudgetExceeded as error:
            return error.stopped
        return StopReason(StopKind.TRIALS_SPENT if runner.trials_left == 0 else StopKind.NOTHING_LEFT)

    async def _better_prompts_before(
        self, space: SearchSpace, runner: StudyRunner, first: Trial, prompting: Prompting
    ) -> SearchSpace:
        """The space with the prompts that were found with the baseline's models."""
        if not prompting.due("before") or not runner.trials_left:
            return space
        better = await prompting.improve(space.baseline, first.evaluation, "before")
        if better != space.baseline:
            await runner.run(Proposal(better, PROMPTS, "the baseline with better prompts"))
        return space.with_prompts(better)

    async def _spend_trials(
        self, search: Search, space: SearchSpace, runner: StudyRunner, prompting: Prompting
    ) -> None:
        """The allocation search. A phase of prompts after it keeps its part of the budget, and one trial."""
        if not prompting.due("after"):
            if runner.trials_left:
                await search.run(space, runner)
            return
        with prompting.leaving_its_part(), runner.keeping_a_trial(), suppress(BudgetExceeded):
            if runner.trials_left:
                await search.run(space, runner)

    async def _better_prompts_after(self, study: Study, runner: StudyRunner, prompting: Prompting) -> None:
        best = best_trial(study.trials)
        if best is None or not prompting.due("after") or not runner.trials_left:
            return
        better = await prompting.improve(best.candidate, best.evaluation, "after")
        if better != best.candidate:
            await runner.run(Proposal(better, PROMPTS_AFTER, f"trial {best.number} with better prompts"))

    async def _run_archive(self, space: SearchSpace, runner: StudyRunner) -> None:
        """Try what the run was given; what the space has no longer, or no longer affords, is passed over."""
        for candidate in self.run.warm_start:
            if not space.contains(candidate):
                self.observer(Note(f"a candidate of the archive is not in the space any more: {candidate}"))
            elif runner.trials_left:
                await runner.run(Proposal(candidate, ARCHIVE, "found by an earlier run"))

    def _kept_for_test(self, space: SearchSpace) -> Usage:
        """What testing three finalists takes at worst, but never more than half of a cap."""
        most = times(usage_on_split(self.task, space, self.session.specs, "test"), FINALISTS)
        caps = self.config.budget
        return Usage(
            calls=min(most.calls, (caps.calls or 0) // 2),
            completion_tokens=min(most.tokens, (caps.tokens or 0) // 2),
            usd=min(most.usd, (caps.usd or 0.0) / 2),
        )

    def _seconds_kept_for_test(self, on_validation: float) -> float:
        """The time of three finalists on the test split at the baseline's pace, but at most half of what is left."""
        splits = self.task.splits
        share = len(splits.get("test", ())) / len(splits["validation"])
        return min(FINALISTS * share * on_validation, (self.session.budget.seconds_left or 0.0) / 2)

    def _finalists(self, space: SearchSpace, study: Study, ended: StopReason) -> Finalists:
        best = best_trial(study.trials)
        recommended = recommended_trial(study.trials, seed=self.config.seed)
        first = study.find(space.baseline, unfinished=True)
        if best is None or recommended is None:
            raise self._nothing_evaluated(study, ended)
        by_role: dict[Role, Trial] = {"best": best, "recommended": recommended}
        if first is not None and first.score is not None:
            by_role = {"baseline": first, **by_role}
        distinct = {trial.number: trial for trial in by_role.values()}
        return [(tuple(r for r, t in by_role.items() if t is trial), trial) for trial in distinct.values()]

    async def _test(
        self, evaluator: Evaluator, finalists: Finalists
    ) -> tuple[dict[int, Evaluation], StopReason | None]:
        """Trial number -> evaluation on the test split; and the cap that cut it short, if any."""
        tested: dict[int, Evaluation] = {}
        if not self.task.splits.get("test"):
            return tested, None
        for roles, trial in finalists:
            self.observer(TestStarted(roles, trial))
            try:
                tested[trial.number] = await evaluator.evaluate(
                    trial.candidate,
                    "test",
                    on_result=lambda result: self.observer(ExampleDone(result)),
                )
            except BudgetExceeded as error:
                if isinstance(error.partial, Evaluation):
                    tested[trial.number] = error.partial
                return tested, error.stopped
        return tested, None

    def _summary(
        self,
        study: Study,
        ended: StopReason,
        finalists: Finalists,
        tested: dict[int, Evaluation],
        test_ended: StopReason | None,
        prompting: Prompting,
    ) -> Result:
        untested = None if self.task.splits.get("test") else "the task has no test split, so nothing was tested"
        of_baseline = next((tested.get(trial.number) for roles, trial in finalists if "baseline" in roles), None)
        return Result(
            task=self.task.name,
            run=str(self.run.path),
            ended=ended,
            finalists=tuple(
                finalist(roles, trial, tested.get(trial.number), of_baseline, self.config.seed)
                for roles, trial in finalists
            ),
            trials=tuple(trial_line(trial) for trial in study.trials),
            pareto=tuple(trial.number for trial in pareto_front(study.trials)),
            spent=self.session.spent,
            failures=self.session.failures,
            seconds=self.session.budget.seconds,
            fallbacks=tuple(dict.fromkeys(trial.fallback for trial in study.trials if trial.fallback)),
            prompts=tuple(prompting.reports),
            notes=tuple(note for note in (untested, prompting.skipped) if note),
            test_ended=test_ended,
        )

    def _nothing_evaluated(self, study: Study, ended: StopReason) -> NothingEvaluated:
        errors = (error for trial in study.trials for error in trial.evaluation.errors.values())
        resume = f"agentopt optimize --resume {self.run.path}"
        return NothingEvaluated(
            ended,
            self.session.failures,
            first_error=next(errors, None),
            remedy=f"fix the cause, then `{resume}`; answers that were paid for are kept",
        )
