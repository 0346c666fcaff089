"""The token lengths of the baseline's responses that are in the journal, for a dry run. Makes no model call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from agentopt.core.errors import AgentoptError
from agentopt.core.records import Evaluation, ExampleResult
from agentopt.core.task import Task
from agentopt.models.catalog import ModelSpec
from agentopt.models.journal import Journal
from agentopt.runs.journal_model import JournalModel
from agentopt.runs.traces import why_untraced
from agentopt.search.from_task import cost_measure, measured_lengths, needs_measuring
from agentopt.workflow.base import Draw
from agentopt.workflow.graph import Workflow

ROWS = 20
"""Rows that are enough for the mean lengths."""

MOST_ROWS = 200
"""Rows of the validation split that are looked up."""


def recorded_baseline(
    task: Task, specs: Mapping[str, ModelSpec], journal: Journal | None, seed: int
) -> Evaluation | None:
    """The baseline on up to `ROWS` validation rows whose responses are in the journal, without their scores.

    Args:
        task: The task. Its program and context functions are not run, so with one of them nothing is found.
        specs: Catalogue name -> entry.
        journal: The responses.
        seed: `response_seed` of the configuration.

    Returns:
        The evaluation; None if the task has token lengths, or the journal lacks a response of every row.
    """
    if journal is None or not needs_measuring(task) or why_untraced(task):
        return None
    results = asyncio.run(_replayed(task, specs, journal, seed))
    reached = all(any(subtask.name in result.subtasks for result in results) for subtask in task.subtasks)
    return Evaluation("validation", len(task.splits["validation"]), tuple(results), "pruned") if reached else None


async def _replayed(task: Task, specs: Mapping[str, ModelSpec], journal: Journal, seed: int) -> list[ExampleResult]:
    workflow = Workflow(task, JournalModel(journal, specs, journal.refused_lately("")), specs)
    results: list[ExampleResult] = []
    for example in task.splits["validation"][:MOST_ROWS]:
        try:
            found = await workflow.run(task.baseline, example, Draw(seed))
        except AgentoptError:
            continue
        results.append(ExampleResult(example.id, 0.0, subtasks=found.uses))
        if len(results) == ROWS:
            break
    return results


def with_lengths(task: Task, specs: Mapping[str, ModelSpec], measured: Evaluation | None) -> Task:
    """The task with the token lengths of an evaluation of the baseline for the subtasks that have none.

    Args:
        task: The task.
        specs: Catalogue name -> entry.
        measured: The evaluation; None leaves the task as it is.
    """
    if measured is None:
        return task
    measure = cost_measure(task, specs)
    subtasks = (replace(s, tokens=s.tokens or measured_lengths(s, task, measured, measure)) for s in task.subtasks)
    return replace(task, subtasks=tuple(subtasks))
