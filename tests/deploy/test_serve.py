"""`agentopt serve`: responses to OpenAI clients, authentication, and calls in flight at a promotion or a shutdown."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from agentopt.api import aoptimize
from agentopt.cli.commands.serve import ServeOptions, deployment_of_job, run_server
from agentopt.core.candidate import load_candidate
from agentopt.core.errors import ApiError, UserError
from agentopt.core.files import write_atomically
from agentopt.core.task import Example
from agentopt.deploy.deployment import Deployment, find_deployment
from agentopt.deploy.serve.access import Access, is_loopback, read_keys
from agentopt.deploy.serve.app import CANDIDATE
from agentopt.deploy.serve.handler import SEEDS, fresh_seeds
from agentopt.deploy.serve.hot_reload import Watched
from agentopt.deploy.serve.limits import ServerLimits
from agentopt.deploy.serve.server import ServeSettings, serve
from agentopt.jobs.champion import champions_of
from agentopt.jobs.jobfile import Job
from agentopt.jobs.store import open_store
from agentopt.models.base import Message
from agentopt.models.scripted import count_tokens
from agentopt.runs.config import Config, load_config
from agentopt.testing.faults import Faults
from agentopt.testing.servers import OpenAIServer, prompt_text
from agentopt.testing.zoo import Zoo
from agentopt.testing.zoo_families import family
from agentopt.testing.zoo_rules import KEY
from agentopt.workflow.inputs import InputColumns, InputError, columns_of, inputs_in

SMALL = {"find": {"model": "small", "num_samples": 3, "system_prompt": "S"}, "tell": {"model": "small"}}
LARGE = {"find": {"model": "large", "num_samples": 2, "system_prompt": "L"}, "tell": {"model": "large"}}


def spec_of_task(**changes: Any) -> dict[str, Any]:
    shared = {"models": ["small", "large"], "max_tokens": 8, "num_samples": [1, 2, 3]}
    subtasks = [
        {"name": "find", "prompt": "find {{ inputs.word }}", **shared},
        {"name": "tell", "prompt": "tell {{ inputs.word }}: {{ find.output }}", **shared},
    ]
    data = {"validation": "rows.jsonl", "test": "test.jsonl"}
    return {"name": "toy", "data": data, "subtasks": subtasks, "scorer": {"kind": "exact_match"}, **changes}


def answer(body: Mapping[str, Any], index: int) -> str:
    """The model, the system prompt and the prompt of a call: `small/S/find-pear`."""
    system = "".join(m["content"] for m in body["messages"] if m["role"] == "system") or "none"
    asked = prompt_text(body).rpartition("\n")[2].replace(" ", "-")
    return f"{body['model']}/{system}/{asked}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A task of two subtasks, and a candidate for it in `best.yaml`."""
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(spec_of_task(), sort_keys=False))
    for name in ("rows", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, "word": f"w-{name}", "target": "t"}) + "\n")
    put(tmp_path / "best.yaml", SMALL)
    return tmp_path


def put(file: Path, candidate: Mapping[str, Any]) -> None:
    write_atomically(file, yaml.safe_dump(candidate))


def deployment_in(folder: Path, backend: OpenAIServer, *config: str, large: Any = None, **entry: Any) -> Deployment:
    shared = {
        "base_url": backend.base_url,
        "supports": {"seed": True},
        "temperature": 0.9,
        "parameters": 3e9,
        "max_choices": 3,
        "concurrency": 256,
        **entry,
    }
    models = {"small": shared, "large": {**shared, **(large or {})}}
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": models}))
    settings = [f"models={folder / 'models.yaml'}", f"journal={folder / 'journal.db'}", *config]
    return find_deployment(folder / "best.yaml", folder, settings)


@asynccontextmanager
async def served(deployment: Deployment, **settings: Any) -> AsyncIterator[str]:
    """The base URL of a server that runs inside."""
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    server = asyncio.create_task(
        serve(deployment, ServeSettings(port=0, **settings), on_start=started.set_result, stop=stop)
    )

    def ended(task: asyncio.Task[None]) -> None:
        if not started.done():
            started.set_exception(task.exception() or EOFError("the server ended before it started"))

    server.add_done_callback(ended)
    try:
        yield await started
    finally:
        stop.set()
        await server


@asynccontextmanager
async def client_of(url: str, key: str = "any") -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
        yield client


def plain_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=30)


