"""How many of a run's answers are in the journal already, for a dry run. Makes no model call."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice

from agentopt.core.axes import DEMOS
from agentopt.core.candidate import Candidate
from agentopt.core.errors import AgentoptError
from agentopt.core.message_text import counted
from agentopt.core.task import Task
from agentopt.models.catalog import ModelSpec
from agentopt.models.journal import Journal
from agentopt.runs.journal_model import JournalModel
from agentopt.runs.traces import why_untraced
from agentopt.search.base import SearchSpace
from agentopt.workflow.base import Draw
from agentopt.workflow.graph import Workflow

CANDIDATES, ROWS = 20, 20
"""Candidates that are looked up, and the validation rows of each."""


async def recorded_answers_note(
    task: Task, space: SearchSpace, specs: Mapping[str, ModelSpec], journal: Journal, seed: int
) -> str | None:
    """The note on the answers of candidates whose responses are all in the journal, so that they need no call.

    Args:
        task: The task. Its program and context functions are not run, so with one of them nothing is known.
        space: Its search space.
        specs: Catalogue name -> entry.
        journal: The responses.
        seed: `response_seed` of the configuration.

    Returns:
        The note; None if nothing is known.
    """
    if why_untraced(task):
        return None
    workflow = Workflow(task, JournalModel(journal, specs, journal.refused_lately("")), specs)
    rows, found = task.splits["validation"][:ROWS], 0
    candidates = list(islice(_candidates(space), CANDIDATES))
    for candidate in candidates:
        if any(dict(choice.settings).get(DEMOS) for _, choice in candidate.items()):
            continue  # which demonstrations the run will show is not known
        for row in rows:
            with suppress(AgentoptError):
                await workflow.run(candidate, row, Draw(seed))
                found += 1
    looked = f"{counted(len(candidates), 'candidate')} on {counted(len(rows), 'validation row')}"
    return f"in the journal already: {found} of {len(candidates) * len(rows)} answers of {looked}; these need no call"


def _candidates(space: SearchSpace) -> Iterator[Candidate]:
    """Yield the baseline and others: all in a small space, else random ones, the same at every call."""
    yield space.baseline
    if space.size <= CANDIDATES:
        yield from (candidate for candidate in space.candidates() if candidate != space.baseline)
        return
    rng, seen = random.Random(0), {space.baseline}
    for _ in range(10 * CANDIDATES):
        drawn = Candidate.of({s.name: s.choice_at(rng.randrange(s.size)) for s in space.subtasks})
        if drawn not in seen and space.affords(drawn):
            seen.add(drawn)
            yield drawn
