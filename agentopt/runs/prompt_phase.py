"""Prompt optimisation as a phase of a run: its subtasks, its share of the budget, and its reports."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from agentopt.core.budget import Usage
from agentopt.core.candidate import Candidate
from agentopt.core.errors import ConfigError, TaskError
from agentopt.core.events import Note, Observer, PromptsDone, PromptsFellBack, PromptsStarted, RewardDrawn
from agentopt.core.records import Evaluation
from agentopt.core.task import Example, Task
from agentopt.core.task_rules import unknown_subtask
from agentopt.core.yaml_models import did_you_mean, listed
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.request_fitting import requests_for
from agentopt.models.session import Session
from agentopt.prompts.diagnosis import Diagnosis, diagnosis_of
from agentopt.prompts.optimizer import Optimized, PromptOptimizer
from agentopt.prompts.outcome import PromptDecision
from agentopt.prompts.pilot import PilotError
from agentopt.prompts.prompt_proposers import NewPrompt
from agentopt.prompts.race import SEED
from agentopt.prompts.rewards import resampled_subtasks
from agentopt.runs.config import Config
from agentopt.runs.demonstrations import not_shown, unknown_examples
from agentopt.runs.folder import RunFolder
from agentopt.runs.phase_start import PhaseStart, phase_start
from agentopt.runs.prompt_report import PromptReport, prompt_report
from agentopt.runs.prompt_share import Beside, PromptShare, caps_for, left_beside
from agentopt.runs.run_record import PromptsEntry, append_entry
from agentopt.runs.worst_case import Estimate, estimate, usage_of_judge
from agentopt.search.base import SearchSpace
from agentopt.workflow.sampling import stop_of

Phase = Literal["before", "after"]
"""Before the allocation search, or after it."""

_ALL_SHOWN = (
    "fewer than two train examples are not shown as demonstrations, so prompts were left as they are; add rows to the "
    "train split"
)


@dataclass
class PromptPhase:
    """Improves the system prompts of a candidate, subtask by subtask.

    Attributes:
        task: The task.
        config: The settings of the run.
        session: The models and the budget.
        evaluator: Evaluates a candidate.
        observer: Receives the events.
        space: The search space, whose worst case limits the prompts of a run without caps.
        run: The run's folder, which records the spend at the start of each phase, and the races.
        reports: One report for each subtask so far.
    """

    task: Task
    config: Config
    session: Session
    evaluator: Evaluator
    observer: Observer
    space: SearchSpace
    run: RunFolder
    reports: list[PromptReport] = field(default_factory=list)
    _all_shown: str | None = None
    _share: PromptShare | None = None
    _first: Usage = field(default_factory=Usage)
    """Usage of the baseline and the demonstrations, which the share leaves room for."""

    @cached_property
    def _worst_case(self) -> Estimate:
        return estimate(self.task, self.space, self.session.specs, self.config, None)

    def _new_share(self, first: Usage) -> PromptShare:
        """The share of all phases, at most what the caps leave beside a first evaluation and what is held back."""
        self._first = first + self.session.spent.get("demos", Usage())
        beside = Beside(self._first, self.session.budget.held_back)
        limits = left_beside(self.config.budget.caps(), beside, self._worst_case.prompt_share)
        return PromptShare(limits, self.config.prompts, int(self.config.writer is not None))

    def due(self, phase: Phase) -> bool:
        """Whether prompts are optimised in this phase."""
        return self.config.prompts.when in (phase, "both") and len(self.task.splits.get("train", ())) >= 2

    @property
    def skipped(self) -> str | None:
        """Why prompts are not optimised although the configuration requests it; None if they are."""
        if self.config.prompts.when == "never" or self.task.splits.get("train"):
            return self._all_shown
        return "no train split, so prompts were left as they are"

    @contextmanager
    def share_reserved(self) -> Iterator[None]:
        """Inside the block, the share of a later phase cannot be spent."""
        share = self.config.prompts.share / (2 if self.config.prompts.when == "both" else 1)
        kept = self.config.budget.caps().scaled(share)
        with self.session.budget.holding_back(kept.usage, kept.seconds or 0.0):
            yield

    @contextmanager
    def _limited_to_share(self, start: PhaseStart) -> Iterator[None]:
        """Inside the block, at most the share of each cap can be spent beyond the start of the phase."""
        budget, share = self.session.budget, self.config.prompts.share
        kept = self.config.budget.caps().scaled(1 - share)
        beyond = kept.usage.beyond(budget.held_back + start.spent)
        with budget.holding_back(beyond, max(0.0, (kept.seconds or 0.0) - budget.seconds_held_back - start.seconds)):
            yield

    async def improve(self, candidate: Candidate, first: Evaluation, phase: Phase) -> Candidate:
        """Replace each prompt that another one beats on validation.

        A cap ends the phase, not the run. The unused share of a subtask is available to the next ones. Train examples
        that the candidate shows as demonstrations are left out of the races: it contains a right response to them.

        Args:
            candidate: The candidate to improve.
            first: Its evaluation on the validation split, from which the cost of another one is estimated.
            phase: Before or after the search.

        Returns:
            The improved candidate.
        """
        train = not_shown(candidate, self.task.splits["train"])
        if unknown := unknown_examples(candidate):
            self.observer(Note(unknown))
        if len(train) < 2:
            self._all_shown = _ALL_SHOWN
            self.observer(Note(_ALL_SHOWN))
            return candidate
        subtasks, usage = prompted_subtasks(self.task, self.config), self._usage_of(first, candidate)
        self._share = self._share or self._new_share(usage)
        start = phase_start(self.run.starts, phase, self.session.budget)
        later = len(subtasks) if phase == "before" and self.due("after") else 0
        for done, subtask in enumerate(subtasks):
            self.observer(PromptsStarted(subtask, phase))
            with self._limited_to_share(start):
                parts = len(subtasks) - done + later
                report = await self._improve(candidate, subtask, first, phase, self._share, parts, train)
            self.reports.append(report)
            self.observer(PromptsDone(subtask, report.outcome))
            candidate = candidate.having(subtask, system_prompt=report.chosen)
        return candidate

    async def _improve(
        self,
        candidate: Candidate,
        subtask: str,
        first: Evaluation,
        phase: Phase,
        share: PromptShare,
        parts: int,
        train: tuple[Example, ...],
    ) -> PromptReport:
        fallbacks: list[str] = []

        def fell_back(why: str) -> None:
            fallbacks.append(why)
            self.observer(PromptsFellBack(subtask, why))

        seed_prompt = NewPrompt(candidate[subtask].system_prompt, SEED)
        validation, rows = self._usage_of(first, candidate), max(len(first.results), 1)
        # The subtasks before it are sampled once for each training example; which those are in a program is unknown.
        resampled = None if self.task.program else resampled_subtasks(self.task, subtask)
        response = self._usage_of(first, candidate, resampled).divided(rows)
        examples = min(self.config.prompts.user_prompts, len(train))
        once = (validation.divided(rows) - response) * examples
        plan = share.plan(parts, response, validation + once)
        found = Optimized(subtask, PromptDecision.TOO_SMALL, seed_prompt)
        if plan is None:
            least = share.least(parts, response, validation + once)
            found_before = {report.decision for report in self.reports if report.phase == phase}
            if PromptDecision.TOO_SMALL not in found_before:  # the remedy is that of all subtasks
                self.observer(Note(self._too_small(least, share)))
        else:
            optimizer = self._optimizer(train, fell_back, validation, first.seconds)
            found = await optimizer.optimize(candidate, subtask, plan)
            written = len(found.attempts) * share.writer_calls
            share.charge(response * found.responses + once + Usage(calls=written))
            share.charge(validation if found.finals else Usage())
        report = prompt_report(found, phase, fallbacks, self.config.seed)
        append_entry(self.run.record, PromptsEntry(report, found.rewards))
        return report

    def _optimizer(
        self, train: tuple[Example, ...], fell_back: Callable[[str], None], validation: Usage, seconds: float
    ) -> PromptOptimizer:
        return PromptOptimizer(
            replace(self.task, splits={**self.task.splits, "train": train}),
            self.evaluator,
            self.session.model,
            self.session.budget,
            self.config.prompts,
            self.config.writer,
            context_length=_context_length(self.session, self.config.writer),
            seed=self.config.seed,
            final_usage=validation,
            final_seconds=seconds,
            on_note=lambda message: self.observer(Note(message)),
            on_fallback=fell_back,
            on_reward=lambda drawn: self.observer(RewardDrawn(drawn.user_prompt, drawn.reward)),
        )

    def _too_small(self, least: Usage, share: PromptShare) -> str:
        """The remedy for a share in which no race fits: that of the dry run, or if it has room, of measured usage."""
        worst, of_caps = self._worst_case, self.config.prompts.share
        needed = ((worst.least_races, worst.beside), (least, Beside(self._first, worst.beside.test)))
        caps = next(filter(None, (caps_for(races, share.limits, of_caps, beside) for races, beside in needed)), ())
        more = f", or set {' and '.join(caps)} or more" if caps else ""
        return f"no race of system prompts fits in prompts.share of the caps; raise it{more}"

    def _usage_of(self, evaluation: Evaluation, candidate: Candidate, subtasks: Collection[str] | None = None) -> Usage:
        """Usage of another evaluation, or of some subtasks in it, estimated from one; new prompts may be longer."""
        specs, task = self.session.specs, self.task
        total = sum((usage_of_judge(task, specs, example) for example in task.splits[evaluation.split]), Usage())
        uses = ((n, u) for result in evaluation.results for n, u in result.subtasks.items())
        for name, use in (each for each in uses if subtasks is None or each[0] in subtasks):
            choice = candidate[name]
            drawn = requests_for(choice.num_samples, specs[choice.model])
            # A vote that may stop draws in steps, each with requests of its own.
            requests = use.responses if stop_of(task[name]) else drawn + bool(use.fusion_tokens) + use.escalated
            tokens = use.prompt_tokens + use.completion_tokens + use.fusion_tokens
            usd = use.usd + use.fusion_usd
            total += Usage(calls=requests, completion_tokens=tokens, usd=usd).longer()
        return total


def _context_length(session: Session, writer: str | None) -> int | None:
    """Context length of the model that writes prompts; None if it is not known."""
    if writer is None:
        return None
    spec = session.specs[writer]
    return spec.context_length if spec.weights else spec.known_context_length


async def run_diagnosis(
    task: Task,
    config: Config,
    session: Session,
    evaluator: Evaluator,
    candidate: Candidate,
    subtask: str,
    observer: Observer,
) -> Diagnosis:
    """Run the pilot of one subtask, on train examples that the candidate does not show as demonstrations.

    Args:
        task: The task.
        config: The settings of the run.
        session: The model client, with its budget.
        evaluator: Evaluates candidates of the task.
        candidate: Fixes the models and the other prompts.
        subtask: The subtask to diagnose.
        observer: Receives a `RewardDrawn` for every response.

    Raises:
        PilotError: Too many calls failed for an analysis.
        BudgetExceeded: A cap is reached.
    """
    if unknown := unknown_examples(candidate):
        observer(Note(unknown))
    optimizer = PromptOptimizer(
        replace(task, splits={**task.splits, "train": not_shown(candidate, task.splits["train"])}),
        evaluator,
        session.model,
        session.budget,
        config.prompts,
        config.writer,
        context_length=_context_length(session, config.writer),
        seed=config.seed,
        on_note=lambda message: observer(Note(f"{subtask}: {message}")),
        on_fallback=lambda reason: observer(PromptsFellBack(subtask, reason)),
        on_reward=lambda drawn: observer(RewardDrawn(drawn.user_prompt, drawn.reward)),
    )
    before = session.budget.spent
    try:
        pilot, rewards = await optimizer.diagnose(candidate, subtask)
    except PilotError as error:
        failures = ", ".join(f"{count} x {kind}" for kind, count in session.failures.items()) or "none"
        raise PilotError(f"{subtask}: {error} (failed calls: {failures})") from error
    return diagnosis_of(task.name, pilot, rewards, session.budget.spent - before)


def pilot_subtasks(task: Task, config: Config, subtask: str | None, candidate: Candidate) -> tuple[str, ...]:
    """The subtasks to diagnose: `subtask`, or each of them.

    Args:
        task: The task.
        config: The settings, of which `prompts.subtasks` limits the choice.
        subtask: The subtask to diagnose; None for each of them.
        candidate: The candidate to diagnose.

    Raises:
        TaskError: The train split has fewer than two examples that the candidate does not show as demonstrations, or
            the task does not have the subtask.
    """
    if subtask is not None and subtask not in (known := [one.name for one in task.subtasks]):
        raise unknown_subtask(subtask, known)
    if (count := len(task.splits.get("train", ()))) < 2:
        raise TaskError(
            f"a pilot needs a train split of two or more examples, but got {count or 'none'}",
            where=f"task {task.name}",
            remedy=f"{'add rows to the train split' if count else 'add data.train'}, of rows that no other split has",
        )
    if (left := len(not_shown(candidate, task.splits["train"]))) < 2:
        raise TaskError(
            f"a pilot needs two or more train examples that the candidate does not show, but got {left} of {count}",
            where=f"task {task.name}",
            remedy="add rows to the train split, or diagnose a candidate with fewer demonstrations",
        )
    narrowed = config if subtask is None else config.model_copy(
        update={"prompts": config.prompts.model_copy(update={"subtasks": (subtask,)})}
    )  # fmt: skip
    return prompted_subtasks(task, narrowed)


def prompted_subtasks(task: Task, config: Config) -> tuple[str, ...]:
    """The subtasks whose prompts are optimised.

    Raises:
        ConfigError: `prompts.subtasks` names one that the task does not have.
    """
    known = tuple(s.name for s in task.subtasks)
    wanted = config.prompts.subtasks if config.prompts.subtasks is not None else known
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(
            f"must name subtasks of task {task.name}, but got {listed(list(map(str, unknown)))}",
            where="configuration: prompts.subtasks",
            remedy=did_you_mean(str(unknown[0]), known),
        )
    return wanted
