"""`agentopt compare`: candidates of several runs on the examples that they share, from records alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentopt.cli.run_names import archive_of
from agentopt.core.comparison import compare
from agentopt.runs.archive import RunArchive
from agentopt.runs.run_comparison import compare_runs
from tests.cli.recorded import SETTINGS, record_run, words, write_task

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs: two on one task, one on a task with half of its rows under other ids, one on other rows."""
    folder = tmp_path_factory.mktemp("recorded")
    rows = [*words("test"), *({**row, "id": f"again-{row['id']}"} for row in words("test", 4))]
    planted = write_task(folder, rows=rows)
    renamed = [{**row, "id": f"row {i}"} for i, row in enumerate([*words("test")[::2], *words("new", 8)])]
    half = write_task(folder, name="half", rows=renamed, prompt="please: ")
    other = write_task(folder, name="<b>other", rows=words("other"))
    scored = write_task(folder, name="scored", rows=rows, scorer="contains")
    return {
        "one model": record_run(folder, planted, "task.subtasks.answer.models=[large]", trials=1),
        "limited": record_run(folder, planted, "task.cost.max_units=1000", trials=1),
        "scored": record_run(folder, scored, trials=1),
        "large": record_run(folder, planted),
        "small": record_run(folder, planted, trials=1),
        "half": record_run(folder, half),
        "other": record_run(folder, other),
    }


@pytest.fixture
def agentopt(console_script: Command, place: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(place["large"].parents[1])
    return lambda *arguments: console_script("compare", *(str(place.get(a, a)) for a in arguments), *SETTINGS)


def compared(agentopt: Command, *arguments: str) -> Any:
    code, out, err = agentopt(*arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def archive(run: Path) -> RunArchive:
    return archive_of(run, [], in_python="")


def test_runs_of_one_task_differ_as_their_evaluations_do(agentopt: Command, place: dict[str, Path]) -> None:
    found = compared(agentopt, "small", "large")
    assert [run["candidate"]["answer"]["model"] for run in found["runs"]] == ["small", "large"]
    (pair,) = found["pairs"]
    large, small = archive(place["large"]), archive(place["small"])
    expected = compare(large.tests[1], small.tests[0])
    assert expected
    assert (pair["difference"]["mean"], pair["difference"]["n"]) == (pytest.approx(expected.mean), 24)
    assert (pair["difference"]["p_value"], pair["verdict"]) == (pytest.approx(expected.p_value), "superior")
    assert found["notes"] == []
    (back,) = compared(agentopt, "large", "small")["pairs"]
    assert (back["difference"]["mean"], back["verdict"]) == (pytest.approx(-expected.mean), "inferior")
    (same,) = compared(agentopt, "large", "small", "--role", "baseline")["pairs"]
    assert (same["difference"]["mean"], same["verdict"]) == (0, "non-inferior")


def test_examples_are_shared_by_content_whatever_the_folder_and_the_id(agentopt: Command) -> None:
    code, out, err = agentopt("large", "half", "other")
    assert (code, err) == (0, "")
    assert "each score is by the scorer of its own task" in out
    pairs = compared(agentopt, "large", "half", "other")["pairs"]
    assert [pair["difference"] and pair["difference"]["n"] for pair in pairs] == [12, None, None]
    assert [pair["reason"] for pair in pairs] == ["", *["not comparable: they share no test example"] * 2]
    assert compared(agentopt, "half", "other", "--split", "validation")["pairs"][0]["difference"]["n"] == 24


@pytest.mark.parametrize(("run", "noted"), [("one model", False), ("limited", False), ("scored", True)])
def test_tasks_that_differ_in_models_to_choose_from_or_limits_are_one(agentopt: Command, run: str, noted: bool) -> None:
    found = compared(agentopt, "large", run)
    assert found["pairs"][0]["difference"]["n"] == 24
    assert bool(found["notes"]) is noted


def test_the_page_is_self_contained_and_escaped(agentopt: Command, place: dict[str, Path], tmp_path: Path) -> None:
    page = tmp_path / "comparison.html"
    assert agentopt("large", "half", "other", "--out", str(page))[0] == 0
    text = page.read_text()
    name = place["large"].name
    assert f'<td class="left" data-label="run">{name}</td>' in text
    assert f"<dt>{name}</dt><dd>{place['large']}</dd>" in text
    assert "s p95" not in text, "no latency was measured"
    assert "&lt;b&gt;other" in text
    assert "<b>other" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert "not comparable" in text
    assert "<script" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["large"], "two runs or more are compared, but got one"),
        (["large", "nowhere"], "nowhere: there is no such file or folder, and no run of this name in runs"),
        (["large", "small", "--role", "bset"], "did you mean 'best'?"),
        (["large", "small", "--split", "train"], "must be one of validation and test"),
        (["large", "small", "--out", "no/page.html"], "cannot be written"),
    ],
)
def test_wrong_input_is_one_message(agentopt: Command, arguments: list[str], message: str) -> None:
    code, out, err = agentopt(*arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_a_run_without_records_of_its_test_keeps_its_score(place: dict[str, Path], tmp_path: Path) -> None:
    old = replace(archive(place["small"]), tests={})
    found = compare_runs([archive(place["large"]), old])
    assert found.runs[1].score is not None
    assert found.pairs[0].reason.endswith("has no test scores of single examples")
