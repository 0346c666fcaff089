"""Notes on choices of a candidate that a search of its task does not try."""

from __future__ import annotations

import pytest

from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.evaluation.candidate_check import candidate_notes
from agentopt.models.catalog import ModelSpec
from agentopt.testing.toy import toy_task

SPECS = {
    "small": ModelSpec(name="small", base_url="http://127.0.0.1:1"),
    "large": ModelSpec.model_validate(
        {"name": "large", "base_url": "http://127.0.0.1:1", "supports": {"reasoning_effort": True}}
    ),
}


@pytest.mark.parametrize(
    ("model", "samples", "settings", "noted"),
    [
        ("large", 1, (), []),
        ("large", 1, (("effort", "low"),), []),
        ("small", 1, (("effort", "low"),), ["effort=low", "small has no reasoning effort"]),
        ("small", 1, (("temperature", 0.7),), []),
        ("small", 1000, (), ["num_samples 1000"]),
        ("small", 1000, (("effort", "none"),), ["num_samples 1000", "effort=none"]),
    ],
)
def test_a_choice_that_no_search_tries_is_noted(
    model: str, samples: int, settings: tuple[tuple[str, str | float], ...], noted: list[str]
) -> None:
    task = toy_task()
    choice = SubtaskChoice(model, samples, settings=settings)
    plain = SubtaskChoice("large", 1)
    names = [subtask.name for subtask in task.subtasks]
    candidate = Candidate.of({name: choice if name == names[0] else plain for name in names})
    notes = " ".join(candidate_notes(candidate, task, SPECS))
    assert [part in notes for part in noted] == [True] * len(noted)
    assert bool(notes) is bool(noted)
    assert f"for {names[0]}" in notes or not noted
