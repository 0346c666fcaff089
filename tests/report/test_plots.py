"""`agentopt.plots`: the figures of the page as plotly objects."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentopt import Config, diagnose, optimize, plots
from agentopt.core.errors import ConfigError, TaskError, UserError
from agentopt.core.extras import install_command
from agentopt.report.figures import BEYOND
from agentopt.report.page.content import page_content
from agentopt.runs.archive import RunArchive
from agentopt.runs.result import Result
from agentopt.testing.prompt_toy import prompt_model, prompt_task
from tests.report.pages import finished, killed

pytest.importorskip("plotly")

PLOTS: dict[str, Callable[[Any], Any]] = {
    "progress": plots.history,
    "front": plots.pareto_front,
    "scaling-find": lambda run: plots.samples(run, "find"),
    "scaling-answer": lambda run: plots.samples(run, "answer"),
    "spend": plots.spend,
}
"""Name of a figure in the page -> what draws it."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> RunArchive:
    return finished(tmp_path_factory.mktemp("run"))


def data_of(figure: Any) -> Any:
    return [{k: v for k, v in trace.items() if v is not None} for trace in json.loads(figure.to_json())["data"]]


@pytest.mark.parametrize("name", PLOTS)
def test_result_folder_and_archive_give_the_figure_of_the_page(name: str, archive: RunArchive) -> None:
    of_page = {figure["name"]: figure for figure in page_content(archive)["figures"]}[name]
    expected = json.loads(json.dumps(of_page["spec"]["data"]))
    for run in (archive, archive.result, archive.run.path, str(archive.run.path)):
        figure = PLOTS[name](run)
        assert [trace["type"] for trace in data_of(figure)] == [trace["type"] for trace in expected]
        assert [trace.get("name") for trace in data_of(figure)] == [trace.get("name") for trace in expected]
        assert [list(trace.y) for trace in figure.data] == [trace["y"] for trace in expected]
        assert figure.layout.title.text == of_page["title"]


def test_a_result_marks_the_trials_beyond_a_cost_limit_as_the_page_does(archive: RunArchive) -> None:
    assert archive.space is not None
    assert archive.result is not None
    cheapest = min(trial.units for trial in archive.trials)
    limited = replace(archive, space=replace(archive.space, max_units=cheapest))
    result = replace(archive.result, beyond_limits=tuple(limited.beyond_limits))
    of_result = data_of(plots.pareto_front(result))
    assert of_result == data_of(plots.pareto_front(limited))
    assert BEYOND in {trace["name"] for trace in of_result}


def test_a_run_that_was_killed_is_drawn_from_its_archive(tmp_path: Path) -> None:
    archive = killed(tmp_path)
    assert len(plots.history(archive).data[0].x) == len(archive.lines) == 3
    with pytest.raises(ConfigError, match="no finished run is here"):
        plots.history(archive.run.path)


@pytest.mark.parametrize("run", [None, 3, ["runs/a"], {}])
@pytest.mark.parametrize("plot", [plots.history, plots.spend, lambda run: plots.rewards(run, "find")])
def test_another_value_is_one_error(plot: Callable[[Any], Any], run: object) -> None:
    with pytest.raises(UserError, match=r"needs a Result.*\n  remedy: "):
        plot(run)


def test_nothing_to_draw_is_one_error_with_the_reason(archive: RunArchive) -> None:
    assert archive.result
    alone = replace(archive.result, trials=archive.result.trials[:1])
    unscored = replace(alone, trials=(replace(alone.trials[0], score=None, state="incomplete"),))
    for plot, result, reason in (
        (plots.history, unscored, "no trial has a score"),
        (plots.pareto_front, unscored, "no trial is complete"),
        (PLOTS["scaling-find"], alone, "one model and number of samples of find"),
        (lambda run: plots.rewards(run, "find"), alone, "compared no system prompts of 'find'"),
    ):
        with pytest.raises(UserError, match=reason):
            plot(result)
    for nothing in (alone, replace(alone, trials=())):
        with pytest.raises(TaskError, match="nope"):
            plots.samples(nothing, "nope")


def test_a_missing_plotly_is_one_error_with_its_remedy(archive: RunArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    for plot in PLOTS.values():
        with pytest.raises(UserError, match=re.escape(f"remedy: {install_command('plots')}")):
            plot(archive)


def test_the_rewards_of_a_race_and_of_a_pilot_are_heat_maps(tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "runs": tmp_path / "runs",
            "journal": str(tmp_path / "journal.db"),
            "strategy": "random",
            "budget": {"trials": 2},
            "prompts": {"when": "after", "subtasks": ["answer"]},
        }
    )
    task, model = prompt_task(), prompt_model()
    result: Result = optimize(task, config, provider=model)
    raced = plots.rewards(result, "answer").data[0]
    assert raced.type == "heatmap"
    assert len(raced.y) == len(raced.z) >= 2
    (found,) = diagnose(task, config, provider=model)
    drawn = plots.diagnosis(found)
    assert [list(row) for row in drawn.data[0].z] == [list(row) for row in found.mean]
    assert found.verdict in drawn.layout.title.text
    with pytest.raises(UserError, match="pass one"):
        plots.diagnosis([found])  # type: ignore[arg-type]
