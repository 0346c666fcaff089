"""Frames of a result, and what a notebook shows of it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from agentopt.api import optimize
from agentopt.core.axes import Cascade, as_axes
from agentopt.core.demos import Demos
from agentopt.core.errors import UserError
from agentopt.runs.archive import RunArchive
from agentopt.runs.config import BudgetConfig, Config
from agentopt.runs.result import Result
from agentopt.testing.toy import LARGE, SMALL, toy_model, toy_task
from tests.report.pages import finished

pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> RunArchive:
    return finished(tmp_path_factory.mktemp("run"))


@pytest.fixture
def result(archive: RunArchive) -> Result:
    assert archive.result
    return archive.result


def test_the_frame_of_the_trials_has_the_numbers_of_the_history(result: Result) -> None:
    frame = result.trials_frame()
    assert list(frame["trial"]) == [trial.number for trial in result.trials]
    assert list(frame["score"]) == [trial.score for trial in result.trials]
    assert list(frame["find.num_samples"]) == [trial.candidate["find"].num_samples for trial in result.trials]
    assert set(frame.loc[frame["pareto"], "trial"]) == set(result.pareto)


def test_the_frame_of_the_trials_has_a_column_for_each_setting_of_each_subtask(tmp_path: Path) -> None:
    task = toy_task(num_samples=(1, 3))
    varied = as_axes({"temperature": (0.0, 0.7), "knobs.k": ("a", "b")})
    subtasks = (
        replace(task["find"], settings=varied),
        replace(task["answer"], cascade=Cascade(SMALL, LARGE, (0.5, 1)), demos=Demos((0, 2), min_score=0)),
    )
    # Rows with the inputs of validation rows are no demonstrations.
    rows = [replace(r, id=f"t-{r.id}", inputs={**r.inputs, "of": "train"}) for r in task.splits["validation"]]
    splits = {**task.splits, "train": tuple(rows)}
    config = Config(
        runs=tmp_path / "runs", journal=str(tmp_path / "j.db"), strategy="random", budget=BudgetConfig(trials=8)
    )
    result = optimize(replace(task, subtasks=subtasks, splits=splits), config, provider=toy_model())
    frame = result.trials_frame()
    for column in ("find.temperature", "find.knobs.k", "answer.cascade.below", "answer.demos"):
        name, _, setting = column.partition(".")
        expected = [dict(trial.candidate[name].settings).get(setting) for trial in result.trials]
        assert [None if value != value else value for value in frame[column]] == expected
        assert any(value is not None for value in expected)


def test_the_frame_of_the_examples_has_every_result_of_every_evaluation(archive: RunArchive, result: Result) -> None:
    frame = result.examples_frame()
    of = {("validation", trial.number): trial.evaluation for trial in archive.trials}
    of |= {("test", number): evaluation for number, evaluation in archive.tests.items()}
    assert len(frame) == sum(len(evaluation.results) for evaluation in of.values())
    means = frame.groupby(["split", "trial"])["score"].mean().to_dict()
    assert means == pytest.approx({key: evaluation.score for key, evaluation in of.items()})


def test_a_missing_pandas_is_one_error_with_its_remedy(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    for frame in (result.trials_frame, result.examples_frame):
        with pytest.raises(UserError, match="remedy: pip install pandas"):
            frame()


def test_a_notebook_shows_the_result_escaped(result: Result) -> None:
    shown = replace(result, task="<img src=x onerror=alert(1)>")._repr_html_()
    assert "<img" not in shown
    assert shown.startswith("<pre>Result of &lt;img")
