"""What a first call needs is imported before its clock starts. Each test runs in a new process: nothing is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
    "litellm-anthropic": ("AnthropicServer", {"litellm": "anthropic/claude-haiku-4-5"}),
}


@pytest.mark.parametrize(
    ("route", "stream", "optional"),
    [
        ("openai", False, ["small"]),
        ("litellm-openai", False, None),
        ("litellm-anthropic", False, None),
        ("litellm-anthropic", True, []),
    ],
    ids=["prepared-as-optional", "not-prepared", "not-prepared", "prepared"],
)
def test_nothing_is_imported_while_the_first_call_is_timed(
    route: str, stream: bool, optional: list[str] | None, tmp_path: Path
) -> None:
    arguments = json.dumps([*ROUTES[route], stream, optional])
    done = subprocess.run(
        [sys.executable, "-c", CALL, arguments], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
