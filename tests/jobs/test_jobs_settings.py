"""Jobs whose task varies more than models and samples: settings, cascades and demonstrations from search to drift."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jobs_place import Job, Place

from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.jobs.jobfile import read_job
from agentopt.jobs.snapshot import Snapshot, load_snapshot
from agentopt.testing.servers import OpenAIServer, planted_answer, prompt_text

pytestmark = pytest.mark.usefixtures("only_its_folders")

right = planted_answer()


def right_if(condition: Callable[[dict[str, Any]], bool]) -> Callable[[dict[str, Any], int], str | None]:
    """Right answers to the requests that satisfy the condition, and wrong ones to all others."""
    return lambda body, index: right(body, index) if condition(body) else "wrong"


def of_a_cascade(body: dict[str, Any], index: int) -> str | None:
    """The small model answers a quarter of the rows, and its samples of the others disagree; the big one has these."""
    word = right(body, index) or ""
    if int(word.rpartition("-")[2]) % 4 == 0:
        return word if body["model"] == "small" else "wrong"
    return f"sample-{int(body.get('seed') or 0) + index}" if body["model"] == "small" else word


KNOB = {"prompt": "{{ knobs.manner }} the word is [[{{ inputs.word }}]]", "knobs": {"manner": ["now", "please"]}}
CASCADE_OF = {
    "models": ["small", "better"],
    "cascade": {"models": ["small", "better"], "below": [1]},
    "num_samples": [2],
}

CASES: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any], int], str | None]]] = {
    "temperature knobs.manner": (
        {"temperature": [0, 0.7], **KNOB},
        right_if(lambda body: body.get("temperature") == 0.7 and "please" in prompt_text(body)),
    ),
    "effort max_tokens": (
        {"effort": ["low", "high"], "max_tokens": [8, 9]},
        right_if(lambda body: body.get("reasoning_effort") == "high" and body["max_tokens"] == 9),
    ),
    "demos": ({"demos": [0, 2]}, right_if(lambda body: len(body["messages"]) > 1)),
    "fuse.stop": ({"num_samples": [5], "fuse": {"method": "vote", "stop": [0.99, 0.6]}}, right),
    "cascade.below": (CASCADE_OF, of_a_cascade),
}


@pytest.mark.parametrize("settings", CASES)
async def test_a_candidate_with_settings_is_promoted_measured_again_and_watched(tmp_path: Path, settings: str) -> None:
    subtask, answer = CASES[settings]
    config = ["strategy=grid", "budget.trials=6", "journal=journal.db", "models=[models.yaml]"]
    async with OpenAIServer(answer) as server:
        place = Place(tmp_path, server.base_url, splits=("train", "validation", "test"), max_choices=1)
        place.subtask = {"num_samples": [1], **subtask}
        job = Job(place, canary=0.1, config=config)
        first = await job.run()
        assert first.state == "promoted", first.message
        champion = place.champions.current()
        assert champion is not None
        assert dict(champion.candidate["answer"].settings).keys() >= set(settings.split())

        assert (await job.run()).state == "unchanged"
        place.examples = 13
        job.change()
        again = await job.run()
    assert again.state in ("kept", "promoted"), again.message
    assert again.alarm is None


def snapshot_of(place: Place, subtask: dict[str, Any]) -> Snapshot:
    place.subtask = subtask
    return load_snapshot(read_job(place.write()), place.folder, place.folder / "runs")


CASCADE = SubtaskChoice("small", 2, settings=(("cascade.below", 0.5),))


@pytest.mark.parametrize(
    ("choice", "below"),
    [
        (CASCADE, {"cascade": {"models": ["small", "better"], "below": [0.5, 0.9]}}),
        (replace(CASCADE, settings=()), {"cascade": ["small", "better"]}),
        (replace(CASCADE, settings=()), {}),
        (SubtaskChoice("better", 2), {"cascade": ["small", "better"]}),
        (SubtaskChoice("better", 2), {"temperature": None}),
    ],
)
def test_other_thresholds_and_a_cascade_that_is_not_used_leave_the_subject(
    tmp_path: Path, choice: SubtaskChoice, below: dict[str, Any]
) -> None:
    place = Place(tmp_path, "http://127.0.0.1:9/v1", models=["small", "better"])
    candidate = Candidate.of({"answer": choice})
    before = snapshot_of(place, {"cascade": {"models": ["small", "better"], "below": [0.5]}})
    assert snapshot_of(place, below).subject(candidate) == before.subject(candidate)


def another_big_model(place: Place) -> dict[str, Any]:
    place.models = ["small", "better", "twin"]
    return {"cascade": ["small", "twin"]}


def another_identity(place: Place) -> dict[str, Any]:
    place.served_as = {"better": "better-v2"}
    return {"cascade": ["small", "better"]}


def a_check(place: Place) -> dict[str, Any]:
    (place.folder / "task" / "checks.py").write_text("def fine(inputs, value):\n    return True\n")
    return {"cascade": {"models": ["small", "better"], "check": "checks.py:fine"}}


@pytest.mark.parametrize("edit", [another_big_model, another_identity, a_check])
def test_another_cascade_is_another_subject(tmp_path: Path, edit: Callable[[Place], dict[str, Any]]) -> None:
    place = Place(tmp_path, "http://127.0.0.1:9/v1", models=["small", "better"])
    candidate = Candidate.of({"answer": CASCADE})
    before = snapshot_of(place, {"cascade": ["small", "better"]}).subject(candidate)
    assert snapshot_of(place, edit(place)).subject(candidate) != before