def user_message(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


WHOLE = "small/none/tell-pear:-small/S/find-pear"
"""The output of the toy task for `pear` with the small candidate."""


# Clients


async def test_the_openai_client_gets_the_workflow_and_a_subtask(folder: Path) -> None:
    async with OpenAIServer(answer) as backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        whole = await client.chat.completions.create(model="toy", messages=user_message("pear"))
        as_object = await client.chat.completions.create(model="toy", messages=user_message('{"word": "pear"}'))
        one = await client.chat.completions.create(model="toy/find", messages=user_message("what?"), n=2)
        models = [model.id async for model in client.models.list()]
        found = await client.models.retrieve("toy/find")
    assert whole.choices[0].message.content == as_object.choices[0].message.content == WHOLE
    assert [choice.message.content for choice in one.choices] == ["small/S/what?"] * 2
    assert whole.usage
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 0
    assert models == ["toy", "toy/find", "toy/tell", "agentopt/find", "agentopt/tell"]
    assert found.id == "toy/find"


@pytest.mark.parametrize("refused", [{"temperature", "seed"}, {"max_tokens", "n"}])
async def test_what_the_endpoint_refused_during_the_run_is_not_sent_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, refused: set[str]
) -> None:
    monkeypatch.setenv("ZOO_KEY", KEY)
    strict = replace(family("openai-plain"), refused=frozenset(refused))
    async with Zoo(lambda *_: "t", families=[strict]) as zoo:
        entry = {"base_url": zoo.base_url(strict), "api_key_env": "ZOO_KEY", "parameters": 3e9, "max_choices": 3}
        (folder / "models.yaml").write_text(yaml.safe_dump({"models": {"small": entry, "large": entry}}))
        places = [f"models={folder / 'models.yaml'}", f"runs={folder / 'runs'}", f"journal={folder / 'journal.db'}"]
        cost = "task.cost={unit: {parameters: 1e9, prompt_tokens: 1, completion_tokens: 1}, max_units: 99}"
        samples = ["task.subtasks.find.num_samples=[3]", "task.subtasks.tell.num_samples=[3]"]
        settings = [*places, *samples, cost, "strategy=random", "budget.trials=1", "response_seed=3"]
        result = await aoptimize(folder, load_config(settings))
        found = find_deployment(Path(result.run), settings=[f"journal={folder / 'journal-of-serve.db'}"])
        sent = []
        for deployment in (found, replace(found, refused={})):
            before = len(zoo.exchanges)
            async with served(deployment) as url, client_of(url) as client:
                await client.chat.completions.create(model="toy", messages=user_message("pear"))
                await client.chat.completions.create(model="toy/find", messages=user_message("what?"), n=2)
            sent.append(zoo.exchanges[before:])
    served_bodies, forgetful = sent
    assert served_bodies
    assert not [exchange.refused for exchange in served_bodies if exchange.refused]
    # The server does refuse the parameter, and a server that has not read the run's findings sends it.
    assert [exchange.refused for exchange in forgetful if exchange.refused]


async def test_the_openai_client_streams(folder: Path) -> None:
    async with OpenAIServer(answer) as backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        options: Any = {"include_usage": True}
        stream = await client.chat.completions.create(
            model="toy", messages=user_message("pear"), stream=True, stream_options=options
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == WHOLE
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert {c.object for c in chunks} == {"chat.completion.chunk"}


# litellm's own types make pydantic warn when it reads a chunk.
@pytest.mark.filterwarnings("ignore:Item 'summary' on TypedDict class:UserWarning")
@pytest.mark.parametrize("stream", [False, True])
async def test_litellm_talks_to_the_server(folder: Path, stream: bool) -> None:
    from agentopt.models.litellm_route import load_litellm

    litellm = load_litellm()
    async with OpenAIServer(answer) as backend, served(deployment_in(folder, backend)) as url:
        got = await litellm.acompletion(
            model="openai/toy", api_base=url, api_key="any", messages=user_message("pear"), stream=stream
        )
        if stream:
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in got])
        else:
            text = got.choices[0].message.content
        await litellm.close_litellm_async_clients()
        litellm.in_memory_llm_clients_cache.flush_cache()
    assert text == WHOLE


@pytest.mark.parametrize("stream", [False, True])
async def test_curl_talks_to_the_server(folder: Path, stream: bool) -> None:
    body = json.dumps({"model": "toy/find", "messages": user_message("what?"), "stream": stream})
    async with OpenAIServer(answer) as backend, served(deployment_in(folder, backend)) as url:
        curl = await asyncio.create_subprocess_exec(
            *("curl", "-sSN", f"{url}/chat/completions", "-H", "Content-Type: application/json", "-d", body),
            stdout=subprocess.PIPE,
        )
        out, _ = await curl.communicate()
    text = out.decode()
    if stream:
        events = [line.removeprefix("data: ") for line in text.splitlines() if line]
        assert events[-1] == "[DONE]"
        parts = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1]]
        assert "".join(parts) == "small/S/what?"
    else:
        assert json.loads(text)["choices"][0]["message"]["content"] == "small/S/what?"


