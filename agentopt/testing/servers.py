"""Loopback servers that speak a provider's protocol, count what they are asked, and fail on demand.

`OpenAIServer` speaks the OpenAI protocol (chat completions, completions, models), `AnthropicServer` the Anthropic
messages protocol. Both are async context managers on a free port of 127.0.0.1. Tokens are words. As a process:

    python -m agentopt.testing.servers --kind openai --port 0 --counter requests.jsonl --quality small=0.6

prints `listening on URL` and appends one JSON line to the counter file when a request arrives (see `Received`).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import re
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

from aiohttp import web

from agentopt.models.scripted import count_tokens

FaultKind = Literal["rate_limit", "server_error", "hang", "drop", "drop_mid_body", "not_json", "no_choices"]
Fault = FaultKind | int
"""What goes wrong with one request; an int is answered as that HTTP status."""

Answer = Callable[[dict[str, Any], int], str | None]
"""`answer(body, choice_index)`: the text of one choice, None for null. Pure, so that runs can be compared."""

STATUS_OF_KIND: Mapping[Fault, int] = {"rate_limit": 429, "server_error": 500}


@dataclass(frozen=True, slots=True)
class Faults:
    """Which requests fail, and how: `script` by order of arrival (None is no fault), then `rates` by seeded chance.

    `rates` are probabilities per request that sum to at most 1. `headers` go with every HTTP error status.
    """

    rates: Mapping[Fault, float] = field(default_factory=dict)
    seed: int = 0
    script: Sequence[Fault | None] = ()
    retry_after: float | str | None = 0.05
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "planted"
    """What error bodies say, before the fault's name."""

    def of_request(self, index: int) -> Fault | None:
        """The fault of the `index`-th request to arrive."""
        if index < len(self.script):
            return self.script[index]
        left = random.Random(f"{self.seed}:{index}").random()
        for fault, rate in self.rates.items():
            left -= rate
            if left < 0:
                return fault
        return None

    def error_headers(self, status: int) -> dict[str, str]:
        asks_to_wait = status == 429 and self.retry_after is not None
        return {**self.headers, **({"Retry-After": str(self.retry_after)} if asks_to_wait else {})}


@dataclass(frozen=True, slots=True)
class Received:
    """One request: its parsed body, when it arrived (seconds, monotonic), and `outcome`: "ok" or the fault.

    `key` names what is asked, without `n` and `seed`: the choices given are (key, seed), (key, seed + 1) ...
    """

    body: dict[str, Any]
    headers: Mapping[str, str]
    arrived: float
    outcome: str

    @property
    def n(self) -> int:
        return int(self.body.get("n") or 1)

    @property
    def seed(self) -> int:
        return int(self.body.get("seed") or 0)

    @property
    def key(self) -> str:
        asked = {name: value for name, value in self.body.items() if name not in ("n", "seed")}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]

    def as_line(self) -> str:
        line = {"arrived": self.arrived, "key": self.key, "model": self.body.get("model")}
        return json.dumps({**line, "n": self.n, "seed": self.seed, "outcome": self.outcome}) + "\n"


def planted_answer(quality: Mapping[str, float] | None = None, *, seed: int = 0) -> Answer:
    """Answers with the text in the prompt's last `[[...]]`, right with probability `quality[model]` (default 1).

    A pure function of `seed`, the messages, the model, and the request's seed plus the choice index. Wrong answers
    are one of `wrong-0` .. `wrong-3`, so that a vote helps; without a mark all are `answer-0` .. `answer-3`.
    """

    def answer(body: dict[str, Any], index: int) -> str:
        model, prompt = body["model"], prompt_text(body)
        draw = random.Random(json.dumps([seed, model, prompt, int(body.get("seed") or 0) + index]))
        marks = re.findall(r"\[\[(.*?)\]\]", prompt)
        right = draw.random() < (quality or {}).get(model, 1.0)
        if marks and right:
            return str(marks[-1])
        return f"{'wrong' if marks else 'answer'}-{draw.randrange(4)}"

    return answer


