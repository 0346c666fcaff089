"""The note of a dry run on the answers that the journal has already."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from agentopt import Config, evaluate
from agentopt.core.candidate import Candidate
from agentopt.core.demos import Demos
from agentopt.core.task import Program, Task
from agentopt.models.base import Choice
from agentopt.models.journal import Journal
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.recorded_answers import recorded_answers_note
from agentopt.search.from_task import unlimited_space
from agentopt.testing.company import company_specs, company_task

SPECS = {spec.name: spec for spec in company_specs("http://127.0.0.1:9/v1")}


def task_of(*models: str, validation: int = 12, samples: int = 1) -> Task:
    task = company_task(validation=validation, test=2)
    return replace(task, subtasks=tuple(replace(s, models=models, num_samples=(samples,)) for s in task.subtasks))


def note(task: Task, folder: Path, *answered: Candidate, seed: int = 0) -> str | None:
    """The note after these candidates were evaluated on the validation split."""
    model = ScriptedModel(lambda request, repeat: Choice("word", 10))
    config = Config(models=list(SPECS.values()), journal=str(folder / "j.db"))
    for candidate in answered:
        evaluate(task, candidate, config=config, split="validation", provider=model)
    with closing(Journal(folder / "j.db")) as journal:
        return asyncio.run(recorded_answers_note(task, unlimited_space(task, SPECS), SPECS, journal, seed))


@pytest.mark.parametrize(("evaluated", "found"), [(0, 0), (1, 12), (2, 24), (3, 48)])
def test_answers_of_evaluated_candidates_are_counted_without_a_call(tmp_path: Path, evaluated: int, found: int) -> None:
    task = task_of(
        "mini", "nano"
    )  # all outputs are equal, so that the fourth candidate has the responses of the others
    candidates = unlimited_space(task, SPECS).candidates()[:evaluated]
    expected = (
        f"in the journal already: {found} of 48 answers of 4 candidates on 12 validation rows; these need no call"
    )
    assert note(task, tmp_path, *candidates) == expected


def test_other_samples_and_another_seed_are_not_in_the_journal(tmp_path: Path) -> None:
    task = task_of("mini")
    assert "12 of 12 answers of 1 candidate " in (note(task, tmp_path, task.baseline) or "")
    assert "already: 0 of 12 " in (note(task, tmp_path, seed=1) or "")
    assert "already: 0 of 12 " in (note(task_of("mini", samples=2), tmp_path) or "")


def test_few_candidates_and_rows_of_a_large_space_are_looked_up(tmp_path: Path) -> None:
    task = company_task(validation=30, test=2)
    assert "already: 20 of 400 answers of 20 candidates on 20 " in (note(task, tmp_path, task.baseline) or "")


def test_a_candidate_with_demonstrations_that_are_not_known_yet_is_not_counted(tmp_path: Path) -> None:
    task = task_of("mini")
    shown = replace(task, subtasks=(replace(task.subtasks[0], demos=Demos((0, 2))), task.subtasks[1]))
    assert "already: 12 of 24 answers of 2 candidates " in (note(shown, tmp_path, task.baseline) or "")


def test_nothing_is_known_of_a_program(tmp_path: Path) -> None:
    task = task_of("mini")
    assert note(replace(task, program=Program(("python", "program.py"))), tmp_path) is None
