"""A scripted model for the ReAct agent of tasks/react-langgraph, with the tool calls that it sent and got back."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from agentopt.core.task import Example
from agentopt.models.base import Choice, Message, Request, ToolCall
from agentopt.models.openai_completion import Completion
from agentopt.models.openai_format import call_in

SMALL, LARGE = "smollm2-135m", "qwen2.5-coder-0.5b"
QUALITY = {SMALL: 0.5, LARGE: 0.95}
"""Model -> probability of the right tool call or answer in a turn."""
TOOLS = {"find_town", "list_landmarks"}
PROGRAM = (
    "import json, sys; import program; json.dump([program.run(inputs) for inputs in json.load(sys.stdin)], sys.stdout)"
)


@dataclass
class Agent:
    """Answers the agent's turns, and keeps the tool calls.

    Attributes:
        sent: Text of each conversation -> the tool calls that were answered to it, one for each sample.
        returned: Text of each conversation -> the tool calls of its last assistant message, with which it came back.
        calls: Number of samples drawn.
    """

    sent: dict[str, set[ToolCall]] = field(default_factory=dict)
    returned: dict[str, tuple[ToolCall, ...]] = field(default_factory=dict)
    calls: int = 0

    def reply(self, model: str, messages: Sequence[Message], tools: Iterable[str], repeat: int) -> Choice:
        """The next turn.

        Args:
            model: Name of the model.
            messages: The conversation.
            tools: The tools of the request as JSON texts.
            repeat: Number of the sample.

        Raises:
            ValueError: The request has other tools than the agent's.
        """
        names = {json.loads(tool)["function"]["name"] for tool in tools}
        if names != TOOLS:
            raise ValueError(f"the request has the tools {sorted(names)}")
        turns = tuple(message for message in messages if message.role != "system")
        if len(turns) > 1:
            self.returned[_text(turns[:-2])] = turns[-2].tool_calls
        choice = turn(model, turns, repeat)
        self.calls += 1
        self.sent.setdefault(_text(turns), set()).update(choice.tool_calls)
        return choice

    def answer(self, request: Request, repeat: int) -> Choice:
        """`reply` for a `ScriptedModel`."""
        return self.reply(request.model, request.messages, request.tools, repeat)

    @property
    def intact(self) -> int:
        """Number of tool calls that came back with the id, the name and the arguments that were sent."""
        return sum(call in self.sent[text] for text, calls in self.returned.items() for call in calls)


def _text(turns: Sequence[Message]) -> str:
    return json.dumps([message.body() for message in turns], sort_keys=True)


def turn(model: str, turns: Sequence[Message], repeat: int) -> Choice:
    """The right tool call or answer with the model's planted quality, else another one.

    Args:
        model: Name of the model.
        turns: The conversation without system messages.
        repeat: Number of the sample.
    """
    content = [message.content for message in turns]
    draw = hashlib.sha256(f"{model} {content} {repeat}".encode()).digest()[0] / 256
    right = draw < QUALITY[model]
    if len(turns) == 1:
        person = content[0].split("where ")[1].split()[0]
        return _called("find_town", {"person": person if right else "Nobody"}, repeat)
    if len(turns) == 3:
        return _called("list_landmarks", {"town": content[-1].rstrip(".").split()[-1] if right else "Nowhere"}, repeat)
    kind = content[0].split()[1]
    names = [line.split()[2] for line in content[-1].splitlines() if line.startswith(f"The {kind} ")]
    return Choice(names[0] if names and right else "Unknown", 2)


def _called(name: str, arguments: Mapping[str, str], repeat: int) -> Choice:
    # Another layout of the same arguments in each sample: they still vote together.
    text = json.dumps(arguments, indent=repeat % 3 or None)
    return Choice("", 8, "tool_calls", tool_calls=(ToolCall(f"call_{name}_{repeat}", name, text),))


@asynccontextmanager
async def _endpoint(model: str, agent: Agent) -> AsyncIterator[str]:
    """An OpenAI endpoint that answers as `model` does through agentopt, with one sample."""

    async def chat(request: web.Request) -> web.Response:
        call = call_in(await request.json())
        choice = agent.reply(model, call.messages, call.tools, 0)
        return web.json_response(Completion(call.model, [choice], 1, 1).body())

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app, shutdown_timeout=0.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def directly(task: Path, examples: Sequence[Example], model: str, agent: Agent) -> dict[str, str]:
    """Run the agent's program in a process of its own, without agentopt.

    Args:
        task: Folder of the task.
        examples: The examples.
        model: The model that answers.
        agent: Keeps the tool calls.

    Returns:
        Example id -> the program's answer.
    """
    async with _endpoint(model, agent) as url:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM),
            cwd=task,
            env={**os.environ, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": "any", "NO_PROXY": "127.0.0.1"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        printed, _ = await process.communicate(json.dumps([dict(example.inputs) for example in examples]).encode())
    return dict(zip((example.id for example in examples), json.loads(printed), strict=True))