async def test_a_conversation_reaches_a_subtask_under_the_candidates_system_prompt(folder: Path) -> None:
    messages: list[Any] = [
        {"role": "system", "content": "the caller's own"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    async with OpenAIServer(answer) as backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        await client.chat.completions.create(model="agentopt/find", messages=messages, temperature=0.1, max_tokens=1)
    asked = backend.requests[0].body
    assert asked["messages"] == [{"role": "system", "content": "S"}, *messages[1:]]
    assert (asked["n"], asked["max_tokens"], asked["temperature"]) == (3, 8, 0.9)


async def test_a_program_is_served_as_a_whole(folder: Path) -> None:
    spec = spec_of_task(program={"function": "program.py:run"})
    for subtask in spec["subtasks"]:
        del subtask["prompt"]
    (folder / "task.yaml").write_text(yaml.safe_dump(spec))
    (folder / "program.py").write_text(
        "import openai\n\n\ndef run(inputs, endpoint):\n"
        "    with openai.OpenAI(**endpoint) as client:\n"
        "        asked = [{'role': 'user', 'content': inputs['word']}]\n"
        "        said = client.chat.completions.create(model='agentopt/find', messages=asked)\n"
        "        return said.choices[0].message.content + '!'\n"
    )
    async with OpenAIServer(answer) as backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        got = await client.chat.completions.create(model="toy", messages=user_message("pear"))
    assert got.choices[0].message.content == "small/S/pear!"


# Samples and spend


async def test_every_call_draws_new_samples(folder: Path) -> None:
    async with OpenAIServer(answer) as backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        for _ in range(5):
            await client.chat.completions.create(model="toy/find", messages=user_message("what?"))
    assert len({request.seed for request in backend.requests}) == backend.calls == 5


async def test_with_cache_the_journal_answers_repeated_requests(folder: Path) -> None:
    async with OpenAIServer(answer) as backend:
        for _ in range(2):
            async with served(deployment_in(folder, backend), cache=True) as url, client_of(url) as client:
                for _ in range(2):
                    await client.chat.completions.create(model="toy", messages=user_message("pear"))
        assert backend.calls == 2
        async with served(deployment_in(folder, backend), cache=True) as url, client_of(url) as client:
            two = await client.chat.completions.create(model="toy/find", messages=user_message("pear"), n=2)
        assert (backend.calls, len(two.choices)) == (4, 2)


async def test_a_cap_holds_for_the_servers_life(folder: Path) -> None:
    prices = {"usd_per_1m_prompt": 1000.0, "usd_per_1m_completion": 1000.0}
    async with OpenAIServer(answer) as backend:
        deployment = deployment_in(folder, backend, "budget.usd=0.2", **prices)
        async with served(deployment) as url, client_of(url) as client:
            calls = (
                client.chat.completions.create(model="toy/find", messages=user_message("what?")) for _ in range(100)
            )
            with pytest.raises(openai.RateLimitError) as refused:
                [await call for call in calls]
        assert refused.value.code == "insufficient_quota"
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert 0 < backend.calls < 50
        async with served(deployment) as url, client_of(url) as client:
            await client.chat.completions.create(model="toy/find", messages=user_message("what?"))


@given(st.integers(0, SEEDS - 1))
def test_fresh_seeds_keep_their_distance(start: int) -> None:
    seeds = fresh_seeds(start)
    drawn = sorted(next(seeds) for _ in range(3000))
    assert min(b - a for a, b in pairwise(drawn)) > 128
    assert 0 <= drawn[0] <= drawn[-1] < SEEDS


# Promotion


async def test_no_call_is_lost_or_mixed_through_a_promotion(folder: Path) -> None:
    found, all_found = Counter[str](), asyncio.Event()

    def answer_and_tell(body: Mapping[str, Any], index: int) -> str:
        found[prompt_text(body).rpartition("\n")[2].partition(" ")[0]] += index == 0
        if found["find"] == 100:
            all_found.set()
        return answer(body, index)

    async with OpenAIServer(answer_and_tell, delay=0.2) as backend:
        deployment = deployment_in(folder, backend)
        limits = httpx.Limits(max_connections=200)
        async with served(deployment, watch=True) as url, httpx.AsyncClient(timeout=60, limits=limits) as client:

            def ask(number: int) -> asyncio.Task[httpx.Response]:
                body = {"model": "toy", "messages": user_message(f"w{number}"), "stream": number % 2 == 0}
                return asyncio.create_task(client.post(f"{url}/chat/completions", json=body))

            calls = [ask(number) for number in range(100)]
            await all_found.wait()
            under_way = sum(not call.done() for call in calls)
            put(deployment.file, LARGE)
            calls += [ask(number) for number in range(100, 200)]
            answers = await asyncio.gather(*calls)
    keys = {model: load_key(folder, candidate) for model, candidate in (("small", SMALL), ("large", LARGE))}
    assert under_way > 0
    assert Counter(a.status_code for a in answers) == {200: 200}
    for number, got in enumerate(answers):
        model, prompt = ("small", "S") if number < 100 else ("large", "L")
        assert f"{model}/none/tell-w{number}:-{model}/{prompt}/find-w{number}" in got.text
        assert got.headers[CANDIDATE] == keys[model]


def load_key(folder: Path, candidate: Mapping[str, Any]) -> str:
    put(folder / "other.yaml", candidate)
    return load_candidate(folder / "other.yaml").key


async def test_without_a_job_the_candidate_stays(folder: Path) -> None:
    async with OpenAIServer(answer) as backend:
        deployment = deployment_in(folder, backend)
        async with served(deployment) as url, client_of(url) as client:
            put(deployment.file, LARGE)
            got = await client.chat.completions.create(model="toy/find", messages=user_message("what?"))
    assert got.choices[0].message.content == "small/S/what?"


async def test_a_champion_that_does_not_fit_leaves_the_old_one_in_use(folder: Path) -> None:
    async with OpenAIServer(answer) as backend:
        deployment = deployment_in(folder, backend)
        async with served(deployment, watch=True) as url, client_of(url) as client, plain_client() as plain:
            health = url.replace("/v1", "/healthz")
            before = (await plain.get(health)).json()
            put(deployment.file, {"other": {"model": "large"}})
            got = await client.chat.completions.create(model="toy/find", messages=user_message("what?"))
            during = (await plain.get(health)).json()
            put(deployment.file, LARGE)
            after = (await plain.get(health)).json()
    assert got.choices[0].message.content == "small/S/what?"
    assert before == {"status": "ok", "candidate": deployment.candidate.key}
    assert (during["candidate"], "names every subtask" in during["problem"]) == (before["candidate"], True)
    assert (after["candidate"], "problem" in after) == (load_key(folder, LARGE), False)


async def test_a_jobs_champion_is_served(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTOPT_DATA", str(folder / "data"))
    async with OpenAIServer(answer) as backend:
        deployment_in(folder, backend)
        config = [f"models={folder / 'models.yaml'}", f"journal={folder / 'journal.db'}", "budget.calls=0"]
        job = Job.model_validate({"name": "nightly", "task": ".", "config": config, "schedule": {"every": "1d"}})
        store = open_store()
        store.put(job, folder, 0.0)
        store.close()
        with pytest.raises(UserError, match=r"(?s)has no champion yet.*run-now nightly"):
            deployment_of_job("nightly", [])
        champions = champions_of("nightly")
        champions.promote(load_candidate(folder / "best.yaml"), time="2027-01-15", run="1", reason="first")
        deployment = deployment_of_job("nightly", [])
        async with served(deployment, watch=True) as url, client_of(url) as client:
            first = await client.chat.completions.create(model="toy/find", messages=user_message("what?"))
            put(folder / "other.yaml", LARGE)
            champions.promote(load_candidate(folder / "other.yaml"), time="2027-01-16", run="2", reason="better")
            second = await client.chat.completions.create(model="toy/find", messages=user_message("what?"))
            champions.rollback()
            third = await client.chat.completions.create(model="toy/find", messages=user_message("what?"))
    texts = [got.choices[0].message.content for got in (first, second, third)]
    assert texts == ["small/S/what?", "large/L/what?", "small/S/what?"]
    assert deployment.config.budget == Config().budget


# Refusals


async def test_a_wrong_key_an_oversized_body_and_an_unknown_model_are_openai_errors(folder: Path) -> None:
    (folder / "keys").write_text("# ours\nfirst-key\n\nsecond-key\n")
    async with OpenAIServer(answer) as backend:
        deployment = deployment_in(folder, backend)
        settings = {"key_file": folder / "keys", "limits": ServerLimits(body_bytes=2000)}
        async with served(deployment, **settings) as url:
            async with client_of(url, "wrong") as client:
                with pytest.raises(openai.AuthenticationError) as wrong:
                    await client.chat.completions.create(model="toy", messages=user_message("pear"))
            async with client_of(url, "second-key") as client:
                await client.chat.completions.create(model="toy", messages=user_message("pear"))
                with pytest.raises(openai.NotFoundError) as unknown:
                    await client.chat.completions.create(model="toy/fnd", messages=user_message("pear"))
                with pytest.raises(openai.APIStatusError) as large:
                    await client.chat.completions.create(model="toy", messages=user_message("pear" * 500))
                with pytest.raises(openai.NotFoundError):
                    await client.models.retrieve("toi")
                with pytest.raises(openai.NotFoundError, match="there is nothing at /v1/embeddings"):
                    await client.embeddings.create(model="toy", input="x")
            async with httpx.AsyncClient(base_url=url.replace("/v1", "")) as plain:
                paths = ("/v1/models", "/metrics", "/healthz", "/v1/chat/completions")
                open_paths = {path: (await plain.get(path)).status_code for path in paths}
    assert (wrong.value.status_code, wrong.value.code) == (401, "invalid_api_key")
    assert (unknown.value.status_code, unknown.value.code) == (404, "model_not_found")
    assert "did you mean `toy/find`?" in unknown.value.message
    assert (large.value.status_code, large.value.code) == (413, "request_too_large")
    assert open_paths == {"/v1/models": 401, "/metrics": 401, "/healthz": 200, "/v1/chat/completions": 405}
    for error in (wrong, unknown, large):
        assert set(error.value.response.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_body_of_unknown_length_is_measured_as_it_comes(folder: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b" " * 1000

    async with OpenAIServer(answer) as backend:
        deployment = deployment_in(folder, backend)
        async with served(deployment, limits=ServerLimits(body_bytes=2000)) as url, plain_client() as plain:
            got = await plain.post(f"{url}/chat/completions", content=endless())
    assert (got.status_code, got.json()["error"]["code"]) == (413, "request_too_large")


async def test_keys_are_read_again_when_their_file_changes(folder: Path) -> None:
    keys = folder / "keys"
    keys.write_text("old\n")
    async with OpenAIServer(answer) as backend, served(deployment_in(folder, backend), key_file=keys) as url:
        write_atomically(keys, "new\n")
        async with client_of(url, "old") as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
        async with client_of(url, "new") as client:
            assert (await client.models.list()).data


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "rebound.example"}, 403),
    ],
)
async def test_without_keys_a_page_from_elsewhere_is_refused(
    folder: Path, headers: dict[str, str], status: int
) -> None:
    body = {"model": "toy", "messages": user_message("pear")}
    async with OpenAIServer(answer) as backend, served(deployment_in(folder, backend)) as url, plain_client() as plain:
        got = await plain.post(f"{url}/chat/completions", json=body, headers=headers)
    assert got.status_code == status


async def test_others_are_let_in_only_with_keys(folder: Path) -> None:
    async with OpenAIServer(answer) as backend:
        deployment = deployment_in(folder, backend)
        with pytest.raises(UserError, match=r"(?s)needs API keys.*--api-key-file"):
            await serve(deployment, ServeSettings(host="0.0.0.0", port=0))
        async with served(deployment) as url:
            port = int(url.rpartition(":")[2].partition("/")[0])
            with pytest.raises(UserError, match=r"(?s)cannot listen at 127.0.0.1.*--port"):
                await serve(deployment, ServeSettings(port=port))


@pytest.mark.parametrize(("host", "origin"), [("[::1", ""), ("localhost", "http://[::1"), ("[", "["), ("", "")])
def test_an_address_that_is_none_is_not_of_this_machine(host: str, origin: str) -> None:
    with pytest.raises(ApiError, match="only programs on this machine") as refused:
        Access(None).check("", host, origin)
    assert refused.value.status == 403


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True),
                                                ("[::1]", True), ("LOCALHOST", True), ("0.0.0.0", False),
                                                ("::", False), ("localhost.example", False), ("", False)])  # fmt: skip
