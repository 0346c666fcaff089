"""One run, from the baseline through the search to the verdict on the test split."""

from __future__ import annotations

from dataclasses import dataclass, field

from agentopt.budget import Usage
from agentopt.config import Config
from agentopt.errors import AgentoptError, BudgetExceeded
from agentopt.estimate import FINALISTS, times, usage_on_split
from agentopt.evaluation import Evaluator
from agentopt.events import Event, Kind, Observer
from agentopt.result import Result, Role, finalist, trial_line
from agentopt.runfolder import RunFolder
from agentopt.runner import StudyRunner
from agentopt.search.base import Proposal, Search, SearchSpace
from agentopt.search.choose import choose_search
from agentopt.session import Session
from agentopt.space import baseline, needs_measuring, search_space
from agentopt.study import Study, best_trial, pareto_front, recommended_trial
from agentopt.task import Task
from agentopt.trial import Evaluation, Trial

Finalists = list[tuple[tuple[Role, ...], Trial]]
"""The trials that meet on the test split, each once, with the roles it has."""


@dataclass
class Optimization:
    """Call `result` once. Everything that happens is told to `observer`."""

    task: Task
    config: Config
    run: RunFolder
    session: Session
    observer: Observer
    fallbacks: list[str] = field(default_factory=list)

    async def result(self) -> Result:
        """Search, test the finalists, and write the run's result.

        Raises `AgentoptError` when no candidate could be evaluated.
        """
        specs, seed, looks = self.session.specs, self.config.response_seed, self.config.search.looks
        evaluator = Evaluator(self.task, self.session.model, specs, seed=seed, looks=looks)
        space = await self._space(evaluator)
        study = Study(self.run.trials, space)
        started = {"folder": self.run.path, "space": space, "study": study, "session": self.session}
        self._say("run_started", f"run {self.run.path}", **started)
        ended = await self._search(space, study, evaluator)
        finalists = self._finalists(space, study)
        tested, cut = await self._test(evaluator, finalists)
        result = self._summary(study, ended, finalists, tested, cut)
        result.save(self.run.path)
        self._say("run_done", f"result in {self.run.path}", result=result)
        return result

    async def _space(self, evaluator: Evaluator) -> SearchSpace:
        """The search space. Where token lengths are to be measured, the baseline is run for them first."""
        measured = await evaluator.evaluate(baseline(self.task)) if needs_measuring(self.task) else None
        return search_space(self.task, self.session.specs, measured)

    async def _search(self, space: SearchSpace, study: Study, evaluator: Evaluator) -> str:
        """Spend the trials, but not what the test needs. Returns why the search ended."""
        level = self.config.search.early_stopping
        runner = StudyRunner(study, evaluator, self.session.budget, self._heard, early_stopping=level)
        search = choose_search(self.config, self.session.model, self.task, self.run.checkpoints)
        try:
            with self.session.budget.holding_back(self._kept_for_test(space)):
                await self._run(search, space, runner)
        except BudgetExceeded as error:
            return str(error).splitlines()[0]
        return "every trial was spent" if runner.trials_left == 0 else "every candidate was tried"

    async def _run(self, search: Search, space: SearchSpace, runner: StudyRunner) -> None:
        await runner.run(Proposal(space.baseline, "baseline", "every subtask's first model once"))
        # What an earlier session left incomplete is tried again first: only the missing part is asked for.
        for trial in [t for t in runner.trials if t.state == "incomplete"]:
            if runner.trials_left:
                await runner.run(Proposal(trial.candidate, trial.proposer, trial.note))
        if runner.trials_left:
            await search.run(space, runner)

    def _kept_for_test(self, space: SearchSpace) -> Usage:
        """What testing three finalists takes at worst, but never more than half of a cap."""
        most = times(usage_on_split(self.task, space, self.session.specs, "test"), FINALISTS)
        caps = self.config.budget
        return Usage(
            calls=min(most.calls, (caps.calls or 0) // 2),
            completion_tokens=min(most.tokens, (caps.tokens or 0) // 2),
            usd=min(most.usd, (caps.usd or 0.0) / 2),
        )

    def _finalists(self, space: SearchSpace, study: Study) -> Finalists:
        best = best_trial(study.trials)
        recommended = recommended_trial(study.trials, seed=self.config.seed)
        first = study.find(space.baseline) or next(iter(study.trials), None)
        if best is None or recommended is None or first is None or first.score is None:
            raise AgentoptError(self._nothing_evaluated(study))
        by_role: dict[Role, Trial] = {"baseline": first, "best": best, "recommended": recommended}
        distinct = {trial.number: trial for trial in by_role.values()}
        return [(tuple(r for r, t in by_role.items() if t is trial), trial) for trial in distinct.values()]

    async def _test(self, evaluator: Evaluator, finalists: Finalists) -> tuple[dict[int, Evaluation], str | None]:
        """Trial number -> evaluation on the test split; and what cut it short, if anything."""
        tested: dict[int, Evaluation] = {}
        if not self.task.splits.get("test"):
            return tested, "the task has no test split, so nothing was tested"
        for roles, trial in finalists:
            self._say("test_started", f"testing {' and '.join(roles)}", trial=trial)
            try:
                tested[trial.number] = await evaluator.evaluate(
                    trial.candidate,
                    "test",
                    on_result=lambda result: self._say("example_done", result.id, result=result),
                )
            except BudgetExceeded as error:
                if isinstance(error.partial, Evaluation):
                    tested[trial.number] = error.partial
                return tested, f"the test was cut short: {str(error).splitlines()[0]}"
        return tested, None

    def _summary(
        self,
        study: Study,
        ended: str,
        finalists: Finalists,
        tested: dict[int, Evaluation],
        cut: str | None,
    ) -> Result:
        first = next(trial for roles, trial in finalists if "baseline" in roles)
        of_baseline = tested.get(first.number)
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
            fallbacks=tuple(dict.fromkeys(self.fallbacks)),
            notes=(cut,) if cut else (),
        )

    def _nothing_evaluated(self, study: Study) -> str:
        failures = ", ".join(f"{count} x {kind}" for kind, count in self.session.failures.items()) or "none"
        reasons = [error for trial in study.trials for error in trial.evaluation.errors.values()]
        first = f"; the first error: {reasons[0]}" if reasons else ""
        return (
            f"no candidate could be evaluated on every example (failed calls: {failures}){first}\n"
            f"  remedy: mend the cause, then `agentopt optimize --resume {self.run.path}`; "
            "answers that were paid for are kept"
        )

    def _heard(self, event: Event) -> None:
        if event.kind == "fall_back":
            self.fallbacks.append(event.message)
        self.observer(event)

    def _say(self, kind: Kind, message: str, **data: object) -> None:
        self.observer(Event(kind, message, data))
