"""Subjects: scores are pooled over runs only while everything that they depend on is the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jobs_place import Place

from agentopt.jobs.jobfile import read_job
from agentopt.jobs.snapshot import Snapshot, load_snapshot

pytestmark = pytest.mark.usefixtures("only_its_folders")


def loaded(place: Place, edit: Callable[[dict[str, Any]], None] = lambda _: None, **changes: Any) -> Snapshot:
    """The snapshot of the place's job after an edit of its task file."""
    file, task = place.write(**changes), place.folder / "task" / "task.yaml"
    content = yaml.safe_load(task.read_text())
    edit(content)
    task.write_text(yaml.safe_dump(content))
    return load_snapshot(read_job(file), place.folder, place.folder / "runs")


def subject(snapshot: Snapshot) -> str:
    return snapshot.subject(snapshot.task.baseline)


def another_prompt(task: dict[str, Any]) -> None:
    task["subtasks"][0]["prompt"] = "say [[{{ inputs.word }}]]"


def another_scorer(task: dict[str, Any]) -> None:
    task["scorer"] = {"kind": "contains"}


def more_tokens(task: dict[str, Any]) -> None:
    task["subtasks"][0]["max_tokens"] = 9


def another_limit(task: dict[str, Any]) -> None:
    task["cost"]["max_units"], task["description"] = 70, "another text"


@pytest.mark.parametrize("edit", [another_prompt, another_scorer, more_tokens])
def test_another_prompt_scorer_or_limit_of_tokens_is_another_subject(
    tmp_path: Path, edit: Callable[[dict[str, Any]], None]
) -> None:
    place = Place(tmp_path, "http://127.0.0.1:9/v1")
    assert subject(loaded(place, edit)) != subject(loaded(place))


def test_a_name_that_was_pointed_at_another_model_is_another_subject(tmp_path: Path) -> None:
    place = Place(tmp_path, "http://127.0.0.1:9/v1")
    before = subject(loaded(place))
    place.served_as = {"small": "small-v2"}
    assert subject(loaded(place)) != before


def test_rows_prices_caps_and_other_models_leave_the_subject(tmp_path: Path) -> None:
    place = Place(tmp_path, "http://127.0.0.1:9/v1")
    before = subject(loaded(place))
    place.models, place.examples, place.prices["small"] = ["small", "better"], 13, 99.0
    place.served_as = {"better": "better-v2"}
    assert subject(loaded(place, another_limit, caps={"per_run": {"calls": 9}})) == before


def test_after_an_alarm_every_response_is_drawn_with_another_seed(tmp_path: Path) -> None:
    snapshot = loaded(Place(tmp_path, "http://127.0.0.1:9/v1"))
    assert snapshot.after_alarms(0) is snapshot
    states = [snapshot, *map(snapshot.after_alarms, (1, 2))]
    for value in (lambda s: s.config.response_seed, lambda s: s.hash, subject):
        assert len({value(state) for state in states}) == 3
    assert snapshot.after_alarms(1).hash == states[1].hash


def test_a_row_is_known_by_its_content_and_repeated_rows_are_drawn_once(tmp_path: Path) -> None:
    place = Place(tmp_path, "http://127.0.0.1:9/v1", examples=3)
    place.write()
    test = tmp_path / "task" / "test.jsonl"
    rows = test.read_text().splitlines()
    test.write_text("\n".join([*rows, rows[0].replace('"test0"', '"again"')]) + "\n")
    snapshot = load_snapshot(read_job(tmp_path / "job.yaml"), tmp_path, tmp_path / "runs")
    assert snapshot.test_rows == ["test0", "test1", "test2"]
    (key,) = snapshot.keyed({"test0": 1.0})
    assert snapshot.keyed({"again": 1.0}) == {key: 1.0}
    assert snapshot.recorded({key: 0.5})["test0"] == (key, 0.5)