def test_loopback_is_known_by_its_address(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


async def test_calls_above_the_concurrency_limit_get_retry_after(folder: Path) -> None:
    async with OpenAIServer(answer, delay=0.3) as backend:
        limits = ServerLimits(in_flight=2)
        async with served(deployment_in(folder, backend), limits=limits) as url, plain_client() as plain:
            body = {"model": "toy", "messages": user_message("pear")}
            calls = [plain.post(f"{url}/chat/completions", json=body, timeout=30) for _ in range(4)]
            answers = await asyncio.gather(*calls)
            later = await plain.post(f"{url}/chat/completions", json=body, timeout=30)
    assert sorted(a.status_code for a in answers) == [200, 200, 503, 503]
    refused = next(a for a in answers if a.status_code == 503)
    assert (refused.headers["retry-after"], refused.json()["error"]["code"]) == ("1", "overloaded")
    assert later.status_code == 200


async def test_a_call_that_takes_too_long_ends_in_504_and_gives_its_place_back(folder: Path) -> None:
    faults = Faults(script=["hang"])
    async with OpenAIServer(answer, faults=faults) as backend:
        deployment = deployment_in(folder, backend, timeout_seconds=2, max_attempts=1)
        async with served(deployment, limits=ServerLimits(seconds=0.2)) as url, client_of(url) as client:
            with pytest.raises(openai.InternalServerError) as late:
                await client.chat.completions.create(model="toy/find", messages=user_message("what?"))
            async with plain_client() as plain:
                counts = (await plain.get(url.replace("/v1", "/metrics"))).text
    assert "agentopt_requests_in_flight 0.0" in counts
    assert (late.value.status_code, late.value.code) == (504, "timeout")
    assert late.value.response.headers["x-should-retry"] == "false"


async def test_an_upstream_failure_is_an_error_response(folder: Path) -> None:
    backend = OpenAIServer(answer, faults=Faults(script=[400]))
    async with backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        with pytest.raises(openai.InternalServerError) as failed:
            await client.chat.completions.create(model="toy/find", messages=user_message("what?"))
    assert (failed.value.status_code, failed.value.code) == (502, "upstream_failed")


async def test_an_answer_that_nothing_can_be_made_of_is_no_answer(folder: Path) -> None:
    backend = OpenAIServer(lambda body, index: "  ")
    async with backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        with pytest.raises(openai.UnprocessableEntityError, match="find: expected a string"):
            await client.chat.completions.create(model="toy", messages=user_message("pear"))


# Inputs


def columns(*rows: Mapping[str, Any]) -> InputColumns:
    return columns_of(Example(str(i), row) for i, row in enumerate(rows))


def user(text: str) -> list[Message]:
    return [Message("user", "earlier"), Message("assistant", "said"), Message("user", text)]


def test_the_last_user_message_is_the_only_text_column_or_an_object_of_the_columns() -> None:
    assert inputs_in(user("pear"), columns({"word": "x"})) == {"word": "pear"}
    assert inputs_in(user("[1]"), columns({"word": "x"})) == {"word": "[1]"}
    assert inputs_in(user('{"word": "pear"}'), columns({"word": "x"})) == {"word": "pear"}
    assert inputs_in(user('{"facts": ["y"]}'), columns({"facts": ["x"]})) == {"facts": ["y"]}
    assert inputs_in(user('{"a": "x"}'), columns({"a": "1", "b": "2"}, {"a": "1"})) == {"a": "x"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pear", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ('{"a": 1, "b": 2}', "it lacks c"),
        ('{"a": 1, "c": 2, "d": 3}', "it has d, which is unknown"),
        ('{"a": 1, "d": 3}', "it lacks c and it has d, which is unknown"),
    ],
)
def test_wrong_inputs_are_refused_with_the_columns(text: str, problem: str) -> None:
    with pytest.raises(ApiError, match=rf"with a, c \(and may have b\), but .*{problem}") as wrong:
        inputs_in(user(text), columns({"a": 1, "c": 2}, {"a": 1, "b": 1, "c": 2}))
    assert wrong.value.status == 400


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ('{"facts": "x", "n": 1}', "facts must be a list, but is a string"),
        ('{"facts": {}, "n": 1}', "facts must be a list, but is an object"),
        ('{"facts": [], "n": "1"}', "n must be a number or null, but is a string"),
        ('{"facts": [], "n": true}', "n must be a number or null, but is a boolean"),
        ('{"facts": null, "n": []}', "facts must be a list, but is null and n must be a number or null, but is a list"),
    ],
)
def test_a_value_of_another_type_than_in_the_examples_is_refused(given: str, problem: str) -> None:
    examples = columns({"facts": ["x"], "n": 1}, {"facts": [], "n": None}, {"facts": [], "n": 0.5})
    assert examples.read('{"facts": ["y"], "n": 2.5}')
    with pytest.raises(ApiError, match=f"but {problem}$") as wrong:
        inputs_in(user(given), examples)
    assert wrong.value.status == 400


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            {"mesage": "x", "ton": "y"},
            "which are unknown; did you mean 'message' in place of 'mesage', 'tone' in place",
        ),
        (
            {"mesage": "x", "tone": "y"},
            "it lacks message and it has mesage, which is unknown; did you mean 'message' in",
        ),
        ({"message": "x", "tone": "y", "tones": "z"}, "it has tones, which is unknown$"),
        ({"message": "x", "zzz": 1}, "it lacks tone and it has zzz, which is unknown$"),
    ],
)
def test_a_misspelled_column_is_recognised(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        columns({"message": "x", "tone": "y"}).check(given)


def test_a_chat_without_a_user_message_is_refused() -> None:
    with pytest.raises(ApiError, match="with word, but there is no user message"):
        inputs_in([Message("system", "s")], columns({"word": "x"}))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '{"wrod": "pear"}',
            "it lacks word and it has wrod, which is unknown; did you mean 'word' in place of 'wrod'?",
        ),
        ('{"word": "pear", "more": 1}', "it has more"),
        ("{}", "it lacks word"),
    ],
)
async def test_an_object_that_is_not_of_the_columns_is_refused_before_anything_is_paid(
    folder: Path, text: str, problem: str
) -> None:
    async with OpenAIServer(answer) as backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        with pytest.raises(openai.BadRequestError, match=problem):
            await client.chat.completions.create(model="toy", messages=user_message(text))
    assert backend.calls == 0


