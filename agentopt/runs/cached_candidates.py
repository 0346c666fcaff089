"""Finds candidates all of whose answers are in the journal, such as a lower level at which a vote stops."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from agentopt.core.candidate import Candidate
from agentopt.core.errors import AgentoptError
from agentopt.core.task import Task
from agentopt.models.catalog import ModelSpec
from agentopt.models.journal import Journal, Refusals
from agentopt.runs.journal_model import JournalModel
from agentopt.workflow.base import Draw
from agentopt.workflow.graph import Workflow


@dataclass(frozen=True, slots=True)
class CachedCandidates:
    """Whether an evaluation on the validation split needs no call.

    Attributes:
        task: The task. With functions of the user's in its workflow, no candidate counts as at hand: they would be
            called once more.
        journal: The responses.
        specs: Catalogue name -> entry.
        seed: That of the evaluations.
        refused: The parameters that the run found the endpoints of its models to refuse.
    """

    task: Task
    journal: Journal
    specs: Mapping[str, ModelSpec]
    seed: int
    refused: Refusals = field(default_factory=dict)

    async def __call__(self, candidate: Candidate) -> bool:
        """Whether all answers are at hand; a call that refusals changed is only found if they are in `refused`."""
        return all([found async for found in self._each(candidate, stops=True)])

    async def rows(self, candidate: Candidate) -> int:
        """The number of examples whose answers are all at hand.

        Args:
            candidate: The candidate.
        """
        return sum([found async for found in self._each(candidate, stops=False)])

    async def _each(self, candidate: Candidate, *, stops: bool) -> AsyncIterator[bool]:
        """Yield whether each example is at hand, if `stops` up to the first that is not."""
        if self.task.program or any(subtask.context for subtask in self.task.subtasks):
            yield False
            return
        workflow = Workflow(self.task, JournalModel(self.journal, self.specs, self.refused), self.specs)
        for example in self.task.splits["validation"]:
            try:
                await workflow.run(candidate, example, Draw(self.seed))
                yield True
            except AgentoptError:
                yield False
                if stops:
                    return
