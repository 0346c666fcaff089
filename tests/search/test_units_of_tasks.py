"""Costs in units, and the affordable candidates, of every task of the repository are those of version 0.1.0."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from agentopt.core.cost import Unit
from agentopt.core.records import Evaluation, ExampleResult, Score, SubtaskUse
from agentopt.core.task import Example, Subtask, Task, TokenLengths
from agentopt.models.catalog import BUILT_IN, Catalog, read_catalog
from agentopt.search.base import SearchSpace
from agentopt.search.from_task import search_space
from agentopt.taskfile.loading import read_spec

ROOT = Path(__file__).parent.parent.parent
WRITTEN = json.loads((ROOT / "tests/data/units_of_tasks.json").read_text())
"""Task -> its limit, its number of affordable candidates, a hash of their names, and the sum of their units."""


def space_of(folder: Path) -> SearchSpace:
    """The space of a task file, without its data, which is not in the repository for every task."""
    _, spec = read_spec(folder, {})
    subtasks = tuple(
        Subtask(
            s.name,
            lambda inputs, outputs: "",
            s.models,
            num_samples=s.num_samples,
            tokens=TokenLengths(s.tokens.prompt, s.tokens.completion) if s.tokens else None,
        )
        for s in spec.subtasks
    )
    rows = {"validation": (Example("0", {"question": "1"}),)}
    task = Task(
        spec.name,
        subtasks,
        lambda example, output: Score(1.0),
        rows,  # type: ignore[arg-type]
        unit=Unit(**spec.cost.unit.model_dump()),
        max_units=spec.cost.max_units,
    )
    uses = {
        s.name: SubtaskUse(prompt_tokens=100 + 10 * i, completion_tokens=(40 + i) * s.num_samples[0])
        for i, s in enumerate(subtasks)
    }
    measured = Evaluation("validation", 1, (ExampleResult("0", 1.0, subtasks=uses),), "complete")
    return search_space(task, Catalog(read_catalog(BUILT_IN)), measured)


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_units_and_affordable_candidates_of_a_task_are_those_of_0_1_0(name: str) -> None:
    space, written = space_of(ROOT / "tasks" / name), WRITTEN[name]
    candidates = space.candidates()
    names = hashlib.sha256("\n".join(map(str, candidates)).encode()).hexdigest()[:16]
    assert (space.measure, len(candidates), names) == ("units", written["affordable"], written["candidates"])
    assert space.max_units == pytest.approx(written["limit"])
    assert sum(map(space.units, candidates)) == pytest.approx(written["units"])


def test_no_task_of_the_repository_is_left_out() -> None:
    assert sorted(WRITTEN) == sorted(file.parent.name for file in ROOT.glob("tasks/*/task.yaml"))