OBJECT: dict[str, Any] = {"type": "object", "properties": {"fruit": {"type": "string"}}}
OTHER: dict[str, Any] = {"type": "object", "properties": {"size": {"type": "number"}}}


def format_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


@pytest.mark.parametrize(
    ("model", "asked", "status"),
    [
        ("toy", {"type": "text"}, 200),
        ("toy", {"type": "json_object"}, 400),
        ("toy", format_of(OBJECT), 400),
        ("toy/tell", format_of(OBJECT), 400),
        ("toy/find", {"type": "json_object"}, 200),
        ("toy/find", format_of(OBJECT), 200),
        ("toy/find", format_of(OTHER), 400),
    ],
)
async def test_another_form_of_answer_than_the_tasks_is_refused(
    folder: Path, model: str, asked: dict[str, Any], status: int
) -> None:
    spec = spec_of_task()
    spec["subtasks"][0]["parse"] = {"kind": "json", "schema": OBJECT}
    (folder / "task.yaml").write_text(yaml.safe_dump(spec))
    body = {"model": model, "messages": user_message("pear"), "response_format": asked}
    backend = OpenAIServer(lambda *_: '{"fruit": "pear"}')
    async with backend, served(deployment_in(folder, backend)) as url, plain_client() as plain:
        got = await plain.post(f"{url}/chat/completions", json=body)
    assert got.status_code == status
    assert status == 200 or (got.json()["error"]["param"], backend.calls) == ("response_format", 0)