def prompt_text(body: Mapping[str, Any]) -> str:
    """Everything the model is told, as one text, in either protocol."""
    if "prompt" in body:
        return str(body["prompt"])
    parts = [body["system"]] if body.get("system") else []
    return "\n".join(_content_text(part) for part in parts + [m["content"] for m in body["messages"]])


def _content_text(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(str(block.get("text", "")) for block in content)


@dataclass(frozen=True, slots=True)
class Spoken:
    """One choice as it is sent: cut after `max_tokens` words, as a model would be."""

    text: str | None
    tokens: int
    finish_reason: str

    @classmethod
    def within(cls, text: str | None, max_tokens: int | None) -> Spoken:
        if text is None:
            return cls(None, 0, "stop")
        words = text.split()
        if max_tokens is None or len(words) <= max_tokens:
            return cls(text, len(words), "stop")
        return cls(" ".join(words[:max_tokens]), max_tokens, "length")


class LoopbackServer(ABC):
    """What both protocols share: receiving, counting, failing. Use a subclass, as `async with ... as server`.

    `delay` is the seconds every call takes. `api_key`, where given, is asked of every request. `counter` is a file
    that gets one line per request.
    """

    routes: Sequence[str]
    max_choices: int | None = None

    def __init__(
        self,
        answer: Answer | None = None,
        *,
        faults: Faults | None = None,
        delay: float = 0.0,
        api_key: str | None = None,
        port: int = 0,
        counter: Path | None = None,
    ) -> None:
        self.requests: list[Received] = []
        self.outcomes: Counter[str] = Counter()
        self.in_flight = self.max_in_flight = 0
        self.choices = self.prompt_tokens = self.completion_tokens = 0
        self._answer = answer or planted_answer()
        self._faults, self._delay, self._api_key = faults or Faults(), delay, api_key
        self._port, self._counter = port, counter

    @property
    def calls(self) -> int:
        """Requests received, failed ones too."""
        return len(self.requests)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 2**20)
        app.add_routes([web.post(route, self._handle) for route in self.routes])
        app.add_routes([web.get("/v1/models", self._models)])
        # Handlers are cancelled when their client goes away, so a hang ends with its client.
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=1024).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "loopback", "object": "model"}]})

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        fault = self._faults.of_request(self.calls)
        self._record(Received(body, dict(request.headers), asyncio.get_running_loop().time(), str(fault or "ok")))
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            if self._delay:
                await asyncio.sleep(self._delay)
            return await self._respond(request, body, fault)
        finally:
            self.in_flight -= 1

    def _record(self, received: Received) -> None:
        self.requests.append(received)
        self.outcomes[received.outcome] += 1
        if self._counter:
            with self._counter.open("a") as file:
                file.write(received.as_line())

    async def _respond(self, request: web.Request, body: dict[str, Any], fault: Fault | None) -> web.StreamResponse:
        if not self._authorised(request):
            return self._error(401, f"Incorrect API key provided: {self._key_sent(request)}")
        if fault is None:
            return web.json_response(self._completion(request.path, body, self._speak(body)))
        status = fault if isinstance(fault, int) else STATUS_OF_KIND.get(fault)
        if status is not None:
            return self._error(status, f"{self._faults.message} {fault}")
        return await BREAKAGES[str(fault)](request)

    def _key_sent(self, request: web.Request) -> str:
        return request.headers.get("x-api-key") or request.headers.get("Authorization", "").removeprefix("Bearer ")

    def _authorised(self, request: web.Request) -> bool:
        return self._api_key is None or self._key_sent(request) == self._api_key

    def _error(self, status: int, message: str) -> web.Response:
        body = {"type": "error", "error": {"type": f"error_{status}", "message": message, "code": str(status)}}
        return web.json_response(body, status=status, headers=self._faults.error_headers(status))

    def _speak(self, body: dict[str, Any]) -> list[Spoken]:
        count = min(int(body.get("n") or 1), self.max_choices or sys.maxsize)
        max_tokens = body.get("max_tokens") or body.get("max_completion_tokens")
        spoken = [Spoken.within(self._answer(body, index), max_tokens) for index in range(count)]
        self.choices += count
        self.prompt_tokens += count_tokens(prompt_text(body))
        self.completion_tokens += sum(choice.tokens for choice in spoken)
        return spoken

    @abstractmethod
    def _completion(self, path: str, body: dict[str, Any], spoken: list[Spoken]) -> dict[str, Any]:
        """The answer's body in the server's protocol."""


