"""A loopback server with one endpoint for each family of hosted models, each with the family's request rules.

As a process,

    python -m agentopt.testing.zoo [--port 0]

prints the base URL of every family. Every endpoint accepts the API key `zoo-key`, answers the quickstart task, and
takes words for tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from agentopt.core.errors import CatalogError
from agentopt.core.yaml_text import parse_yaml
from agentopt.models.scripted import count_tokens
from agentopt.testing.faults import Fault
from agentopt.testing.servers import (
    Answer,
    LoopbackServer,
    SentChoice,
    anthropic_message,
    planted_answer,
    prompt_text,
)
from agentopt.testing.zoo_families import FAMILIES, Family
from agentopt.testing.zoo_rules import KEY, Refused, check_request, error_body

THOUGHT = "The sentences name many people, and one of them is in the question, so I look for that name and its place."
"""What the zoo's thinking models think before each answer."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request to the zoo, and what was answered.

    Attributes:
        family: Name of the family.
        body: The request's body.
        refused: The broken rule; None if the request was accepted.
        prompt_tokens: Tokens of the prompt in the response's usage; 0 if the request was refused.
        completion_tokens: Tokens of the choices, as `prompt_tokens`.
        texts: Texts of the choices.
    """

    family: str
    body: dict[str, Any]
    refused: Refused | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    texts: tuple[str, ...] = ()


def reading_answer(body: dict[str, Any], index: int) -> str | None:
    """Answer the quickstart task's prompts from their sentences, and other prompts as `planted_answer` does."""
    prompt = prompt_text(body)
    if asked := re.search(r"In which town does (\w+) live\?", prompt):
        found = re.search(rf"\b{asked[1]} lives in (\w+)", prompt)
    elif asked := re.search(r"What is the name of the (\w+)\?", prompt):
        found = re.search(rf"\bThe {asked[1]} (\w+)", prompt)
    else:
        return planted_answer()({"model": "zoo", **body}, index)
    return found[1] if found else "unknown"


class Zoo(LoopbackServer):
    """All families on one port, each below its own path. Use it in `async with Zoo() as zoo`.

    Args:
        answer: Answer function; `reading_answer` by default.
        families: The families.
        options: Further arguments of `LoopbackServer`.

    Attributes:
        exchanges: All requests and what was answered, in the order of the responses.
    """

    def __init__(self, answer: Answer | None = None, *, families: Iterable[Family] = FAMILIES, **options: Any) -> None:
        super().__init__(answer or reading_answer, **options)
        self._families = {family.path: family for family in families}
        self.routes = tuple(self._families)
        self.exchanges: list[Exchange] = []

    def base_url(self, family: Family) -> str:
        """Base URL of a family's endpoint."""
        return self.url + family.base_path

    async def _respond(self, request: web.Request, body: dict[str, Any], fault: Fault | None) -> web.StreamResponse:
        if fault is not None:
            return await super()._respond(request, body, fault)
        family = self._families[request.path]
        headers = {name.lower(): value for name, value in request.headers.items()}
        if refused := check_request(family, headers, dict(request.query), body):
            self.exchanges.append(Exchange(family.name, body, refused))
            return web.json_response(error_body(family, refused), status=refused.status)
        spoken = _chat_form(body)
        if family.most_choices in (0, 1):
            spoken["n"] = 1
        choices = [_with_thought(family, choice, spoken.get("max_tokens")) for choice in self._choices(spoken)]
        prompt, completion = count_tokens(prompt_text(spoken)), sum(choice.tokens for choice in choices)
        texts = tuple(choice.text or "" for choice in choices)
        self.exchanges.append(Exchange(family.name, body, None, prompt, completion, texts))
        answer = _RESPONSES[family.dialect](family, body, choices, prompt)
        return await _streamed(request, answer) if body.get("stream") else web.json_response(answer)

    def _completion(self, path: str, body: dict[str, Any], choices: list[SentChoice]) -> dict[str, Any]:
        return _chat(self._families[path], body, choices, count_tokens(prompt_text(body)))


def _chat_form(body: dict[str, Any]) -> dict[str, Any]:
    """Return a request of any protocol with the fields that answers and limits are taken from."""
    spoken = dict(body)
    if "input" in body:
        given = body["input"]
        spoken["messages"] = [{"role": "user", "content": given}] if isinstance(given, str) else _parts(given)
        spoken["system"] = body.get("instructions")
    spoken["messages"] = [{**message, "content": message.get("content") or ""} for message in spoken["messages"]]
    limits = ("max_tokens", "max_completion_tokens", "max_output_tokens")
    spoken["max_tokens"] = next((body[name] for name in limits if body.get(name)), None)
    return spoken


