"""Promotions through whole runs: evidence over nights of fresh rows, and the limit of the cost."""

from __future__ import annotations

import json
import random
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jobs_place import QUALITY, Job, Place

from agentopt.models.base import Request
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.folder import list_runs
from agentopt.runs.result import load_result
from agentopt.testing.servers import OpenAIServer, planted_answer, prompt_text

pytestmark = pytest.mark.usefixtures("only_its_folders")


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer(planted_answer(QUALITY)) as server:
        yield server


def fresh_rows(job: Job, night: int, count: int) -> None:
    """Replace the test rows by others."""
    words = [f"test-{night}-{i}" for i in range(count)]
    lines = [json.dumps({"id": f"r{i}", "word": word, "target": word}) for i, word in enumerate(words)]
    (job.place.folder / "task" / "test.jsonl").write_text("\n".join(lines) + "\n")


async def test_evidence_is_pooled_over_nights_of_fresh_rows_until_it_is_enough(tmp_path: Path) -> None:
    """No night alone shows that the challenger is better."""

    def answer(request: Request, repeat: int) -> str:
        word = request.messages[-1].content.split("[[")[1].split("]]")[0]
        right = random.Random(word).random() < (0.5 if request.model == "small" else 0.8)
        return word if right else "wrong"

    place = Place(tmp_path, "http://127.0.0.1:9/v1", models=["small", "better"], examples=20)
    config = ["strategy=grid", "budget.trials=4", "journal=journal.db", "models=[models.yaml]"]
    job, model = Job(place, config=config), ScriptedModel(answer)
    runs, opened = [], []
    for night in range(12):
        fresh_rows(job, night, 20)
        runs.append(await job.run(provider=model))
        opened.append(job.store.evidence.comparisons("nightly"))
        if runs[-1].state == "promoted":
            break
    assert [run.state for run in runs] == ["kept"] * (len(runs) - 1) + ["promoted"]
    assert len(runs) > 1
    assert f"on {20 * len(runs)} rows" in runs[-1].message
    assert opened[0] > 0
    assert set(opened) == {opened[0]}, "a challenger that returns continues its comparison"


async def test_a_better_challenger_that_costs_too_much_is_held_until_the_limit_is_raised(
    tmp_path: Path, server: OpenAIServer
) -> None:
    job = Job(Place(tmp_path, server.base_url, models=["small", "better"]), promotion={"max_cost_ratio": 1.5})
    held = await job.run()
    assert held.state == "kept"
    assert "it costs 2 times as much as the first champion, and promotion.max_cost_ratio is 1.5" in held.message
    paid = server.calls
    job.change(promotion={"max_cost_ratio": 2.5})
    assert (await job.run()).state == "promoted"
    assert server.calls == paid


def answers_of_one_length(body: dict[str, Any], _: int) -> str:
    word: str = prompt_text(body).split("[[")[1].split("]]")[0]
    return word if body["model"] == "better" else f"x{word[1:]}"


@pytest.mark.parametrize("unit", [(1e12, 4000, 2), (3e9, 16, 8), (3e9, 1, 1)])
async def test_a_challenger_costs_as_many_units_as_in_the_search_that_found_it(
    tmp_path: Path, unit: tuple[float, int, int]
) -> None:
    """In the first unit, which is too large for a pass, both the challenger and the first champion would cost 0."""
    async with OpenAIServer(answers_of_one_length) as server:
        once = {"tokens": None, "num_samples": [1]}
        place = Place(tmp_path, server.base_url, models=["small", "better"], subtask=once)
        job = Job(place, promotion={"max_cost_ratio": 1.5})
        keys = dict(zip(("parameters", "prompt_tokens", "completion_tokens"), unit, strict=True))
        edit(tmp_path / "task" / "task.yaml", lambda task: task.update(cost={"measure": "units", "unit": keys}))
        edit(tmp_path / "models.yaml", lambda catalog: catalog["models"]["better"].update(parameters=12e9))
        for split in ("validation", "test"):  # prompts of one length
            rows = [{"id": f"{split}{i}", "word": (word := f"{split[0]}-{i:02d}"), "target": word} for i in range(12)]
            (tmp_path / "task" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        run = await job.run()
    assert run.state == "kept", run.message
    (found,) = (load_result(run.path) for run in list_runs(place.champions.folder / "runs"))
    in_search = {trial.candidate["answer"].model: trial.units for trial in found.trials}
    assert in_search["small"] > 0
    ratio = re.search(r"it costs (\S+) times as much as the first champion", run.message)
    assert ratio, run.message
    assert float(ratio[1]) == pytest.approx(in_search["better"] / in_search["small"], rel=0.01)


def edit(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = yaml.safe_load(file.read_text())
    change(content)
    file.write_text(yaml.safe_dump(content))


async def test_scores_outside_of_0_and_1_fail_the_run_with_the_remedy(tmp_path: Path, server: OpenAIServer) -> None:
    job = Job(Place(tmp_path, server.base_url))
    (tmp_path / "task" / "scores.py").write_text("def points(example, output):\n    return 7.0\n")
    task = tmp_path / "task" / "task.yaml"
    text = task.read_text()
    assert "kind: exact_match" in text
    task.write_text(text.replace("kind: exact_match", "kind: python\n  function: scores.py:points"))
    run = await job.run()
    assert run.state == "failed"
    assert "needs scores within 0 and 1, but example" in run.message
    assert "scale the scorer's values" in run.message
