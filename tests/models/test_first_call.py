"""What a first call needs is imported before its clock starts. Calls are made by new processes: nothing is imported."""

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
import asyncio, json, os, sys, time
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
    print(json.dumps(sorted(marks[-1] - marks[0])), flush=True)

is_loaded, cases = json.loads(sys.argv[1])
if is_loaded:
    from agentopt.models.litellm_route import load_litellm

    load_litellm()
for case in cases:
    if os.fork():
        assert os.wait()[1] == 0
    else:
        asyncio.run(main(*case))
        os._exit(0)
"""
ROUTES = {
    "openai": ("OpenAIServer", {}),
    "litellm-openai": ("OpenAIServer", {"litellm": "openai/small"}),
    "litellm-openrouter": ("OpenAIServer", {"litellm": "openrouter/openai/gpt-4o"}),
    "litellm-mistral": ("OpenAIServer", {"litellm": "mistral/mistral-small"}),
    "litellm-anthropic": ("AnthropicServer", {"litellm": "anthropic/claude-haiku-4-5"}),
}


Case = tuple[str, bool, list[str] | None]
"""The route, whether the response is streamed, and the entries that are prepared as optional ones."""


def imported_in_calls(cases: list[Case], folder: Path, *, is_loaded: bool) -> list[list[str]]:
    """What each call imports while it is timed. Each is the first one of a process, which may have loaded LiteLLM."""
    arguments = json.dumps([is_loaded, [[*ROUTES[route], *more] for route, *more in cases]])
    done = subprocess.run(
        [sys.executable, "-c", CALL, arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=300
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


@pytest.mark.parametrize("case", [("openai", False, ["small"]), ("litellm-openai", False, None)])
def test_nothing_is_imported_while_the_first_call_is_timed(case: Case, tmp_path: Path) -> None:
    assert imported_in_calls([case], tmp_path, is_loaded=False) == [[]]


def test_nothing_of_a_provider_is_imported_while_its_first_call_is_timed(tmp_path: Path) -> None:
    cases: list[Case] = [
        ("litellm-openai", True, None),
        ("litellm-openrouter", False, None),
        ("litellm-mistral", False, []),
        ("litellm-anthropic", False, None),
        ("litellm-anthropic", True, []),
    ]
    assert imported_in_calls(cases, tmp_path, is_loaded=True) == [[]] * len(cases)


LOADED = """
import json, logging, sys

looked_up = []
sys.addaudithook(lambda event, args: looked_up.append(str(args[0])) if event == "socket.getaddrinfo" else None)

from agentopt.models.litellm_route import load_litellm, prepare_litellm

called = []
load_litellm().input_callback = [lambda *args: called.append("input")]
for model in sys.argv[1:]:
    prepare_litellm(model)
print(json.dumps([looked_up, called]))
"""
MODELS = ["together_ai/meta-llama/Meta-Llama-3-8B-Instruct", "groq/llama-3.1-8b-instant", "cohere/command-r", "none"]


def test_loading_a_library_reaches_no_host_and_makes_no_call(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LOADED, *MODELS]
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
