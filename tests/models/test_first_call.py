"""What a first call needs is imported before its clock starts. Each test runs in a new process: nothing is imported."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from agentopt.models.base import Message, Request
from agentopt.models.catalog import ModelSpec
from agentopt.models.hosted import HostedModel, load_library
from agentopt.testing import servers

CALL = """
import asyncio, json, sys, time
from agentopt.models.base import Message, Request
from agentopt.models.catalog import ModelSpec
from agentopt.models.hosted import HostedModel
from agentopt.models.live_text import LIVE, LiveText
from agentopt.models.router import ModelRouter
from agentopt.testing import servers

marks = []

def clock():
    marks.append(set(sys.modules))
    return time.monotonic()

async def main(server, entry, stream, optional):
    async with getattr(servers, server)() as backend:
        spec = ModelSpec(name="small", base_url=backend.base_url, **entry)
        if optional is not None:
            await ModelRouter({"small": spec}, optional=optional).prepare("small")
            clock()
        model = HostedModel(spec, api_key="sk-test", clock=clock)
        if stream:
            LIVE.set(LiveText(lambda text: None))
        await model.generate(Request("small", (Message("user", "Say [[yes]]"),), 20))
        await model.aclose()
    print(json.dumps(sorted(marks[-1] - marks[0])))

asyncio.run(main(*json.loads(sys.argv[1])))
"""
ROUTES = {
    "openai": ("OpenAIServer", {}),
    "litellm-openai": ("OpenAIServer", {"litellm": "openai/small"}),
    "litellm-openrouter": ("OpenAIServer", {"litellm": "openrouter/openai/gpt-4o"}),
    "litellm-mistral": ("OpenAIServer", {"litellm": "mistral/mistral-small"}),
    "litellm-anthropic": ("AnthropicServer", {"litellm": "anthropic/claude-haiku-4-5"}),
}


@pytest.mark.parametrize(
    ("route", "stream", "optional"),
    [
        ("openai", False, ["small"]),
        ("litellm-openai", False, None),
        ("litellm-openai", True, None),
        ("litellm-openrouter", False, None),
        ("litellm-mistral", False, []),
        ("litellm-anthropic", False, None),
        ("litellm-anthropic", True, []),
    ],
)
def test_nothing_is_imported_while_the_first_call_is_timed(
    route: str, stream: bool, optional: list[str] | None, tmp_path: Path
) -> None:
    arguments = json.dumps([*ROUTES[route], stream, optional])
    done = subprocess.run(
        [sys.executable, "-c", CALL, arguments], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


LOADED = """
import json, logging, sys

looked_up = []
sys.addaudithook(lambda event, args: looked_up.append(str(args[0])) if event == "socket.getaddrinfo" else None)

from agentopt.models.litellm_route import load_litellm, prepare_litellm

called = []
load_litellm().input_callback = [lambda *args: called.append("input")]
prepare_litellm(sys.argv[1])
print(json.dumps([looked_up, called]))
"""


@pytest.mark.parametrize(
    "model",
    ["together_ai/meta-llama/Meta-Llama-3-8B-Instruct", "groq/llama-3.1-8b-instant", "cohere/command-r", "none"],
)
def test_loading_a_library_reaches_no_host_and_makes_no_call(model: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOADED, model]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300)
    assert json.loads(done.stdout.splitlines()[-1]) == [[], []]


async def test_certificates_that_cannot_be_read_end_no_call_of_an_http_endpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent.pem")
    load_library(ModelSpec(name="small", base_url="https://127.0.0.1:1/v1"))  # the first call would report it
    async with servers.OpenAIServer() as backend:
        model = HostedModel(ModelSpec(name="small", base_url=backend.base_url), api_key="sk-test")
        response = await model.generate(Request("small", (Message("user", "Say [[yes]]"),), 20))
        await model.aclose()
    assert [choice.text for choice in response.choices] == ["yes"]


async def test_a_load_that_was_cancelled_is_repeated() -> None:
    async with servers.OpenAIServer() as backend:
        model = HostedModel(ModelSpec(name="small", base_url=backend.base_url), api_key="sk-test")
        request = Request("small", (Message("user", "Say [[yes]]"),), 20)
        ended = asyncio.create_task(asyncio.sleep(60))
        ended.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ended
        model._loading = ended  # as the end of an event loop leaves it
        assert (await model.generate(request)).choices[0].text == "yes"
        await model.aclose()
