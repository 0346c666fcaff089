"""Prompt optimisation as a phase of a run: its subtasks, its share of the budget, and its reports."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

from agentopt.core.budget import Usage
from agentopt.core.candidate import Candidate
from agentopt.core.errors import BudgetExceeded, ConfigError, TaskError
from agentopt.core.events import Note, Observer, PromptsDone, PromptsFellBack, PromptsStarted, RewardDrawn
from agentopt.core.records import Evaluation
from agentopt.core.task import Task
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.session import Session
from agentopt.prompts.diagnosis import Diagnosis, diagnosis_of
from agentopt.prompts.optimizer import Optimized, PromptOptimizer
from agentopt.prompts.pilot import FIRST_REPEATS, PilotError
from agentopt.prompts.proposers import NewPrompt
from agentopt.prompts.race import SEED
from agentopt.prompts.settings import PromptSettings
from agentopt.runs.config import Config
from agentopt.runs.result import PromptReport, prompt_report
from agentopt.runs.worst_case import times, usage_of_judge

Phase = Literal["before", "after"]
"""Before the allocation search, or after it."""


@dataclass
class PromptPhase:
    """Improves the system prompts of a candidate, subtask by subtask.

    Attributes:
        task: The task.
        config: The settings of the run.
        session: The models and the budget.
        evaluator: Evaluates a candidate.
        observer: Receives the events.
        reports: One report for each subtask so far.
    """

    task: Task
    config: Config
    session: Session
    evaluator: Evaluator
    observer: Observer
    reports: list[PromptReport] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Share of each cap that one phase may take."""
        settings = self.config.prompts
        return settings.share / 2 if settings.when == "both" else settings.share

    def due(self, phase: Phase) -> bool:
        """Whether prompts are optimised in this phase."""
        return self.config.prompts.when in (phase, "both") and len(self.task.splits.get("train", ())) >= 2

    @property
    def skipped(self) -> str | None:
        """Why prompts are not optimised although the configuration requests it; None if they are."""
        if self.config.prompts.when == "never" or self.task.splits.get("train"):
            return None
        return "no train split, so prompts were left as they are"

    @contextmanager
    def _limited_to(self, part: float) -> Iterator[None]:
        """Inside the block, at most this part of the phase's share of each cap can be spent."""
        budget = self.session.budget
        kept, seconds = self._of_caps(1 - self.share * part)
        with budget.holding_back(_beyond(kept, budget.held_back), max(0.0, seconds - budget.seconds_held_back)):
            yield

    @contextmanager
    def share_reserved(self) -> Iterator[None]:
        """Inside the block, the share of a later phase cannot be spent."""
        with self.session.budget.holding_back(*self._of_caps(self.share)):
            yield

    def _of_caps(self, share: float) -> tuple[Usage, float]:
        """A share of each cap, and of the seconds; 0 for a cap that is not set."""
        caps = self.config.budget
        usage = Usage(
            calls=int((caps.calls or 0) * share),
            completion_tokens=int((caps.tokens or 0) * share),
            usd=(caps.usd or 0.0) * share,
        )
        return usage, (caps.seconds or 0.0) * share

    async def improve(self, candidate: Candidate, first: Evaluation, phase: Phase) -> Candidate:
        """Replace each prompt that another one beats on validation.

        A cap ends the phase, not the run. The unused share of a subtask is available to the next ones.

        Args:
            candidate: The candidate to improve.
            first: Its evaluation on the validation split, from which the cost of another one is estimated.
            phase: Before or after the search.

        Returns:
            The improved candidate.
        """
        subtasks = prompted_subtasks(self.task, self.config)
        for done, subtask in enumerate(subtasks, 1):
            fallbacks: list[str] = []
            self.observer(PromptsStarted(subtask, phase))
            part = nullcontext() if phase == "after" else self._limited_to(done / len(subtasks))
            with part:
                found = await self._optimize(candidate, subtask, first, fallbacks)
            report = prompt_report(found, phase, candidate[subtask].system_prompt, fallbacks, self.config.seed)
            self.reports.append(report)
            self.observer(PromptsDone(subtask, report.outcome))
            candidate = candidate.having(subtask, system_prompt=found.chosen.system_prompt)
        return candidate

    async def _optimize(self, candidate: Candidate, subtask: str, first: Evaluation, fallbacks: list[str]) -> Optimized:
        def fell_back(why: str) -> None:
            fallbacks.append(why)
            self.observer(PromptsFellBack(subtask, why))

        settings = self._affordable(first, candidate)
        if settings.finalists == 0:
            why = "a pilot and one validation do not fit in prompts.share of the caps, so nothing was spent"
            return _unchanged(candidate, subtask, why)
        optimizer = PromptOptimizer(
            self.task,
            self.evaluator,
            self.session.model,
            self.session.budget,
            settings,
            self.config.writer,
            seed=self.config.seed,
            finals_usage=times(self._usage_of(first, candidate), settings.finalists),
            finals_seconds=settings.finalists * first.seconds,
            on_note=lambda message: self.observer(Note(message)),
            on_fallback=fell_back,
            on_reward=lambda drawn: self.observer(RewardDrawn(drawn.user_prompt, drawn.reward)),
        )
        try:
            return await optimizer.optimize(candidate, subtask)
        except BudgetExceeded as error:
            return _unchanged(candidate, subtask, f"cut short: {error.message}")

    def _affordable(self, first: Evaluation, candidate: Candidate) -> PromptSettings:
        """The settings with as many user prompts, repeats and finalists as the share of each cap allows.

        Half of the share is for validation, whose cost is known from `first`; half for the pilot and the rounds.
        `finalists` is 0 if the share does not allow a pilot and one validation.
        """
        settings, caps = self.config.prompts, self.config.budget
        half, _ = self._of_caps(self.share / 2 / len(prompted_subtasks(self.task, self.config)))
        one, examples = self._usage_of(first, candidate), max(len(first.results), 1)
        shares = (
            (caps.calls, half.calls, one.calls),
            (caps.tokens, half.tokens, one.tokens),
            (caps.usd, half.usd, one.usd),
        )
        # Half of one is kept as a margin.
        fits = [max(0.0, share / each - 0.5) for cap, share, each in shares if cap is not None and each]
        finalists = min([settings.finalists, *(int(times_over) for times_over in fits)])
        responses = min([math.inf, *(times_over * examples for times_over in fits)])
        user_prompts = int(min(settings.user_prompts, responses / (settings.variants * FIRST_REPEATS)))
        if settings.subset in ("verdict", "p1") and user_prompts < max(2, settings.k_top):
            return settings.model_copy(update={"finalists": 0})
        user_prompts = max(2, user_prompts)
        repeats = int(min(settings.repeats, max(FIRST_REPEATS, responses / (settings.variants * user_prompts))))
        return settings.model_copy(update={"finalists": finalists, "user_prompts": user_prompts, "repeats": repeats})

    def _usage_of(self, evaluation: Evaluation, candidate: Candidate) -> Usage:
        """Usage of another evaluation, estimated from one; 1.5 times its tokens and USD: new prompts may be longer."""
        specs, task = self.session.specs, self.task
        total = sum((usage_of_judge(task, specs, example) for example in task.splits[evaluation.split]), Usage())
        for name, use in ((n, u) for result in evaluation.results for n, u in result.subtasks.items()):
            choice = candidate[name]
            requests = -(-choice.num_samples // specs[choice.model].max_choices) + bool(use.fusion_tokens)
            tokens = use.prompt_tokens + use.completion_tokens + use.fusion_tokens
            usd = use.usd + use.fusion_usd
            total += Usage(calls=requests, completion_tokens=tokens * 3 // 2, usd=usd * 1.5)
        return total


def _unchanged(candidate: Candidate, subtask: str, why: str) -> Optimized:
    return Optimized(subtask, NewPrompt(candidate[subtask].system_prompt, SEED), None, (), (), {}, why)


def _beyond(wanted: Usage, held: Usage) -> Usage:
    """The part of `wanted` that is not in `held` yet."""
    tokens = max(0, wanted.tokens - held.tokens)
    return Usage(calls=max(0, wanted.calls - held.calls), completion_tokens=tokens, usd=max(0.0, wanted.usd - held.usd))


async def run_diagnosis(
    task: Task,
    config: Config,
    session: Session,
    evaluator: Evaluator,
    candidate: Candidate,
    subtask: str,
    observer: Observer,
) -> Diagnosis:
    """Run the pilot of one subtask.

    Raises:
        PilotError: Too many calls failed for an analysis.
        BudgetExceeded: A cap is reached.
    """
    optimizer = PromptOptimizer(
        task,
        evaluator,
        session.model,
        session.budget,
        config.prompts,
        config.writer,
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


def pilot_subtasks(task: Task, config: Config, subtask: str | None) -> tuple[str, ...]:
    """The subtasks to diagnose: `subtask`, or each of them.

    Raises:
        TaskError: The train split has fewer than two examples.
        ConfigError: The task does not have the subtask.
    """
    if (count := len(task.splits.get("train", ()))) < 2:
        raise TaskError(
            f"a pilot needs a train split of two or more examples, but got {count or 'none'}",
            where=f"task {task.name}",
            remedy=f"{'add rows to the train split' if count else 'add data.train'}, which are in no other split",
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
            f"`prompts.subtasks` must name subtasks of task {task.name}, but got {', '.join(unknown)}",
            where="configuration",
            remedy=f"name some of {', '.join(known)}",
        )
    return wanted
