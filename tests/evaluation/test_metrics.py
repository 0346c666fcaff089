"""Metrics: computed per example, recorded with the trial, shown with the result."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from agentopt import aevaluate, aoptimize
from agentopt.api import load
from agentopt.cli.commands.evaluate import show_evaluation
from agentopt.core.errors import TaskError
from agentopt.core.events import Event, Spent
from agentopt.core.records import Evaluation, ExampleResult, Score
from agentopt.core.task import Example, Metric, Task, Unparsable
from agentopt.evaluation.scorers import exact_match, python
from agentopt.models.base import Request
from agentopt.models.catalog import ModelSpec
from agentopt.models.scripted import ScriptedModel
from agentopt.report.printed_result import print_result
from agentopt.runs.config import Config
from agentopt.runs.result import Measured, load_result
from agentopt.taskfile.loading import load_task
from agentopt.testing.toy import LARGE, SMALL, toy_model, toy_task


def found_key(example: Example, output: str) -> float:
    return float(output == f"key-{example.id}")


def task(**settings: Any) -> Task:
    metrics = {"found": Metric("find", python(found_key)), "said": Metric("answer", exact_match())}
    return replace(toy_task(validation=6, test=6), metrics=metrics, **settings)


def config(folder: Path, **settings: Any) -> Config:
    return Config(journal=str(folder / "journal.db"), runs=folder / "runs", **settings)


def answer(request: Request, repeat: int) -> str:
    """Right at every subtask, but for the key of test-0."""
    subtask, example, _ = request.messages[-1].content.split("|")
    right = f"key-{example}" if subtask == "find" else f"word-{example}"
    return "?" if subtask == "find" and example == "test-0" else right


def words(show: Any, *what: Any) -> str:
    text = io.StringIO()
    show(*what, Console(file=text, width=300))
    return text.getvalue()


async def test_each_metric_judges_the_output_of_its_subtask(tmp_path: Path) -> None:
    evaluation = await aevaluate(task(), None, config(tmp_path), provider=ScriptedModel(answer))
    assert evaluation.score == 1.0
    assert evaluation.metrics["found"] == {f"test-{n}": float(n > 0) for n in range(6)}
    assert set(evaluation.metrics["said"].values()) == {1.0}


async def test_a_missing_output_counts_0_and_its_scorer_is_not_called(tmp_path: Path) -> None:
    def strict(text: str) -> str:
        if text == "?":
            raise Unparsable("no key")
        return text

    whole = task()
    find = replace(whole["find"], parse=strict)
    split = replace(whole, subtasks=(find, whole["answer"]))
    evaluation = await aevaluate(split, None, config(tmp_path), provider=ScriptedModel(answer))
    assert evaluation.scores["test-0"] == 0.0
    assert evaluation.metrics["found"]["test-0"] == evaluation.metrics["said"]["test-0"] == 0.0
    assert evaluation.metrics["found"]["test-1"] == 1.0


async def test_a_metric_that_fails_leaves_the_example_without_a_score(tmp_path: Path) -> None:
    def broken(example: Example, output: str) -> float:
        raise KeyError("gold")

    failing = task()
    failing = replace(failing, metrics={"broken": Metric("find", python(broken))})
    evaluation = await aevaluate(failing, None, config(tmp_path), provider=ScriptedModel(answer))
    assert evaluation.scores == {}
    assert "the scorer `broken` failed" in evaluation.errors["test-1"]


def test_means_are_over_the_examples_that_have_a_score() -> None:
    results = (
        ExampleResult("a", 1.0, metrics={"f1": 0.5}),
        ExampleResult("b", 0.0, metrics={"f1": 1.0}),
        ExampleResult("c", None, error="no connection"),
    )
    (f1,) = Measured.metrics_of(Evaluation("test", 3, results, "incomplete")).values()
    assert (f1.score, f1.n, f1.planned) == (0.75, 2, 3)
    assert Measured.metrics_of(Evaluation("test", 0, (), "complete")) == {}


async def test_the_means_are_printed_with_their_intervals(tmp_path: Path) -> None:
    evaluation = await aevaluate(task(), None, config(tmp_path), provider=ScriptedModel(answer))
    shown = words(show_evaluation, evaluation)
    assert "found 0.833 (" in shown
    assert "said 1.000 (" in shown


@pytest.mark.parametrize(("price", "shown"), [(None, "price unknown"), ("free", "0 USD")])
async def test_an_evaluation_by_models_without_a_price_costs_no_0_usd(
    tmp_path: Path, price: str | None, shown: str
) -> None:
    fields = {"base_url": "http://127.0.0.1:9", **({"price": price} if price else {})}
    entries = [ModelSpec.model_validate({"name": name, **fields}) for name in (SMALL, LARGE)]
    seen: list[Event] = []
    loaded = load(replace(task(), max_units=None), config(tmp_path, models=entries))
    evaluation = await aevaluate(loaded, None, config(tmp_path), provider=toy_model(), callbacks=[seen.append])
    output = io.StringIO()
    show_evaluation(evaluation, Console(file=output, width=300), unpriced=[] if price else [SMALL])
    assert f" completion tokens, {shown}" in output.getvalue()
    (spent,) = (event for event in seen if isinstance(event, Spent))
    assert spent.message.endswith(f" completion tokens, {shown}")


async def test_metrics_survive_the_study_and_the_result_file_and_are_shown(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"strategy": "random", "budget": {"trials": 3}}
    result = await aoptimize(task(), config(tmp_path, **settings), provider=toy_model())
    loaded = load_result(Path(result.run))
    assert loaded == result
    best = loaded.finalist("best")
    assert best.test
    assert best.metrics["said"].score == best.test.score
    shown = words(print_result, loaded)
    assert "found" in shown
    assert f"{best.metrics['found'].score:.3f}" in shown
    again = await aoptimize(task(), None, resume=Path(result.run), provider=ScriptedModel(script=()))
    assert [f.metrics for f in again.finalists] == [f.metrics for f in result.finalists]


def write(folder: Path, metrics: dict[str, Any]) -> Path:
    spec = {
        "name": "toy",
        "data": {"validation": "v.jsonl", "test": "t.jsonl"},
        "subtasks": [{"name": "answer", "prompt": "{{ inputs.q }}", "models": ["small"]}],
        "scorer": "exact_match",
        "metrics": metrics,
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(spec))
    (folder / "own.py").write_text("def length(example, output): return len(output)\n")
    for name in ("v", "t"):
        (folder / f"{name}.jsonl").write_text(f'{{"id": "{name}", "q": "{name}?", "target": "Kell"}}\n')
    return folder


async def test_a_task_file_names_metrics_of_every_kind_but_judge(tmp_path: Path) -> None:
    own = {"kind": "python", "function": "own.py:length"}
    metrics = {
        "f1": {"subtask": "answer", "scorer": "token_f1"},
        "length": {"subtask": "answer", "scorer": own},
    }
    task = load_task(write(tmp_path, metrics))
    task = replace(task, subtasks=(replace(task["answer"], models=("smollm2-135m",)),))
    evaluation = await aevaluate(task, None, config(tmp_path), provider=ScriptedModel(lambda *_: "Kell Vard"))
    assert evaluation.metrics == {"f1": {"t": pytest.approx(2 / 3)}, "length": {"t": 9.0}}


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ({"subtask": "anser", "scorer": "token_f1"}, r"metrics\.m\.subtask: a metric must name a subtask.*'anser'"),
        (
            {"subtask": "answer", "scorer": {"kind": "judge", "model": "m", "rubric": "r"}},
            r"computed without a model, but judge calls one",
        ),
        ({"subtask": "answer", "scorer": {"kind": "python", "function": "own.py:f"}}, r"metrics\.m\.scorer\.function"),
        (
            {"subtask": "answer", "scorer": "set_f1", "against": "gld"},
            r"metrics\.m\.against: .*'gld'[\s\S]*columns\.metadata",
        ),
        ({"subtask": "answer", "scorer": "numeric"}, r"v\.jsonl:1: the target of example v must be a number"),
        ({"subtask": "answer"}, r"metrics\.m\.scorer: must be given"),
    ],
)
def test_a_wrong_metric_is_one_message(tmp_path: Path, metric: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=message):
        load_task(write(tmp_path, {"m": metric}))


async def test_a_metric_may_be_compared_with_metadata_in_place_of_the_target(tmp_path: Path) -> None:
    write(tmp_path, {"f1": {"subtask": "answer", "scorer": "set_f1", "against": "q"}})
    task = load_task(
        tmp_path, overrides={"columns.metadata": ["q"], "columns.inputs": ["id"], "subtasks.0.prompt": "?"}
    )
    example = task.splits["test"][0]
    judged = task.metrics["f1"].scorer(example, "t?")
    assert judged == Score(1.0)
    assert example.target == "Kell"


def test_a_task_built_in_python_is_checked_too() -> None:
    with pytest.raises(TaskError, match="a metric must name a subtask, but got 'fnd'"):
        replace(toy_task(), metrics={"m": Metric("fnd", exact_match())})
