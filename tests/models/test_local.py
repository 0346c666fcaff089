"""The embedded engine with a real model of 135M parameters: answers, crashes, restarts and access control."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import jsonschema
import pytest
import pytest_asyncio

from agentopt.core.errors import CatalogError, PermanentModelError, TransientModelError
from agentopt.models.base import Message, Request
from agentopt.models.catalog import BUILT_IN, ModelSpec, read_catalog
from agentopt.models.local import EngineProcess, LocalModel
from agentopt.models.weight_files import fetch
from agentopt.testing.conformance import check_chat_model

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]
SPEC = read_catalog(BUILT_IN)["smollm2-135m"].model_copy(update={"context_length": 256})
REQUEST = Request(SPEC.name, (Message("user", "Name a colour."),), max_tokens=4)
LONG = replace(
    REQUEST,
    max_tokens=200,
    json_schema='{"type": "array", "minItems": 100, "items": {"type": "string", "minLength": 9}}',
)
"""A schema that prevents a short answer."""
WAIT = 60


@pytest.fixture(scope="module")
def path() -> Path:
    assert SPEC.weights
    return asyncio.run(fetch(SPEC.weights))


def kill_and_wait(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def started(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def command_line(pid: int) -> str:
    """Empty if the system does not expose it."""
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_text(encoding="utf-8") if path.exists() else ""


async def call_until_gone(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(WAIT):
        while True:
            await client.get("/health")
            await asyncio.sleep(0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(path: Path) -> AsyncIterator[LocalModel]:
    model = LocalModel(SPEC, weights_path=path)
    yield model
    await model.aclose()


async def test_several_choices_of_one_call_are_all_counted(model: LocalModel) -> None:
    response = await model.generate(replace(REQUEST, n=4))
    assert len(response.choices) == 4
    assert response.completion_tokens > REQUEST.max_tokens
    assert len({choice.text for choice in response.choices}) > 1


async def test_concurrent_calls_may_each_request_max_choices(model: LocalModel) -> None:
    requests = [replace(REQUEST, n=SPEC.max_choices, first_repeat=repeat) for repeat in (0, 8)]
    for response in await asyncio.gather(*map(model.generate, requests)):
        assert len(response.choices) == SPEC.max_choices


async def test_an_answer_follows_the_requested_schema(model: LocalModel) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}, "warm": {"type": "boolean"}},
        "required": ["colour", "warm"],
        "additionalProperties": False,
    }
    response = await model.generate(replace(REQUEST, json_schema=json.dumps(schema), max_tokens=60))
    jsonschema.validate(json.loads(response.choices[0].text), schema)


async def test_each_call_may_use_the_context_length_and_no_more(model: LocalModel) -> None:
    fits, too_long = (replace(REQUEST, messages=(Message("user", "word " * words),)) for words in (200, 300))
    assert (await model.generate(fits)).prompt_tokens > 200
    with pytest.raises(PermanentModelError, match="context"):
        await model.generate(too_long)


async def test_a_proxy_in_the_environment_is_not_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    model = LocalModel(SPEC, weights_path=path)
    assert (await model.generate(replace(REQUEST, n=2))).completion_tokens
    await model.aclose()


async def test_a_local_model_passes_the_conformance_check(path: Path) -> None:
    await check_chat_model(LocalModel(SPEC, weights_path=path), REQUEST)


async def test_an_engine_that_died_is_restarted_once(path: Path) -> None:
    model = LocalModel(SPEC, weights_path=path)
    await model.generate(REQUEST)
    in_flight = asyncio.create_task(model.generate(LONG))
    await asyncio.sleep(0.1)
    assert model.pid
    os.kill(model.pid, signal.SIGKILL)
    with pytest.raises(TransientModelError):
        await in_flight
    first = model.pid
    assert (await model.generate(REQUEST)).choices
    assert model.pid not in (None, first)
    await asyncio.to_thread(kill_and_wait, model.pid or 0)
    with pytest.raises(PermanentModelError, match=r"died 2 times; its stderr tail: exit code -9"):
        await model.generate(REQUEST)
    await model.aclose()
    assert (await model.generate(REQUEST)).choices
    await model.aclose()
    assert model.pid is None


async def test_an_invalid_model_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"not a model")
    model = LocalModel(SPEC, weights_path=tmp_path / "m.gguf")
    with pytest.raises(PermanentModelError, match=r"did not start; its stderr tail: exit code 1; .*invalid magic"):
        await model.generate(REQUEST)
    await model.aclose()


async def test_the_server_is_closed_to_others(path: Path) -> None:
    process = EngineProcess(path, SPEC)
    address = await process.address()
    assert address.startswith("http://127.0.0.1:")
    assert process.api_key not in command_line(process.pid)
    async with httpx.AsyncClient(base_url=address, headers={"Origin": "http://elsewhere"}) as client:
        unknown = await client.post("/v1/chat/completions", json={"messages": []})
        key = {"Authorization": f"Bearer {process.api_key}"}
        closed = [await client.get(route, headers=key) for route in ("/slots", "/metrics", "/")]
    assert unknown.status_code == 401
    assert "access-control-allow-origin" not in unknown.headers or not unknown.headers["access-control-allow-origin"]
    assert all(answer.status_code in (404, 501) for answer in closed), closed
    process.stop()
    assert not process.is_alive


async def test_the_engine_ends_when_its_parent_is_killed(path: Path) -> None:
    code = (
        "import asyncio, sys; from pathlib import Path; from agentopt.models.catalog import *;"
        "from agentopt.models.local import EngineProcess;"
        f"spec = read_catalog(BUILT_IN)['{SPEC.name}'].model_copy(update={{'context_length': 256}});"
        f"process = EngineProcess(Path({str(path)!r}), spec);"
        "print(asyncio.run(process.address()), flush=True); sys.stdin.read()"
    )
    with started("-c", code) as parent:
        assert parent.stdout
        address = (await asyncio.to_thread(parent.stdout.readline)).decode().strip()
        async with httpx.AsyncClient(base_url=address) as client:
            assert (await client.get("/health")).status_code == 200
            parent.kill()
            with pytest.raises(httpx.TransportError):
                await call_until_gone(client)


async def test_the_engine_ends_when_its_input_closes(path: Path) -> None:
    settings = {"path": str(path), "api_key": "k", "context_length": 64, "parallel": 1, "threads": 1}
    with started("-m", "agentopt.models.engine") as engine:
        assert engine.stdin
        assert engine.stdout
        engine.stdin.write(json.dumps({**settings, "parent": os.getpid()}).encode() + b"\n")
        engine.stdin.flush()
        assert await asyncio.to_thread(engine.stdout.readline)
        engine.stdin.close()
        assert await asyncio.to_thread(engine.wait, WAIT) == 0


async def test_a_local_model_needs_weights() -> None:
    with pytest.raises(CatalogError, match="needs weights"):
        LocalModel(ModelSpec(name="m", base_url="http://127.0.0.1:9"))
