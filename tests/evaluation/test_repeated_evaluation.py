"""`evaluate --repeats N`: the mean over independent repeats, its interval, and the variance by source."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from agentopt import Config, aevaluate
from agentopt.cli.commands.evaluate import run_evaluation, show_evaluation
from agentopt.core.errors import AgentoptError, BudgetExceeded, CallbackError, UserError
from agentopt.core.events import Event, ExampleDone, Spent
from agentopt.core.records import Evaluation, ExampleResult
from agentopt.core.repeats import noise_parts, repeated_mean, score_table
from agentopt.core.task import Example, Subtask, Task
from agentopt.evaluation.judge import Judge
from agentopt.models.base import Request
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.result import Measured
from agentopt.testing.servers import OpenAIServer
from agentopt.testing.toy import draw, toy_model, toy_task


def config(folder: Path, **settings: Any) -> Config:
    return Config(journal=str(folder / "journal.db"), runs=folder / "runs", **settings)


def judged_task(samples: int = 3) -> Task:
    subtask = Subtask("say", lambda inputs, _: str(inputs["q"]), models=("smollm2-135m",))
    examples = tuple(Example(f"t{n}", {"q": f"question {n}"}) for n in range(30))
    return Task("judged", (subtask,), Judge("qwen2.5-coder-0.5b", "Is it good?", samples=samples), {"test": examples})


def judged_reply(request: Request, repeat: int) -> str:
    text = request.messages[-1].content
    if request.purpose == "judge":
        return json.dumps({"score": round(draw(text, "judge", repeat), 3), "reason": "so"})
    return f"answer {draw(text, repeat)}"


async def test_the_score_is_the_mean_over_repeats_and_the_first_is_that_of_the_plain_evaluation(tmp_path: Path) -> None:
    model = toy_model()
    plain = await aevaluate(toy_task(), None, config(tmp_path), provider=model)
    calls = len(model.requests)
    found = await aevaluate(toy_task(), None, config(tmp_path), provider=model, repeats=4)
    assert found.repeats == 4
    assert [r for r in found.results if r.repeat == 0] == list(plain.results)
    for example, score in found.scores.items():
        assert score == np.mean([r.score for r in found.results if r.id == example])
    assert found.score == pytest.approx(np.mean([r.score for r in found.results]))
    assert len({tuple(r.output for r in found.results if r.repeat == i) for i in range(4)}) == 4
    assert 0 < len(model.requests) - calls <= 3 * calls
    again = await aevaluate(toy_task(), None, config(tmp_path), provider=ScriptedModel(script=()), repeats=4)
    assert again.results == found.results


async def test_a_cap_ends_the_repeats_and_a_later_run_makes_only_the_missing_calls(tmp_path: Path) -> None:
    whole = toy_model()
    await aevaluate(toy_task(), None, config(tmp_path / "whole"), provider=whole, repeats=3)
    first, second = toy_model(), toy_model()
    capped = config(tmp_path, budget={"calls": len(whole.requests) * 2 // 3})
    with pytest.raises(BudgetExceeded) as reached:
        await aevaluate(toy_task(), None, capped, provider=first, repeats=3)
    assert len(first.requests) <= len(whole.requests) * 2 // 3
    assert f"raise budget.calls to {len(whole.requests)}, which suffices without retries" in str(reached.value)
    partial = reached.value.partial
    assert isinstance(partial, Evaluation)
    assert partial.state == "incomplete"
    assert partial.repeats >= 2
    found = await aevaluate(toy_task(), None, config(tmp_path), provider=second, repeats=3)
    assert found.state == "complete"
    assert len(first.requests) + len(second.requests) == len(whole.requests)


async def test_the_variance_is_split_into_rows_sampling_and_judge(tmp_path: Path) -> None:
    found = await aevaluate(judged_task(), None, config(tmp_path), provider=ScriptedModel(judged_reply), repeats=5)
    table = score_table(found)
    assert table.shape == (30, 5, 3)
    assert np.nanmean(table) == pytest.approx(found.score)
    parts = noise_parts(table)
    # Every verdict is uniform on 0 to 1, whatever the row and the response.
    assert parts.judge == pytest.approx(1 / 12, rel=0.2)
    assert parts.rows < 0.02
    assert parts.sampling < 0.02
    measured = Measured.of(found)
    assert measured is not None
    assert measured.interval == repeated_mean(table).interval
    text = io.StringIO()
    show_evaluation(found, Console(file=text, width=300))
    assert "n=30 of 30, mean of 5 repeats" in text.getvalue()
    assert f"variance of one score: rows {parts.rows:.4f}, sampling {parts.sampling:.4f}, judge {parts.judge:.4f}" in (
        text.getvalue()
    )


def result(row: str, repeat: int, score: float | None, *judgements: float) -> ExampleResult:
    error = "no connection" if score is None else None
    return ExampleResult(row, score, error=error, repeat=repeat, judgements=judgements, metrics={"m": score or 0.0})


def test_failed_repeats_and_groups_in_the_table_of_scores() -> None:
    results = (
        result("a", 0, 0.5, 0.0, 1.0),
        result("a", 1, 1.0, 1.0, 1.0),
        result("b", 0, 1.0, 1.0, 1.0),
        result("b", 1, None),
        result("c", 0, 0.0),
        result("c", 1, None),
    )
    found = Evaluation("test", 3, results, "incomplete", groups={"a": "a", "b": "a"})
    nan = np.nan
    np.testing.assert_equal(score_table(found), [[[0.5, 1.0], [1.0, 1.0]], [[0.0, nan], [nan, nan]]])
    assert found.row_scores == {"a": 0.75, "b": 1.0, "c": 0.0}
    assert found.scores == {"a": 0.875, "c": 0.0}
    assert found.metrics == {"m": {"a": 0.875, "c": 0.0}}
    assert score_table(Evaluation("test", 1, (), "incomplete")).shape == (0, 0, 1)


@pytest.mark.parametrize("repeats", [0, -1, 1001, 2.5, "3"])
async def test_a_number_of_repeats_out_of_its_range_is_refused(tmp_path: Path, repeats: Any) -> None:
    with pytest.raises(UserError, match="`repeats` must be a whole number from 1 to 1000") as refused:
        await aevaluate(toy_task(), None, config(tmp_path), provider=ScriptedModel(script=()), repeats=repeats)
    assert isinstance(refused.value, AgentoptError)
    assert not (tmp_path / "journal.db").exists()


async def test_a_task_with_repeated_rows_counts_each_group_once(tmp_path: Path) -> None:
    task = toy_task(test=6)
    repeated = (*task.splits["test"], *(replace(e, id=f"again-{e.id}") for e in task.splits["test"][:3]))
    events: list[str] = []
    found = await aevaluate(
        replace(task, splits={"test": repeated}),
        None,
        config(tmp_path),
        provider=toy_model(),
        repeats=2,
        callbacks=[lambda event: events.append(event.message)],
    )
    assert set(found.scores) == {e.id for e in task.splits["test"]}
    assert "3 of 9 test rows repeat the inputs or the group of an earlier one: they count as 6 rows" in events
    measured = Measured.of(found)
    assert measured is not None
    assert (measured.n, measured.planned) == (6, 6)


# ---- the command


def folder_with_task(folder: Path, base_url: str, **data: Any) -> list[str]:
    spec = {
        "name": "words",
        "data": {"validation": "validation.jsonl", "test": "test.jsonl", **data},
        "subtasks": [{"name": "say", "prompt": "{{ inputs.n }}", "models": ["small"], "num_samples": 1}],
        "scorer": "exact_match",
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(spec))
    for split, numbers in (("validation", [100]), ("test", [*range(12), 0, 1, 2])):
        rows = (json.dumps({"id": f"{split}{n}", "n": value, "target": "yes"}) for n, value in enumerate(numbers))
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    entry = {"base_url": base_url, "price": "free", "supports": {"n": True}}
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": {"small": entry}}))
    return [f"models=[{folder / 'models.yaml'}]", f"journal={folder / 'journal.db'}"]


async def test_the_command_prints_the_repeats_and_the_noise_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = count()

    def answer(body: dict[str, Any], _: int) -> str:
        return "yes" if draw(body["messages"][-1]["content"], next(served)) < 0.6 else "no"

    async with OpenAIServer(answer) as server:
        settings, text = folder_with_task(tmp_path, server.base_url), io.StringIO()
        console = Console(file=text, width=200)
        how: dict[str, Any] = {"repeats": 4}
        await asyncio.to_thread(run_evaluation, tmp_path, None, "test", settings, console, **how)
        paid = server.calls
        capsys.readouterr()
        await asyncio.to_thread(run_evaluation, tmp_path, None, "test", settings, console, **how, as_json=True)
        assert server.calls == paid <= 4 * 12
    report = json.loads(capsys.readouterr().out)
    score, low = report["score"]["score"], report["score"]["interval"]["low"]
    assert f"test: score {score:.3f} ({low:.2f} to " in text.getvalue()
    assert "n=12 of 12, mean of 4 repeats" in text.getvalue()
    assert "variance of one score: rows " in text.getvalue()
    assert report["repeats"] == 4
    assert list(report["pass_at"]) == ["2", "4"]
    assert score < report["pass_at"]["2"]["score"] < report["pass_at"]["4"]["score"]
    assert f"pass@4 {report['pass_at']['4']['score']:.3f} (" in text.getvalue()
    assert report["noise"]["sampling"] > 0
    assert report["noise"]["judge"] == 0
    assert len(report["scores"]) == 12
    assert any("journal" in note for note in report["notes"])


@pytest.mark.parametrize("end", ["cap", "cancelled", "callback", "in full"])
async def test_what_was_spent_is_reported_last_however_an_evaluation_ends(tmp_path: Path, end: str) -> None:
    model, reported, settings = toy_model(), list[Event](), config(tmp_path)
    if end == "cap":
        settings = config(tmp_path, budget={"calls": 7})

    def observe(event: Event) -> None:
        reported.append(event)
        if isinstance(event, ExampleDone) and end == "callback":
            raise ZeroDivisionError
        if isinstance(event, ExampleDone) and end == "cancelled":
            task.cancel()

    task = asyncio.ensure_future(aevaluate(toy_task(), None, settings, provider=model, callbacks=[observe]))
    expected = {"cap": BudgetExceeded, "cancelled": asyncio.CancelledError, "callback": CallbackError}
    with pytest.raises(expected[end]) if end in expected else nullcontext():
        await task
    spent = reported[-1]
    assert isinstance(spent, Spent)
    assert spent.total.calls == len(model.requests) > 0
