"""A served request with a budget gets the best candidate of the run's front under it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from agentopt.api import aoptimize
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.errors import ApiError
from agentopt.deploy.deployment import Deployment, find_deployment
from agentopt.deploy.pareto_front import FrontCandidate, best_under
from agentopt.deploy.serve.app import CANDIDATE
from agentopt.deploy.serve.request_budget import HEADER, candidate_under, model_of, with_budget
from agentopt.deploy.serve.server import ServeSettings, serve
from agentopt.models.base import Message
from agentopt.models.openai_format import ChatCall
from agentopt.runs.config import load_config
from agentopt.testing.servers import OpenAIServer, prompt_text

ROWS = 20


def of(model: str) -> Candidate:
    return Candidate.of({"find": SubtaskChoice(model)})


FRONT = (FrontCandidate(of("small"), 0.001, 0.6), FrontCandidate(of("large"), 0.01, 0.9))


def call(model: str) -> ChatCall:
    return ChatCall(model, (Message("user", "?"),))


@pytest.mark.parametrize(
    ("model", "header", "name", "budget"),
    [
        ("toy", None, "toy", None),
        ("toy@0.002usd", None, "toy", 0.002),
        ("toy@2e-3USD", None, "toy", 0.002),
        ("toy", "0.5", "toy", 0.5),
        ("toy@0.002usd", "0.001", "toy", 0.001),
        ("a@b@1usd", None, "a@b", 1.0),
        ("a@b", None, "a@b", None),
    ],
)
def test_a_budget_is_in_the_model_or_in_the_header(
    model: str, header: str | None, name: str, budget: float | None
) -> None:
    found, usd = with_budget(call(model), header)
    assert (found.model, usd) == (name, budget)
    assert model_of(model) == name


@pytest.mark.parametrize(
    ("model", "header", "param"),
    [
        ("toy@usd", None, "model"),
        ("toy@-1usd", None, "model"),
        ("toy@nanusd", None, "model"),
        ("toy@infusd", None, "model"),
        ("toy", "cheap", HEADER),
        ("toy", "0", HEADER),
    ],
)
def test_a_budget_that_is_no_positive_number_is_refused(model: str, header: str | None, param: str) -> None:
    with pytest.raises(ApiError, match="a budget must be a positive number of USD") as caught:
        with_budget(call(model), header)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_the_best_candidate_under_the_budget_is_used() -> None:
    cheaper = FrontCandidate(of("small"), 0.005, 0.9 - 1e-12)
    assert best_under((*FRONT, cheaper), 1) == cheaper
    assert [best_under(FRONT, usd) for usd in (0.0009, 0.001, 0.0099, 0.01, 1)] == [
        None,
        *[FRONT[0]] * 2,
        *[FRONT[1]] * 2,
    ]
    assert candidate_under(FRONT, 0.005, "toy", "toy") == of("small")


@pytest.mark.parametrize(
    ("front", "usd", "model", "message"),
    [
        (FRONT, 0.0005, "toy", "the budget of 0.0005 USD is below the cheapest candidate's 0.001 USD"),
        ((), 1.0, "toy", "a budget needs a run with costs in USD"),
        (FRONT, 1.0, "toy/find", "a budget is for a request to the whole task, toy"),
    ],
)
def test_a_budget_without_a_candidate_is_refused(
    front: tuple[FrontCandidate, ...], usd: float, model: str, message: str
) -> None:
    with pytest.raises(ApiError, match=message):
        candidate_under(front, usd, model, "toy")


def answer(body: Mapping[str, Any], index: int) -> str:
    """The large model is always right, the small one for even numbers."""
    word = prompt_text(body).rpartition(" ")[2]
    return word if body["model"] == "large" or int(word) % 2 == 0 else "no"


async def finished_run(folder: Path, backend: OpenAIServer) -> Deployment:
    task = folder / "task"
    task.mkdir()
    for split, first in (("validation", 0), ("test", ROWS)):
        rows = [{"id": f"{i}", "word": str(i), "target": str(i)} for i in range(first, first + ROWS)]
        (task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    subtask = {"name": "find", "prompt": "say {{ inputs.word }}", "models": ["small", "large"], "max_tokens": 8}
    subtask["num_samples"] = [1]
    spec = {
        "name": "toy",
        "data": {"validation": "validation.jsonl", "test": "test.jsonl"},
        "subtasks": [subtask],
        "scorer": {"kind": "exact_match"},
    }
    (task / "task.yaml").write_text(yaml.safe_dump(spec))
    entries = {
        name: {"base_url": backend.base_url, "usd_per_1m_prompt": usd, "usd_per_1m_completion": usd}
        for name, usd in (("small", 1), ("large", 10))
    }
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": entries}))
    settings = ["strategy=grid", f"models={folder}/models.yaml", f"journal={folder}/j.db", f"runs={folder}/runs"]
    result = await aoptimize(task, load_config(settings))
    return find_deployment(Path(result.run))


@asynccontextmanager
async def served(deployment: Deployment) -> AsyncIterator[str]:
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    server = asyncio.create_task(serve(deployment, ServeSettings(port=0), on_start=started.set_result, stop=stop))
    try:
        yield await started
    finally:
        stop.set()
        await server


async def test_a_request_is_answered_by_the_candidate_of_its_budget(tmp_path: Path) -> None:
    async with OpenAIServer(answer) as backend:
        deployment = await finished_run(tmp_path, backend)
        small, large = deployment.front
        assert (small.candidate, large.candidate) == (of("small"), of("large"))
        assert large.usd == pytest.approx(10 * small.usd)
        between = (small.usd + large.usd) / 2
        async with served(deployment) as url, httpx.AsyncClient(timeout=30) as client:

            async def ask(model: str, **headers: str) -> httpx.Response:
                body = {"model": model, "messages": [{"role": "user", "content": "7"}]}
                return await client.post(f"{url}/chat/completions", json=body, headers=headers)

            plain, cheap, dear = await ask("toy"), await ask(f"toy@{between}usd"), await ask(f"toy@{2 * large.usd}usd")
            by_header, too_low = await ask("toy", **{HEADER: str(between)}), await ask(f"toy@{small.usd / 2}usd")
            unknown = await ask("toy@cheap")
            metrics = (await client.get(url.removesuffix("/v1") + "/metrics")).text

    def used(response: httpx.Response) -> str:
        assert response.status_code == 200, response.text
        return response.headers[CANDIDATE]

    assert unknown.status_code == 404
    assert unknown.json()["error"]["message"].endswith("toy@0.002usd (with the budget of a request)")
    assert used(plain) == used(dear) == of("large").key
    assert used(cheap) == used(by_header) == of("small").key
    assert dear.json()["choices"][0]["message"]["content"] == "7"
    assert cheap.json()["model"] == "toy"
    assert too_low.status_code == 400
    assert too_low.json()["error"]["code"] == "budget_too_low"
    assert 'agentopt_requests_total{model="toy",status="200"} 4.0' in metrics