async def test_a_get_of_chat_completions_is_answered_with_the_allowed_method(folder: Path) -> None:
    async with OpenAIServer(answer) as backend, served(deployment_in(folder, backend)) as url, plain_client() as plain:
        got = await plain.get(f"{url}/chat/completions")
        other = await plain.post(f"{url}/models")
    assert (got.status_code, got.headers["allow"], got.json()["error"]["code"]) == (405, "POST", "method_not_allowed")
    assert "use POST" in got.json()["error"]["message"]
    assert "use GET" in other.json()["error"]["message"]


async def test_each_failed_call_is_one_line_of_the_log_without_what_was_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "keys").write_text("our-key\n")
    backend = OpenAIServer(answer, faults=Faults(script=[400]))
    async with backend, served(deployment_in(folder, backend), key_file=folder / "keys") as url:
        for key, model, text in (
            ("wrong-key", "toy", "pear"),
            ("our-key", "toy", '{"private": 1}'),
            ("our-key", "to\ni", "pear"),
            ("our-key", "toy/find", "pear"),
            ("our-key", "toy/find", "pear"),
        ):
            async with client_of(url, key) as client:
                with suppress(openai.APIStatusError):
                    await client.chat.completions.create(model=model, messages=user_message(text))
    lines = [record.getMessage() for record in caplog.records if record.name == "agentopt.deploy.serve.app"]
    starts = [
        "401, model unknown: the API key",
        "400, model toy: invalid_value in messages",
        "404, model to i: the model",
    ]
    assert [line.startswith(f"call failed: status {s}") for line, s in zip(lines, starts, strict=False)] == [True] * 3
    assert lines[3].startswith("call failed: status 502, model toy/find: ")
    assert len(lines) == 4
    assert not any(word in line for line in lines for word in ("pear", "private", "our-key", "wrong-key", "\n"))


