"""The examples that a trial answers worst, with the output of each subtask: from the journal, without a call."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from agentopt.core.candidate import Candidate
from agentopt.core.records import Trial
from agentopt.core.task import Example, Task
from agentopt.models.session import Session
from agentopt.runs.journal_model import JournalModel
from agentopt.runs.traces import Replay, why_untraced
from agentopt.search.run_view import FailedExample
from agentopt.workflow.base import Draw

FULL_SCORE = 1.0
"""An example with at least this score is no failure."""


@dataclass(frozen=True, slots=True)
class WorstExamples:
    """Finds the validation examples with the lowest scores.

    Attributes:
        task: The task. With a program or context functions, the outputs of its subtasks are not known.
        session: Its journal has the responses.
        seed: That of the evaluations.
        run: Id of the run, whose endpoints may have refused parameters.
    """

    task: Task
    session: Session
    seed: int
    run: str

    async def __call__(self, trial: Trial, count: int) -> list[FailedExample]:
        """At most `count` examples below the full score, the lowest score first."""
        rows = {example.id: example for example in self.task.splits["validation"]}
        scored = [(r.score, r) for r in trial.evaluation.results if r.score is not None and r.id in rows]
        failed = sorted((pair for pair in scored if pair[0] < FULL_SCORE), key=lambda pair: pair[0])
        worst = list({r.id: (score, r) for score, r in reversed(failed)}.values())[::-1][:count]
        return [
            FailedExample(
                _text(dict(rows[r.id].inputs)),
                _text(rows[r.id].target),
                score,
                r.output,
                r.feedback,
                await self._outputs(trial.candidate, rows[r.id]),
            )
            for score, r in worst
        ]

    async def _outputs(self, candidate: Candidate, example: Example) -> dict[str, str]:
        """The output of each subtask; none if the journal lacks a response."""
        if why_untraced(self.task):
            return {}
        journal = self.session.journal
        model = JournalModel(journal, self.session.specs, journal.refused(self.run))
        trace = await Replay(self.task, model, Draw(self.seed)).example(candidate, example)
        return {of.subtask: of.note if of.value is None else of.value for of in trace or ()}


def _text(value: Any) -> str:
    return (
        "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    )
