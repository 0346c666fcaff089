"""Prompt optimisation as a part of a run: which subtasks, with which part of the budget, and what is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from agentopt.budget import Usage
from agentopt.candidate import Candidate
from agentopt.config import Config
from agentopt.diagnosis import Diagnosis, diagnosis_of
from agentopt.errors import BudgetExceeded, ConfigError, TaskError
from agentopt.estimate import times, usage_of_candidate
from agentopt.evaluation import Evaluator
from agentopt.events import Event, Kind, Observer
from agentopt.prompts.optimizer import Optimized, PromptOptimizer
from agentopt.prompts.pilot import PilotError
from agentopt.prompts.proposers import NewPrompt
from agentopt.prompts.race import SEED
from agentopt.result import PromptReport, prompt_report
from agentopt.session import Session
from agentopt.task import Task
from agentopt.trial import Evaluation

Phase = Literal["before", "after"]
"""Before the allocation search, or after it."""


@dataclass
class Prompting:
    """Improves the prompts of a candidate, subtask by subtask. `reports` is what came of each so far."""

    task: Task
    config: Config
    session: Session
    evaluator: Evaluator
    observer: Observer
    reports: list[PromptReport] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Share of each cap for one phase."""
        settings = self.config.prompts
        return settings.share / 2 if settings.when == "both" else settings.share

    def due(self, phase: Phase) -> bool:
        """Whether prompts are optimised in this phase."""
        return self.config.prompts.when in (phase, "both") and len(self.task.splits.get("train", ())) >= 2

    @property
    def skipped(self) -> str | None:
        """Why prompts are left alone although the configuration asks for better ones."""
        asked = self.config.prompts.when != "never"
        return (
            None if self.task.splits.get("train") or not asked else "no train split, so prompts were left as they are"
        )

    @contextmanager
    def leaving_the_rest(self) -> Iterator[None]:
        """Inside the block, a phase cannot take more than its share of each cap."""
        budget, caps, rest = self.session.budget, self.config.budget, 1 - self.share
        held, held_seconds = budget.held_back, budget.seconds_held_back
        kept = Usage(
            calls=max(0, int((caps.calls or 0) * rest) - held.calls),
            completion_tokens=max(0, int((caps.tokens or 0) * rest) - held.tokens),
            usd=max(0.0, (caps.usd or 0.0) * rest - held.usd),
        )
        with budget.holding_back(kept, max(0.0, (caps.seconds or 0.0) * rest - held_seconds)):
            yield

    @contextmanager
    def leaving_its_part(self) -> Iterator[None]:
        """Inside the block, the share of a later phase cannot be spent."""
        caps = self.config.budget
        kept = Usage(
            calls=int((caps.calls or 0) * self.share),
            completion_tokens=int((caps.tokens or 0) * self.share),
            usd=(caps.usd or 0.0) * self.share,
        )
        with self.session.budget.holding_back(kept, (caps.seconds or 0.0) * self.share):
            yield

    async def improve(self, candidate: Candidate, first: Evaluation, phase: Phase) -> Candidate:
        """The candidate with each prompt that was beaten on validation replaced.

        `first` is any evaluation on the validation split, whose pace says how long another one takes. A cap ends
        the phase, not the run.
        """
        for subtask in prompted_subtasks(self.task, self.config):
            fallbacks: list[str] = []
            self._say("prompts_started", f"system prompt of {subtask}, {phase} the search")
            found = await self._optimize(candidate, subtask, first, fallbacks)
            report = prompt_report(found, phase, candidate[subtask].system_prompt, fallbacks, self.config.seed)
            self.reports.append(report)
            self._say("prompts_done", f"system prompt of {subtask}: {report.outcome}", report=report)
            candidate = candidate.having(subtask, system_prompt=found.chosen.system_prompt)
        return candidate

    async def _optimize(self, candidate: Candidate, subtask: str, first: Evaluation, fallbacks: list[str]) -> Optimized:
        def fell_back(why: str) -> None:
            fallbacks.append(why)
            self._say("prompts_fall_back", why)

        settings = self.config.prompts
        meeting = usage_of_candidate(self.task, self.session.specs, candidate, "validation")
        optimizer = PromptOptimizer(
            self.task,
            self.evaluator,
            self.session.model,
            self.session.budget,
            settings,
            self.config.writer,
            seed=self.config.seed,
            finals_usage=times(meeting, 1 + settings.finalists),
            finals_seconds=(1 + settings.finalists) * first.seconds,
            say=lambda message: self._say("note", message),
            fall_back=fell_back,
            on_draw=lambda draw: self._say("example_done", draw.user_prompt),
        )
        try:
            return await optimizer.optimize(candidate, subtask)
        except BudgetExceeded as error:
            unchanged = NewPrompt(candidate[subtask].system_prompt, SEED)
            return Optimized(subtask, unchanged, None, (), (), {}, f"cut short: {str(error).splitlines()[0]}")

    def _say(self, kind: Kind, message: str, **data: object) -> None:
        self.observer(Event(kind, message, data))


async def run_diagnosis(
    task: Task,
    config: Config,
    session: Session,
    evaluator: Evaluator,
    candidate: Candidate,
    subtask: str,
    observer: Observer,
) -> Diagnosis:
    """The pilot of one subtask. Raises `PilotError` when too many calls failed for an analysis."""
    optimizer = PromptOptimizer(
        task,
        evaluator,
        session.model,
        session.budget,
        config.prompts,
        config.writer,
        seed=config.seed,
        say=lambda message: observer(Event("note", f"{subtask}: {message}")),
        fall_back=lambda why: observer(Event("prompts_fall_back", f"{subtask}: {why}")),
        on_draw=lambda draw: observer(Event("example_done", draw.user_prompt)),
    )
    before = session.budget.spent
    try:
        pilot, rewards = await optimizer.diagnose(candidate, subtask)
    except PilotError as error:
        failures = ", ".join(f"{count} x {kind}" for kind, count in session.failures.items()) or "none"
        raise PilotError(f"{subtask}: {error} (failed calls: {failures})") from error
    return diagnosis_of(task.name, pilot, rewards, session.budget.spent - before)


def pilot_subtasks(task: Task, config: Config, subtask: str | None) -> tuple[str, ...]:
    """The subtasks to diagnose. Raises `TaskError` without enough training examples, `ConfigError` as below."""
    if len(task.splits.get("train", ())) < 2:
        raise TaskError(
            f"a pilot needs a train split of two or more examples, but got {len(task.splits.get('train', ()))}",
            where=f"task {task.name}",
            remedy="add data.train, with examples that are in no other split",
        )
    asked = config if subtask is None else config.model_copy(
        update={"prompts": config.prompts.model_copy(update={"subtasks": (subtask,)})}
    )  # fmt: skip
    return prompted_subtasks(task, asked)


def prompted_subtasks(task: Task, config: Config) -> tuple[str, ...]:
    """The subtasks whose prompts are optimised. Raises `ConfigError` for one that the task does not have."""
    known = tuple(s.name for s in task.subtasks)
    wanted = config.prompts.subtasks if config.prompts.subtasks is not None else known
    if unknown := [name for name in wanted if name not in known]:
        raise ConfigError(
            f"`prompts.subtasks` must name subtasks of task {task.name}, but got {', '.join(unknown)}",
            where="configuration",
            remedy=f"name some of {', '.join(known)}",
        )
    return wanted