@pytest.mark.parametrize(
    "given",
    [
        {"fuse": {"method": "best_of", "judge": "judge.py:judge"}},
        {"models": ["small", "large"], "cascade": {"models": ["small", "large"], "check": "judge.py:judge"}},
    ],
)
async def test_a_subtask_whose_judge_or_check_needs_inputs_is_served_only_as_part_of_the_task(
    folder: Path, given: dict[str, Any]
) -> None:
    spec = spec_of_task()
    spec["subtasks"][0] |= given
    (folder / "task.yaml").write_text(yaml.safe_dump(spec))
    (folder / "judge.py").write_text("def judge(inputs, value):\n    return inputs['word'] in value\n")
    async with OpenAIServer(answer) as backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        with pytest.raises(openai.BadRequestError, match="call the whole task"):
            await client.chat.completions.create(model="toy/find", messages=user_message("pear"))
        whole = await client.chat.completions.create(model="toy", messages=user_message("pear"))
    assert whole.choices[0].message.content == WHOLE


# Files and metrics


def test_a_watched_file_is_read_again_only_when_it_is_another(tmp_path: Path) -> None:
    file, loads = tmp_path / "file", []
    file.write_text("one")

    def load(path: Path) -> str:
        loads.append(path.read_text())
        return loads[-1]

    watched = Watched(file, load)
    assert [watched(), watched()] == ["one", "one"]
    write_atomically(file, "two")
    assert [watched(), watched()] == ["two", "two"]
    assert loads == ["one", "two"]


@pytest.mark.parametrize(("content", "problem"), [("# none\n\n", "has no key"), (None, "cannot be read")])
def test_a_file_without_a_key_is_a_users_mistake(tmp_path: Path, content: str | None, problem: str) -> None:
    if content is not None:
        (tmp_path / "keys").write_text(content)
    with pytest.raises(UserError, match=problem):
        Access.by_file(tmp_path / "keys")


def test_keys_are_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("  a \n#b\n\nc\n")
    assert read_keys(tmp_path / "keys") == (b"a", b"c")


def values_of(metrics: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^(\w+(?:\{[^}]*\})?) (\S+)$", metrics, re.M)}


async def test_metrics_count_requests_tokens_usd_and_seconds_by_subtask(folder: Path) -> None:
    async with OpenAIServer(answer) as backend:
        deployment = deployment_in(folder, backend, usd_per_1m_prompt=1.0, usd_per_1m_completion=2.0)
        async with served(deployment) as url, client_of(url) as client, plain_client() as plain:
            await client.chat.completions.create(model="toy", messages=user_message("pear"))
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.create(model="anything", messages=user_message("pear"))
            with pytest.raises(openai.BadRequestError):
                await client.chat.completions.create(model="toy/find", messages=user_message("pear"), temperature=3)
            foreign = {"Origin": "https://elsewhere.example"}
            await plain.post(f"{url}/chat/completions", json={"model": "toy"}, headers=foreign)
            text = (await plain.get(url.replace("/v1", "/metrics"))).text
    values = values_of(text)
    assert values['agentopt_requests_total{model="toy",status="200"}'] == 1
    assert values['agentopt_requests_total{model="unknown",status="404"}'] == 1
    assert values['agentopt_requests_total{model="toy/find",status="400"}'] == 1
    assert values['agentopt_requests_total{model="unknown",status="403"}'] == 1
    assert values['agentopt_tokens_total{kind="completion",model="small",subtask="find"}'] == 3
    assert values['agentopt_usd_total{model="small",subtask="find"}'] > 0
    assert values['agentopt_subtask_seconds_count{subtask="tell"}'] == 1
    assert values["agentopt_spent_usd"] == pytest.approx(
        sum(value for name, value in values.items() if name.startswith("agentopt_usd_total"))
    )


THREE = {"model": "small", "num_samples": 3}
DEAR = {"usd_per_1m_prompt": 100.0, "usd_per_1m_completion": 300.0, "usd_per_request": 0.5}


@pytest.mark.parametrize(
    ("subtask", "choice", "most", "requests"),
    [
        ({"cascade": ["small", "large"]}, {"settings": {"cascade.below": 1}}, 3, {"small": 1, "large": 1}),
        ({"cascade": ["small", "large"]}, {"settings": {"cascade.below": 1}}, 1, {"small": 3, "large": 1}),
        ({"fuse": "vote"}, {}, 1, {"small": 3}),
        ({"fuse": "vote"}, {}, 2, {"small": 2}),
        ({"fuse": {"method": "vote", "stop": "decided"}}, {}, 1, {"small": 3}),
        ({"fuse": {"method": "fuse", "model": "large"}}, {}, 3, {"small": 1, "large": 1}),
        ({"fuse": {"method": "fuse", "model": "large"}}, {}, 1, {"small": 3, "large": 1}),
        ({"fuse": "fuse"}, {}, 3, {"small": 2}),
    ],
)
async def test_metrics_count_what_each_model_was_paid(
    folder: Path, subtask: dict[str, Any], choice: dict[str, Any], most: int, requests: dict[str, int]
) -> None:
    task, answered = spec_of_task(), Counter[str]()
    task["subtasks"][0] |= subtask
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    put(folder / "best.yaml", {**SMALL, "find": {**THREE, **choice}})

    def disagree(body: Mapping[str, Any], index: int) -> str:
        answered[body["model"]] += 2
        return f"answer {answered.total()}"

    async with OpenAIServer(disagree) as backend:
        prices = {"usd_per_1m_prompt": 1.0, "usd_per_1m_completion": 2.0, "usd_per_request": 0.25}
        deployment = deployment_in(folder, backend, max_choices=most, large=DEAR, **prices)
        async with served(deployment) as url, client_of(url) as client, plain_client() as plain:
            await client.chat.completions.create(model="toy/find", messages=user_message("find a ripe pear"))
            values = values_of((await plain.get(url.replace("/v1", "/metrics"))).text)
    prompts = Counter[str]()
    for received in backend.requests:
        prompts[received.body["model"]] += count_tokens(prompt_text(received.body))
    assert Counter(received.body["model"] for received in backend.requests) == requests
    for name, count in requests.items():
        of = f'model="{name}",subtask="find"'
        price = DEAR if name == "large" else prices
        usd = prompts[name] * price["usd_per_1m_prompt"] + answered[name] * price["usd_per_1m_completion"]
        assert values[f'agentopt_tokens_total{{kind="prompt",{of}}}'] == prompts[name]
        assert values[f'agentopt_tokens_total{{kind="completion",{of}}}'] == answered[name]
        assert values[f"agentopt_model_requests_total{{{of}}}"] == count
        paid = usd / 1e6 + count * price["usd_per_request"]
        assert values[f"agentopt_usd_total{{{of}}}"] == pytest.approx(paid)
    total = sum(value for name, value in values.items() if name.startswith("agentopt_usd_total"))
    assert values["agentopt_spent_usd"] == pytest.approx(total)


