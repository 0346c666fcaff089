"""Promotions through whole runs: evidence over nights of fresh rows, and the limit of the cost."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from jobs_place import QUALITY, Job, Place

from agentopt.models.base import Request
from agentopt.models.scripted import ScriptedModel
from agentopt.testing.servers import OpenAIServer, planted_answer

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