class OpenAIServer(LoopbackServer):
    """The OpenAI protocol. `usage`: counts over all choices, over the first one only (llama.cpp's way), or none."""

    routes = ("/v1/chat/completions", "/v1/completions")

    def __init__(
        self,
        answer: Answer | None = None,
        *,
        usage: Literal["all", "one_choice", "none"] = "all",
        **options: Any,
    ) -> None:
        super().__init__(answer, **options)
        self._usage = usage

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def _completion(self, path: str, body: dict[str, Any], spoken: list[Spoken]) -> dict[str, Any]:
        is_chat = path.endswith("/chat/completions")
        choices = [
            {
                "index": index,
                "finish_reason": choice.finish_reason,
                **({"message": {"role": "assistant", "content": choice.text}} if is_chat else {"text": choice.text}),
            }
            for index, choice in enumerate(spoken)
        ]
        head = {"id": "loopback", "created": 0, "model": body["model"], "choices": choices}
        head["object"] = "chat.completion" if is_chat else "text_completion"
        return head if self._usage == "none" else {**head, "usage": self._usage_of(body, spoken)}

    def _usage_of(self, body: dict[str, Any], spoken: list[Spoken]) -> dict[str, int]:
        counted = spoken[:1] if self._usage == "one_choice" else spoken
        prompt, completion = count_tokens(prompt_text(body)), sum(choice.tokens for choice in counted)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class AnthropicServer(LoopbackServer):
    """The Anthropic messages protocol: one choice a call, no seed."""

    routes = ("/v1/messages",)
    max_choices = 1

    @property
    def base_url(self) -> str:
        return self.url

    def _completion(self, path: str, body: dict[str, Any], spoken: list[Spoken]) -> dict[str, Any]:
        choice = spoken[0]
        return {
            "id": "loopback",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [{"type": "text", "text": choice.text or ""}],
            "stop_reason": "max_tokens" if choice.finish_reason == "length" else "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": count_tokens(prompt_text(body)), "output_tokens": choice.tokens},
        }


async def _hang(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError("a hang ends only by cancellation")


async def _drop(request: web.Request) -> web.StreamResponse:
    if request.transport:
        request.transport.abort()
    return web.Response()


async def _drop_mid_body(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"id": "loopback", "choices": [{"mess')
    if request.transport:
        request.transport.close()
    return response


async def _not_json(_: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>upstream is having a moment", content_type="application/json")


async def _no_choices(_: web.Request) -> web.StreamResponse:
    return web.json_response({"id": "loopback", "object": "chat.completion", "model": "loopback"})


BREAKAGES: Mapping[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
    "hang": _hang,
    "drop": _drop,
    "drop_mid_body": _drop_mid_body,
    "not_json": _not_json,
    "no_choices": _no_choices,
}


def _rate(text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    return name, float(value)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m agentopt.testing.servers", description=__doc__)
    parser.add_argument("--kind", choices=("openai", "anthropic"), default="openai")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--counter", type=Path, help="file that gets one JSON line per request")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that every call takes")
    parser.add_argument("--seed", type=int, default=0, help="of the answers and of the faults")
    parser.add_argument("--quality", type=_rate, action="append", default=[], metavar="MODEL=P")
    parser.add_argument(
        "--fault", type=_rate, action="append", default=[], metavar="KIND=P", help=str(get_args(FaultKind))
    )
    return parser.parse_args(argv)


async def _serve(arguments: argparse.Namespace) -> None:
    server_class = OpenAIServer if arguments.kind == "openai" else AnthropicServer
    server = server_class(
        planted_answer(dict(arguments.quality), seed=arguments.seed),
        faults=Faults(rates=dict(arguments.fault), seed=arguments.seed),
        delay=arguments.delay,
        port=arguments.port,
        counter=arguments.counter,
    )
    async with server:
        sys.stdout.write(f"listening on {server.base_url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(_arguments(None)))