def _parts(given: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [part for part in given if "role" in part]


def _with_thought(family: Family, choice: SentChoice, max_tokens: int | None) -> SentChoice:
    """Count the thought before the answer; a thought that does not fit leaves no answer."""
    if family.thoughts == "none":
        return choice
    tokens = count_tokens(THOUGHT) + choice.tokens
    if max_tokens is not None and tokens > max_tokens:
        return SentChoice(None, max_tokens, "length")
    return SentChoice(choice.text, tokens, choice.finish_reason)


def _chat(family: Family, body: dict[str, Any], choices: list[SentChoice], prompt: int) -> dict[str, Any]:
    counted = choices[:1] if family.usage_of_one else choices
    completion = sum(choice.tokens for choice in counted)
    usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
    usage["total_tokens"] = prompt + completion
    if family.thoughts in ("hidden", "reasoning_content"):
        thought = min(count_tokens(THOUGHT) * len(counted), completion)
        usage["completion_tokens_details"] = {"reasoning_tokens": thought}
    shown = [
        {"index": index, "message": _message(family, choice), "finish_reason": choice.finish_reason}
        for index, choice in enumerate(choices)
    ]
    head = {"id": "chatcmpl-zoo", "object": "chat.completion", "created": 0, "model": body.get("model", "")}
    timings = {"timings": {"predicted_n": completion}} if family.usage_of_one else {}
    return {**head, "choices": shown, "usage": usage, **timings}


def _message(family: Family, choice: SentChoice) -> dict[str, Any]:
    content: Any = choice.text
    if family.thoughts == "think":
        end = "" if choice.text is None else f"\n</think>\n\n{choice.text}"
        content = f"<think>\n{THOUGHT}{end}"
    elif family.content_parts and choice.text is not None:
        content = [{"type": "text", "text": choice.text}]
    message = {"role": "assistant", "content": content}
    if family.thoughts in ("reasoning", "reasoning_content"):
        message[family.thoughts] = THOUGHT
    return message


def _messages(family: Family, body: dict[str, Any], choices: list[SentChoice], prompt: int) -> dict[str, Any]:
    return anthropic_message(body["model"], choices[0], prompt)


def _responses(family: Family, body: dict[str, Any], choices: list[SentChoice], prompt: int) -> dict[str, Any]:
    choice = choices[0]
    is_cut = choice.finish_reason == "length"
    text = {"type": "output_text", "text": choice.text or "", "annotations": []}
    said = {"type": "message", "id": "msg_zoo", "role": "assistant", "status": "completed", "content": [text]}
    output: list[dict[str, Any]] = [{"type": "reasoning", "id": "rs_zoo", "summary": []}]
    usage = {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": choice.tokens,
        "output_tokens_details": {"reasoning_tokens": min(count_tokens(THOUGHT), choice.tokens)},
        "total_tokens": prompt + choice.tokens,
    }
    return {
        "id": "resp_zoo",
        "object": "response",
        "created_at": 0,
        "model": body["model"],
        "status": "incomplete" if is_cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "error": None,
        "output": output if is_cut else [*output, said],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage,
    }


_RESPONSES = {"chat": _chat, "messages": _messages, "responses": _responses}


async def _streamed(request: web.Request, answer: dict[str, Any]) -> web.StreamResponse:
    """Send a chat completion as server-sent events: each text in two parts, then the usage."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    head = {**answer, "object": "chat.completion.chunk", "choices": [], "usage": None}
    for choice in answer["choices"]:
        for part in _deltas(choice):
            await _send(response, {**head, "choices": [part]})
    await _send(response, {**head, "usage": answer["usage"]})
    await response.write(b"data: [DONE]\n\n")
    return response


def _deltas(choice: dict[str, Any]) -> Iterable[dict[str, Any]]:
    index = choice["index"]
    for key in ("reasoning_content", "reasoning", "content"):
        text = choice["message"].get(key)
        if isinstance(text, str):
            half = len(text) // 2
            for part in (text[:half], text[half:]):
                yield {"index": index, "delta": {key: part}, "finish_reason": None}
    yield {"index": index, "delta": {}, "finish_reason": choice["finish_reason"]}


async def _send(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


def example_entries(examples: str, zoo: Zoo) -> dict[str, dict[str, Any]]:
    """Return the example entry of each family with the zoo's address.

    Args:
        examples: Text of `configs/models.yaml`, whose entries are comments.
        zoo: The server.

    Returns:
        Name of the family -> fields of the entry.
    """
    _, body = examples.split("\nmodels:\n")
    entries = parse_yaml("".join(f"{line[1:]}\n" for line in body.splitlines()), "examples", CatalogError)
    return {family.name: {**entries[family.example], "base_url": zoo.base_url(family)} for family in FAMILIES}


@contextmanager
def running_zoo(**options: Any) -> Iterator[Zoo]:
    """Run a zoo in a thread, for callers that block, such as `agentopt.optimize`.

    Args:
        options: Arguments of `Zoo`.
    """
    started: Future[Zoo] = Future()
    ended = threading.Event()

    async def run() -> None:
        async with Zoo(**options) as zoo:
            started.set_result(zoo)
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    try:
        yield started.result(timeout=60)
    finally:
        ended.set()
        thread.join(timeout=60)


async def _serve(port: int) -> None:
    async with Zoo(port=port) as zoo:
        lines = [f"{family.name:17} {zoo.base_url(family)}" for family in FAMILIES]
        sys.stdout.write("\n".join([*lines, f"API key: {KEY}", ""]))
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(prog="python -m agentopt.testing.zoo", description=__doc__)
    _parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    asyncio.run(_serve(_parser.parse_args().port))
