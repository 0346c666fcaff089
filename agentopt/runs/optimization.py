"""Runs one optimisation, from the baseline through the search to the verdict on the test split."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

from agentopt.core.errors import (
    BudgetExceeded,
    CallbackError,
    ConfigError,
    EvaluationStopped,
    NothingEvaluated,
    StrategyError,
    larger_cap,
)
from agentopt.core.events import (
    Event,
    ExampleDone,
    GuidelinesWritten,
    Note,
    Observer,
    RunDone,
    RunStarted,
    SearchStarted,
    Spent,
    TestDone,
    TestStarted,
)
from agentopt.core.message_text import counted
from agentopt.core.power import SMALLEST, power_notes
from agentopt.core.records import Evaluation, Trial
from agentopt.core.row_notes import row_notes
from agentopt.core.stop_reason import KEPT_FOR_PROMPTS, StopKind, StopReason
from agentopt.core.task import Task
from agentopt.core.usd_text import USD_DIGITS
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.session import Session
from agentopt.runs.cached_candidates import CachedCandidates
from agentopt.runs.cascade_notes import cascade_notes
from agentopt.runs.config import Config
from agentopt.runs.demonstrations import Bootstrap, demo_notes, demonstrations_of
from agentopt.runs.evaluators import EvaluatorPool, batch_notes, open_evaluator
from agentopt.runs.expected_case import costly_baseline
from agentopt.runs.failed_examples import WorstExamples
from agentopt.runs.finishing_cap import finishing_before_search, with_finishing_cap
from agentopt.runs.folder import RunFolder
from agentopt.runs.prompt_phase import PromptPhase
from agentopt.runs.reserve import seconds_kept, usage_kept
from agentopt.runs.response_issues import failure_reasons, incomplete_responses, left_out
from agentopt.runs.result import Result, Role
from agentopt.runs.run_lease import Hold
from agentopt.runs.run_record import GuidelinesEntry, TestEntry, append_entry, as_first_met
from agentopt.runs.strategies import choose_search
from agentopt.runs.studies import has_study, remove_study
from agentopt.runs.summary import Finalists, beyond_limits, choice_notes, finalist, finalists_of, trial_line
from agentopt.runs.trial_runner import TrialRunner
from agentopt.runs.trial_store import TrialStore
from agentopt.runs.worst_case import FINALISTS
from agentopt.search.base import Proposal, Search, SearchSpace
from agentopt.search.from_task import cost_note, needs_measuring, search_space, unit_note, with_fitting_unit
from agentopt.search.measured_costs import with_measured_costs
from agentopt.search.posterior import Choice
from agentopt.search.proposer_names import ARCHIVE, BASELINE, PROMPTS, PROMPTS_AFTER
from agentopt.search.unmet_limits import unmet_limits


@dataclass
class Optimization:
    """One run. Call `result` once.

    Attributes:
        task: The task.
        config: The settings.
        run: The run's folder, which this process holds.
        session: The models, the journal and the budget.
        observer: Receives every event.
        hold: What this process has of the run, which is checked before anything of it is stored.
        search: Spends the trials. Default: the search that `config.strategy` names.
        pool: Workers that run the examples of the trials and of the test. Default: this process does.
    """

    task: Task
    config: Config
    run: RunFolder
    session: Session
    observer: Observer
    hold: Hold
    search: Search | None = None
    pool: EvaluatorPool | None = None
    _unit_note: str | None = field(default=None, init=False)

    @cached_property
    def _row_notes(self) -> tuple[str, ...]:
        return (*row_notes(self.task), *power_notes(self.task, below=SMALLEST))

    async def result(self) -> Result:
        """Search, test the finalists, and write the result to the run's folder.

        Raises:
            NothingEvaluated: No candidate was evaluated on every example.
            ConfigError: A cap is too low for the first call.
        """
        try:
            return await self._result()
        except (NothingEvaluated, EvaluationStopped) as error:
            stopped = await finishing_before_search(error, self.task, self.session, self.config)
            if (cap := stopped.run_cap) and cap != "seconds" and not self.session.budget.spent.calls:
                remove_study(self.run.trials, self.hold.condition)  # it has no answer
                value = larger_cap(getattr(self.config.budget, cap), stopped.enough, stopped.finishes)
                remedy = f"raise budget.{cap} to {value}, with which the run is expected to finish"
                raise ConfigError(stopped.detail, where=f"budget.{cap}", remedy=remedy) from error
            if isinstance(error, EvaluationStopped):
                error = await self._nothing_evaluated(stopped)
            spent = Spent(self.session.spent, self.session.unpriced).message
            error.add_note(f"  {spent}; this run is kept in {self.run.path}")
            raise error
        except (CallbackError, StrategyError) as error:
            error.add_note(f"  this run is resumed by {self.run.resuming}")
            raise

    async def _result(self) -> Result:
        self.observer(RunStarted(self.run.path, self.session.budget))
        for advice in filter(None, (*self._row_notes, costly_baseline(self.task, self.session.specs))):
            self.observer(Note(advice))
        evaluator = open_evaluator(self.task, self.config, self.session, "trials", pool=self.pool)
        measured = await self._measured(evaluator) if needs_measuring(self.task) else None
        given, self.task = self.task, with_fitting_unit(self.task, self.session.specs, measured)
        self._unit_note = unit_note(given, self.task)
        space = search_space(given, self.session.specs, measured)
        evaluator = open_evaluator(self.task, self.config, self.session, "trials", pool=self.pool)
        direct = open_evaluator(self.task, self.config, self.session)
        prompts = PromptPhase(self.task, self.config, self.session, direct, self.observer, space, self.run)
        # In a thread: another process may have a lock, and Ctrl-C must have an effect meanwhile.
        store = await asyncio.to_thread(TrialStore, self.run.trials, space, self.hold.condition)
        if store.trials:
            self.observer(Note(f"resumed: {counted(len(store.trials), 'trial')} of earlier sessions kept"))
        examples = {split: len(rows) for split, rows in self.task.splits.items()}
        known, calls = tuple(store.trials), min(self.session.specs[m].concurrency for m in self.task.models)
        self.observer(SearchStarted(space.size, examples, known, self.session.budget, store.best_so_far, calls))
        of_batches = batch_notes(self.task, self.config, self.session.specs)
        for note in filter(None, (cost_note(self.task, self.session.specs), self._unit_note, *of_batches)):
            self.observer(Note(note))
        ended = await self._search(space, store, evaluator, prompts, measured.seconds if measured else 0.0)
        choice = store.choice(self.config.search.tolerance)
        if choice is None:
            raise await self._nothing_evaluated(ended, store.trials)
        finalists = finalists_of(choice, store.find(space.baseline, unfinished=True))
        tested, test_ended = await self._test(finalists)
        await self.session.model.aclose()
        result = self._summary(space, store, ended, choice, finalists, tested, test_ended, prompts)
        await asyncio.to_thread(self.hold.check)
        result.save(self.run.path)
        self.observer(RunDone(self.run.path))
        return result

    async def _measured(self, evaluator: Evaluator) -> Evaluation:
        """The baseline's evaluation, for the token lengths."""
        if not has_study(self.run.trials):  # otherwise an earlier session has measured them
            rows = counted(len(self.task.splits["validation"]), "validation example")
            self.observer(Note(f"measuring token lengths: the baseline runs on {rows}"))
        found = await evaluator.evaluate(self.task.baseline)
        if found.why_unscored and len(found.failures) == len(found.results):  # calls, which a resumed run repeats
            raise await self._nothing_evaluated(StopReason(StopKind.FAILED, detail=found.why_unscored))
        return found

    async def _search(
        self, space: SearchSpace, store: TrialStore, evaluator: Evaluator, prompts: PromptPhase, measured_in: float
    ) -> StopReason:
        """Spend the trials, except for what the test needs. Returns why the search ended.

        `measured_in` is the seconds that the baseline took if it was run to measure token lengths: trial 0 then takes
        its answers from the journal, and no time.
        """
        budget, settings = self.session.budget, self.config.search
        runner = TrialRunner(
            *(store, evaluator, budget, self._observe),
            early_stopping=settings.early_stopping,
            tolerance=settings.tolerance,
            is_at_hand=self._at_hand(),
            failures=WorstExamples(self.task, self.session, self.config.response_seed, self.run.id),
        )
        search = self.search or choose_search(
            self.config, self.session.model, self.task, self.run.checkpoints, self.hold.condition
        )
        try:
            first = await runner.run(Proposal(space.baseline, BASELINE, "every subtask's first model once"))
            if unscored := first.evaluation.why_unscored:
                return StopReason(StopKind.FAILED, detail=f"of the baseline, {unscored}")
            if unmet := unmet_limits(with_measured_costs(space, store.trials)):
                self.observer(Note(unmet))
            pace = max(first.evaluation.seconds, measured_in)
            kept = usage_kept(self.task, space, self.session, self.config)
            with budget.holding_back(kept, seconds_kept(self.task, budget, pace)):
                bootstrap = Bootstrap(self.task, self.config, self.session, self.run, self.observer)
                space = space.with_demos(await bootstrap.demonstrations(space.baseline))
                await self._run_archive(space, runner)
                space = await self._better_prompts_before(space, runner, first, prompts)
                with self._later_prompts_kept(runner, prompts):
                    await self._continue_search(search, space, store, runner)
                with self._later_prompts_kept(runner, prompts):
                    await self._complete_contenders(store, runner)
                await self._better_prompts_after(store, runner, prompts)
                budget.check_seconds()
        except EvaluationStopped as error:
            rest = (self.task, space, self.session, self.config, runner.trials_not_begun)
            stopped = await with_finishing_cap(error, *rest)
            return as_first_met(self.run.record, "search", stopped, budget.caps)
        if (left := runner.trials_left) <= prompts.due("after"):
            return StopReason(StopKind.TRIALS_SPENT, detail=KEPT_FOR_PROMPTS if left else "")
        return StopReason(StopKind.NOTHING_LEFT, detail=unmet_limits(with_measured_costs(space, store.trials)) or "")

    def _observe(self, event: Event) -> None:
        """Record the agent's guidelines, and pass every event on."""
        if isinstance(event, GuidelinesWritten):
            append_entry(self.run.record, GuidelinesEntry(event.text, event.trials))
        self.observer(event)

    def _at_hand(self) -> CachedCandidates | None:
        """Orders batches if there are settings: their values often share answers."""
        if not any(subtask.settings for subtask in self.task.subtasks):
            return None
        return CachedCandidates(self.task, self.session.journal, self.session.specs, self.config.response_seed)

    async def _better_prompts_before(
        self, space: SearchSpace, runner: TrialRunner, first: Trial, prompts: PromptPhase
    ) -> SearchSpace:
        """The space with the prompts found with the baseline's models.

        If later trials exist, an earlier session ran this phase, and the journal has its responses.
        """
        ran = any(trial.proposer not in (BASELINE, ARCHIVE) for trial in runner.trials)
        if not prompts.due("before") or not (ran or runner.trials_left):
            return space
        better = await prompts.improve(space.baseline, first.evaluation, "before")
        if better != space.baseline and runner.allows(better):
            await runner.run(Proposal(better, PROMPTS, "the baseline with better prompts"))
        return space.with_prompts(better)

    @contextmanager
    def _later_prompts_kept(self, runner: TrialRunner, prompts: PromptPhase) -> Iterator[None]:
        """Inside the block, a prompt phase after the search keeps its share of the budget, and one trial.

        The block ends when the rest of the budget is spent.
        """
        if not prompts.due("after"):
            yield
            return
        with prompts.share_reserved(), runner.keeping_a_trial(), suppress(BudgetExceeded):
            yield

    async def _continue_search(
        self, search: Search, space: SearchSpace, store: TrialStore, runner: TrialRunner
    ) -> None:
        """Continue the trials that an earlier session left incomplete, then search."""
        for trial in store.unfinished:
            if trial.proposer != PROMPTS_AFTER:
                await runner.run(Proposal(trial.candidate, trial.proposer, trial.note, trial.fallback))
        if runner.trials_left:
            await search.run(space, runner)

    async def _complete_contenders(self, store: TrialStore, runner: TrialRunner) -> None:
        """Evaluate the rest of pruned trials whose posterior mean is above that of every complete one.

        A trial is pruned by its raw score, and similar candidates may since have shown that it was unlucky. At most
        `FINALISTS` are completed in all sessions together.
        """
        for _ in range(FINALISTS - store.completions):
            choice = store.choice_of_search
            if choice is None or choice.contender is None:
                return
            if (await runner.complete(choice.contender)).state != "complete":
                return

    async def _better_prompts_after(self, store: TrialStore, runner: TrialRunner, prompts: PromptPhase) -> None:
        choice = store.choice_of_search
        ran = any(trial.proposer == PROMPTS_AFTER for trial in runner.trials)
        if choice is None or not prompts.due("after") or not (ran or runner.trials_left):
            return
        best = choice.best
        better = await prompts.improve(best.candidate, best.evaluation, "after")
        if better != best.candidate and runner.allows(better):
            await runner.run(Proposal(better, PROMPTS_AFTER, f"trial {best.number} with better prompts"))

    async def _run_archive(self, space: SearchSpace, runner: TrialRunner) -> None:
        """Evaluate the warm-start candidates; skip those outside the space or over the cost limit."""
        for candidate in self.run.warm_start:
            if not space.contains(candidate):
                self.observer(Note(f"a candidate of the archive is not in the space any more: {candidate}"))
            elif runner.allows(candidate):
                await runner.run(Proposal(candidate, ARCHIVE, "found by an earlier run"))

    async def _test(self, finalists: Finalists) -> tuple[dict[int, Evaluation], StopReason | None]:
        """Trial number -> evaluation on the test split, and the cap that cut the test short, if any."""
        tested: dict[int, Evaluation] = {}
        if not self.task.splits.get("test"):
            return tested, None
        evaluator = open_evaluator(self.task, self.config, self.session, "tests", pool=self.pool)
        if "tests" in self.config.batch:  # together, so that they wait for their batches at the same time
            ends = await asyncio.gather(*(self._test_one(evaluator, tested, *one) for one in finalists))
            return tested, next(filter(None, ends), None)
        for roles, trial in finalists:
            if stopped := await self._test_one(evaluator, tested, roles, trial):
                return tested, stopped
        return tested, None

    async def _test_one(
        self, evaluator: Evaluator, tested: dict[int, Evaluation], roles: tuple[Role, ...], trial: Trial
    ) -> StopReason | None:
        """Test one finalist, into `tested`. Returns why the test was cut short, if it was."""
        self.observer(TestStarted(roles, trial))
        stopped = None
        try:
            observe = self.observer
            found = await evaluator.evaluate(trial.candidate, "test", on_result=lambda r: observe(ExampleDone(r)))
        except EvaluationStopped as error:
            stopped = as_first_met(self.run.record, "test", error.stopped, self.session.budget.caps)
            if not isinstance(error.partial, Evaluation):
                return stopped
            found = error.partial
        tested[trial.number] = found
        append_entry(self.run.record, TestEntry(trial.number, roles, found))
        self.observer(TestDone(roles, trial, found))
        return stopped

    def _summary(
        self,
        space: SearchSpace,
        store: TrialStore,
        ended: StopReason,
        choice: Choice,
        finalists: Finalists,
        tested: dict[int, Evaluation],
        test_ended: StopReason | None,
        prompts: PromptPhase,
    ) -> Result:
        by_candidate = [
            *((trial.candidate, trial.evaluation) for trial in store.trials),
            *((trial.candidate, tested[trial.number]) for _, trial in finalists if trial.number in tested),
        ]
        evaluations = [evaluation for _, evaluation in by_candidate]
        best = next((trial.candidate for roles, trial in finalists if "best" in roles), None)
        of_baseline = next((tested.get(trial.number) for roles, trial in finalists if "baseline" in roles), None)
        return Result(
            task=self.task.name,
            run=str(self.run.path),
            ended=ended,
            finalists=tuple(
                finalist(roles, trial, choice, tested.get(trial.number), of_baseline, self.config.seed)
                for roles, trial in finalists
            ),
            trials=tuple(trial_line(trial, choice.shrunk) for trial in store.trials),
            pareto=choice.pareto,
            beyond_limits=beyond_limits(space, store.trials),
            spent={
                name: replace(usage, usd=round(usage.usd, USD_DIGITS)) for name, usage in self.session.spent.items()
            },
            failures=self.session.failures,
            seconds=self.session.budget.seconds,
            fallbacks=tuple(dict.fromkeys(trial.fallback for trial in store.trials if trial.fallback)),
            prompts=tuple(prompts.reports),
            notes=self._notes(space, store.trials, choice, finalists, tested, prompts),
            test_ended=test_ended,
            cost_in=space.measure,
            incomplete=incomplete_responses(self.task, by_candidate, best),
            left_out=left_out(evaluations),
            failure_reasons=failure_reasons(evaluations),
            refused_parameters=self.session.refused_parameters,
        )

    def _notes(
        self,
        space: SearchSpace,
        trials: Sequence[Trial],
        choice: Choice,
        finalists: Finalists,
        tested: dict[int, Evaluation],
        prompts: PromptPhase,
    ) -> tuple[str, ...]:
        notes = (
            *self._row_notes,
            None if self.task.splits.get("test") else "the task has no test split, so nothing was tested",
            prompts.skipped,
            cost_note(self.task, self.session.specs),
            self._unit_note,
            *choice_notes(space, choice, trials, self.config.search.tolerance, self.run.path),
            *demo_notes(self.task, demonstrations_of(self.run)),
            *cascade_notes(self.task, [trial for _, trial in finalists], tested, 0, seed=self.config.seed),
        )
        return tuple(filter(None, notes))

    async def _nothing_evaluated(self, ended: StopReason, trials: Sequence[Trial] = ()) -> NothingEvaluated:
        await self.session.model.aclose()  # a call in flight would count as failed, and not yet as spent
        first = next((error for trial in trials for error in trial.evaluation.errors.values()), None)
        return NothingEvaluated(ended, self.session.failures, first_error=first, remedy=self.run.remedy(ended))
