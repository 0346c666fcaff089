"""Finds candidates all of whose answers are in the journal, such as a lower level at which a vote stops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agentopt.core.candidate import Candidate
from agentopt.core.errors import AgentoptError
from agentopt.core.task import Task
from agentopt.models.catalog import ModelSpec
from agentopt.models.journal import Journal
from agentopt.runs.journal_model import JournalModel
from agentopt.workflow.base import Draw
from agentopt.workflow.graph import Workflow


@dataclass(frozen=True, slots=True)
class AtHand:
    """Whether an evaluation on the validation split needs no call.

    Attributes:
        task: The task. With functions of the user's in its workflow, no candidate counts as at hand: they would be
            called once more.
        journal: The responses.
        specs: Catalogue name -> entry.
        seed: That of the evaluations.
    """

    task: Task
    journal: Journal
    specs: Mapping[str, ModelSpec]
    seed: int

    async def __call__(self, candidate: Candidate) -> bool:
        """Whether all answers are at hand; a call that an endpoint's refusals changed is not found."""
        if self.task.program or any(subtask.context for subtask in self.task.subtasks):
            return False
        workflow = Workflow(self.task, JournalModel(self.journal, self.specs), self.specs)
        try:
            for example in self.task.splits["validation"]:
                await workflow.run(candidate, example, Draw(self.seed))
        except AgentoptError:
            return False
        return True
