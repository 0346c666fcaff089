"""tasks/react-langgraph, an agent with tools: the same scores as when it is called directly, and optimised."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agentopt.api import aevaluate, aoptimize
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.task import Example
from agentopt.models.base import Choice, Message, Request, ToolCall
from agentopt.models.catalog import Catalog
from agentopt.models.openai_completion import Completion
from agentopt.models.openai_format import call_in
from agentopt.models.scripted import ScriptedModel
from agentopt.prompts.settings import PromptSettings
from agentopt.runs.config import BudgetConfig, Config
from agentopt.search.settings import SearchSettings
from agentopt.taskfile.loading import load_task

TASK = Path(__file__).parents[2] / "tasks" / "react-langgraph"
SMALL, LARGE = "smollm2-135m", "qwen2.5-coder-0.5b"
QUALITY = {SMALL: 0.5, LARGE: 0.95}
EXAMPLES = 4


def react(model: str, messages: tuple[Message, ...], repeat: int) -> Choice:
    """The next turn of the agent: the right tool call or answer with the model's planted quality, else another one."""
    turns = [message for message in messages if message.role != "system"]
    content = [turn.content for turn in turns]
    draw = hashlib.sha256(f"{model} {content} {repeat}".encode()).digest()[0] / 256
    right = draw < QUALITY[model]
    if len(turns) == 1:
        person = content[0].split("where ")[1].split()[0]
        return called("find_town", {"person": person if right else "Nobody"}, repeat)
    if len(turns) == 3:
        return called("list_landmarks", {"town": content[-1].rstrip(".").split()[-1] if right else "Nowhere"}, repeat)
    kind = content[0].split()[1]
    names = [line.split()[2] for line in content[-1].splitlines() if line.startswith(f"The {kind} ")]
    return Choice(names[0] if names and right else "Unknown", 2)


def called(name: str, arguments: Mapping[str, str], repeat: int) -> Choice:
    # Another layout of the same arguments in each sample: they still vote together.
    text = json.dumps(arguments, indent=repeat % 3 or None)
    return Choice("", 8, "tool_calls", tool_calls=(ToolCall(f"call_{name}_{repeat}", name, text),))


def answer(request: Request, repeat: int) -> Choice:
    tools = {json.loads(tool)["function"]["name"] for tool in request.tools}
    assert tools == {"find_town", "list_landmarks"}
    return react(request.model, request.messages, repeat)


@asynccontextmanager
async def endpoint(model: str) -> AsyncIterator[str]:
    """An OpenAI endpoint that answers as `model` does through agentopt, with one sample."""

    async def chat(request: web.Request) -> web.Response:
        call = call_in(await request.json())
        return web.json_response(Completion(call.model, [react(model, call.messages, 0)], 1, 1).body())

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app, shutdown_timeout=0.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


async def directly(examples: tuple[Example, ...], model: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Example id -> the program's answer, called without agentopt."""
    async with endpoint(model) as url:
        for name, value in {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "any", "NO_PROXY": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
        spec = importlib.util.spec_from_file_location("react_program", TASK / "program.py")
        assert spec
        assert spec.loader
        program: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(program)
        return {e.id: await asyncio.to_thread(program.run, dict(e.inputs)) for e in examples}


def config(folder: Path, examples: int, **more: Any) -> Config:
    limits = {f"data.limit.{split}": examples for split in ("train", "validation", "test")}
    return Config(journal=str(folder / "journal.db"), runs=folder / "runs", task=limits, **more)


async def test_the_agent_gets_the_scores_of_a_direct_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate = Candidate.of({"agent": SubtaskChoice(LARGE, 1)})
    found = await aevaluate(TASK, candidate, config(tmp_path, EXAMPLES), provider=ScriptedModel(answer))
    assert not found.errors
    wanted = {result.id for result in found.results}
    examples = load_task(TASK, catalog=Catalog.load()).splits[found.split]
    direct = await directly(tuple(e for e in examples if e.id in wanted), LARGE, monkeypatch)
    assert {result.id: result.output for result in found.results} == direct
    assert sum(found.scores.values()) > 0


async def test_the_agent_is_optimised_under_a_cap_and_resumes_from_the_journal(tmp_path: Path) -> None:
    settings = config(
        tmp_path,
        4,
        strategy="random",
        seed=1,  # tries the larger model
        budget=BudgetConfig(trials=3, tokens=200_000),
        search=SearchSettings(early_stopping=None),
        prompts=PromptSettings(when="never"),
    )
    model = ScriptedModel(answer)
    found = await aoptimize(TASK, settings, provider=model)
    assert max(trial.score or 0.0 for trial in found.trials) > (found.trials[0].score or 0.0)
    again = await aoptimize(TASK, settings, provider=ScriptedModel(script=()))
    assert [trial.score for trial in again.trials] == [trial.score for trial in found.trials]