# The command


async def test_the_command_answers_calls_in_flight_before_it_ends(folder: Path) -> None:
    found = asyncio.Event()

    def answer_and_tell(body: Mapping[str, Any], index: int) -> str:
        found.set()
        return answer(body, index)

    async with OpenAIServer(answer_and_tell, delay=0.5) as backend:
        deployment_in(folder, backend)
        settings = [f"models={folder / 'models.yaml'}", f"journal={folder / 'journal.db'}"]
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agentopt", "serve", str(folder / "best.yaml"), "--task", str(folder)),
            *("--port", "0", "--no-api-key", *(part for setting in settings for part in ("-c", setting))),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "AGENTOPT_CACHE": str(folder / "cache")},
        )
        assert server.stdout
        line = (await server.stdout.readline()).decode()
        async with client_of(line.split()[-1]) as client:
            call = asyncio.create_task(client.chat.completions.create(model="toy", messages=user_message("pear")))
            await found.wait()
            server.send_signal(signal.SIGTERM)
            got = await call
        _, errors = await server.communicate()
    assert got.choices[0].message.content == WHOLE
    assert (server.returncode, errors.decode()) == (0, "")
    assert "serving toy, candidate" in line


@pytest.mark.parametrize(
    ("run", "job", "task", "timeout", "problem"),
    [
        (None, None, None, 1.0, "a run, a candidate's file or --job must be given"),
        (Path("best.yaml"), "nightly", None, 1.0, "only one of .* may be given, but got best.yaml and --job nightly"),
        (None, "nightly", Path("toy"), 1.0, "a job knows its task, but got --task toy"),
        (Path("best.yaml"), None, None, float("inf"), "--timeout` must be a number of seconds, but got inf"),
        (Path("best.yaml"), None, None, float("nan"), "--timeout` must be a number of seconds, but got nan"),
        (Path("no/such/run"), None, None, 1.0, "no/such/run: there is no such file or folder"),
    ],
)
def test_a_mistake_in_the_served_candidate_is_reported(
    run: Path | None, job: str | None, task: Path | None, timeout: float, problem: str
) -> None:
    options = ServeOptions("127.0.0.1", 0, None, False, 1, 1, timeout)
    with pytest.raises(UserError, match=problem):
        run_server(run, job, task, options, [], Console())


@pytest.mark.parametrize("port", ["99999", "-1"])
def test_a_port_that_there_is_not_is_refused(port: str) -> None:
    command = [sys.executable, "-m", "agentopt", "serve", "best.yaml", "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Invalid value for '--port'" in done.stderr


FIRST_REQUEST = """
import asyncio, sys
from pathlib import Path
import httpx, yaml
from agentopt.deploy.deployment import find_deployment
from agentopt.deploy.serve.server import ServeSettings, serve
from agentopt.testing.servers import AnthropicServer

async def main(folder):
    async with AnthropicServer() as backend:
        entry = {"litellm": "anthropic/claude-haiku-4-5", "base_url": backend.base_url}
        (folder / "models.yaml").write_text(yaml.safe_dump({"models": {"small": entry, "large": entry}}))
        settings = [f"models={folder / 'models.yaml'}", f"journal={folder / 'journal.db'}"]
        deployment = find_deployment(folder / "best.yaml", folder, settings)
        started, stop = asyncio.get_running_loop().create_future(), asyncio.Event()
        on_start = started.set_result
        server = asyncio.create_task(serve(deployment, ServeSettings(port=0), on_start=on_start, stop=stop))
        async with httpx.AsyncClient(base_url=await started, timeout=60) as client:
            print((await client.get("../readyz")).text)
            ready = set(sys.modules)
            body = {"model": "toy", "messages": [{"role": "user", "content": "pear"}]}
            (await client.post("chat/completions", json=body)).raise_for_status()
            print(sorted(set(sys.modules) - ready))
        stop.set()
        await server

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_server_that_is_ready_imports_nothing_more_for_its_first_request(folder: Path) -> None:
    command = [sys.executable, "-c", FIRST_REQUEST, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.splitlines() == ['{"status":"ready"}', "[]"]
