"""Measures candidates on a job's test split: with the responses of the journal, or drawn anew."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from agentopt.core.budget import Caps
from agentopt.core.candidate import Candidate
from agentopt.core.cost import Unit
from agentopt.core.errors import TaskError
from agentopt.core.events import Observer
from agentopt.core.records import Evaluation, Split
from agentopt.core.task import Task
from agentopt.jobs.snapshot import Snapshot
from agentopt.models.base import ChatModel
from agentopt.models.session import Session, open_session
from agentopt.runs.ending import ending_once
from agentopt.runs.evaluators import open_evaluator, unit_of_run


@dataclass(frozen=True)
class Measurer:
    """Measures candidates within one session. Create it with `open_measurer`.

    Attributes:
        snapshot: The job's inputs.
        session: The models, the journal and the caps.
        unit: The unit of costs; None for the task's.
    """

    snapshot: Snapshot
    session: Session
    unit: Unit | None = None

    async def in_unit_of_search(self) -> Measurer:
        """The measurer with the unit of a search, whose responses the journal has; see `unit_of_run`."""
        task, config = self.snapshot.task, self.snapshot.config
        evaluator = open_evaluator(task, config, self.session, "jobs")
        return replace(self, unit=await unit_of_run(task, self.session.specs, evaluator))

    async def measure(self, candidate: Candidate, split: Split = "test") -> Evaluation:
        """Evaluate a candidate; responses that are in the journal are not requested again."""
        return await self._evaluate(self.snapshot.task, candidate, self.snapshot.config.response_seed, split)

    async def redraw(self, candidate: Candidate, rows: Collection[str], seed: int) -> Evaluation:
        """Evaluate a candidate on test rows with responses of another seed.

        The journal has them only if the same redraw was begun before.

        Args:
            candidate: The candidate.
            rows: Ids of the test rows.
            seed: Seed of the responses.
        """
        return await self._evaluate(self.snapshot.restricted_to(rows), candidate, seed, "test")

    async def _evaluate(self, task: Task, candidate: Candidate, seed: int, split: Split) -> Evaluation:
        if self.unit:
            task = replace(task, unit=self.unit)
        evaluator = open_evaluator(task, self.snapshot.config, self.session, "jobs", seed=seed)
        evaluation = await evaluator.evaluate(candidate, split)
        for row, score in evaluation.scores.items():
            if not 0 <= score <= 1:
                raise TaskError(
                    f"the evidence of a job needs scores within 0 and 1, but example {row} has {score:g}",
                    where=f"task {task.name}, scorer",
                    remedy="scale the scorer's values",
                )
        return evaluation


@asynccontextmanager
async def open_measurer(
    snapshot: Snapshot, ledger: str, caps: Caps, provider: ChatModel | None, observer: Observer
) -> AsyncIterator[Measurer]:
    """Open the models and the journal.

    Args:
        snapshot: The job's inputs.
        ledger: Name in the ledger that the calls are entered under.
        caps: Of everything under that name.
        provider: Makes the model calls in place of the catalogue's transports.
        observer: Receives the events of the session.
    """
    journal = snapshot.config.journal
    opening = open_session(snapshot.specs, ledger, caps=caps, journal=journal, provider=provider, observer=observer)
    async with ending_once(observer), opening as session:
        yield Measurer(snapshot, session)
