"""Loopback servers that implement a provider's protocol, count requests, and fail on demand.

`OpenAIServer` implements the OpenAI protocol (chat completions, completions, models), `AnthropicServer` the Anthropic
messages protocol. Both are async context managers on a free port of 127.0.0.1. Tokens are words. As a process,

    python -m agentopt.testing.servers --kind openai --port 0 --counter requests.jsonl --quality small=0.6

prints `listening on URL` and appends one JSON line per request to the counter file (see `Received`).
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from aiohttp import web

from agentopt.models.scripted import count_tokens
from agentopt.testing.faults import BREAKAGES, STATUS_OF_KIND, Fault, FaultKind, Faults

Answer = Callable[[dict[str, Any], int], str | None]
"""`answer(body, choice_index)` returns the text of one choice, None for null. It must be a pure function."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request that a server received."""

    body: dict[str, Any]
    """The parsed body."""
    headers: Mapping[str, str]
    """Headers of the request."""
    arrived: float
    """Time of arrival in seconds of a monotonic clock."""
    outcome: str
    """`ok`, or the fault."""

    @property
    def n(self) -> int:
        """Number of requested choices."""
        return int(self.body.get("n") or 1)

    @property
    def seed(self) -> int:
        """Seed of the first choice; 0 if the request has none."""
        return int(self.body.get("seed") or 0)

    @property
    def key(self) -> str:
        """Hash of the body without `n` and `seed`: the returned choices are (key, seed), (key, seed + 1), ..."""
        question = {name: value for name, value in self.body.items() if name not in ("n", "seed")}
        return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:16]

    def as_line(self) -> str:
        """Return the line of the counter file, in JSON."""
        line = {"arrived": self.arrived, "key": self.key, "model": self.body.get("model")}
        return json.dumps({**line, "n": self.n, "seed": self.seed, "outcome": self.outcome}) + "\n"


def planted_answer(quality: Mapping[str, float] | None = None, *, seed: int = 0) -> Answer:
    """Build an answer function that returns the text in the prompt's last `[[...]]`, with errors at a planted rate.

    Answers are a pure function of `seed`, the messages, the model, and the request's seed plus the choice index.

    Args:
        quality: Model -> probability of a correct answer; 1 for models that are not listed.
        seed: Seed of the errors.

    Returns:
        The answer function. Wrong answers are `wrong-0` to `wrong-3`, so that a vote helps; a prompt without `[[...]]`
        gets `answer-0` to `answer-3`.
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
    """Return system prompt and messages of a request of either protocol as one text."""
    if "prompt" in body:
        return str(body["prompt"])
    parts = [body["system"]] if body.get("system") else []
    return "\n".join(_content_text(part) for part in parts + [m["content"] for m in body["messages"]])


def _content_text(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(str(block.get("text", "")) for block in content)


@dataclass(frozen=True, slots=True)
class SentChoice:
    """One choice of a response, cut after `max_tokens` words as a model's would be."""

    text: str | None
    tokens: int
    finish_reason: str

    @classmethod
    def within(cls, text: str | None, max_tokens: int | None) -> SentChoice:
        """Return the choice with `text`, cut after `max_tokens` words."""
        if text is None:
            return cls(None, 0, "stop")
        words = text.split()
        if max_tokens is None or len(words) <= max_tokens:
            return cls(text, len(words), "stop")
        return cls(" ".join(words[:max_tokens]), max_tokens, "length")


def anthropic_message(model: str, choice: SentChoice, prompt_tokens: int) -> dict[str, Any]:
    """The body of a response of Anthropic's messages API.

    Args:
        model: Name of the model.
        choice: The text and the finish reason.
        prompt_tokens: Tokens of the prompt, for the usage.
    """
    return {
        "id": "loopback",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": choice.text or ""}],
        "stop_reason": "max_tokens" if choice.finish_reason == "length" else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": prompt_tokens, "output_tokens": choice.tokens},
    }


class LoopbackServer(ABC):
    """Base class of the servers: receives, counts and fails. Use a subclass in `async with ... as server`.

    Args:
        answer: Answer function; `planted_answer()` by default.
        faults: Which requests fail, and how.
        delay: Duration of every call in seconds.
        api_key: Key that every request must have; None accepts any.
        port: Port to bind; 0 picks a free one.
        counter: File that gets one line per request.

    Attributes:
        requests: All requests received.
        outcomes: Number of requests by outcome.
        in_flight: Number of requests in progress.
        max_in_flight: Largest number of concurrent requests so far.
        choices: Choices returned so far.
        prompt_tokens: Prompt tokens of the answered requests.
        completion_tokens: Completion tokens of all choices.
    """

    routes: Sequence[str]
    """Paths that are answered by POST."""
    max_choices: int | None = None
    """Most choices per request; None for no limit."""

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
        """Number of requests received, including failed ones."""
        return len(self.requests)

    @property
    def url(self) -> str:
        """Address of the server, without a path."""
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 2**20)
        app.add_routes([web.post(route, self._handle) for route in self.routes])
        app.add_routes([web.get("/v1/models", self._models)])
        # A handler is cancelled when its client disconnects, so a hang ends with its client.
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
            return web.json_response(self._completion(request.path, body, self._choices(body)))
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

    def _choices(self, body: dict[str, Any]) -> list[SentChoice]:
        count = min(int(body.get("n") or 1), self.max_choices or sys.maxsize)
        max_tokens = body.get("max_tokens") or body.get("max_completion_tokens")
        choices = [SentChoice.within(self._answer(body, index), max_tokens) for index in range(count)]
        self.choices += count
        self.prompt_tokens += count_tokens(prompt_text(body))
        self.completion_tokens += sum(choice.tokens for choice in choices)
        return choices

    @abstractmethod
    def _completion(self, path: str, body: dict[str, Any], choices: list[SentChoice]) -> dict[str, Any]:
        """Return the body of a successful response in the server's protocol."""


class OpenAIServer(LoopbackServer):
    """A server with the OpenAI protocol.

    Args:
        answer: Answer function; `planted_answer()` by default.
        usage: Which completion tokens `usage` counts: those of all choices, of the first choice only (as llama.cpp
            does), or none at all.
        options: Further arguments of `LoopbackServer`.
    """

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
        """Base URL for clients."""
        return f"{self.url}/v1"

    def _completion(self, path: str, body: dict[str, Any], choices: list[SentChoice]) -> dict[str, Any]:
        is_chat = path.endswith("/chat/completions")
        shown = [
            {
                "index": index,
                "finish_reason": choice.finish_reason,
                **({"message": {"role": "assistant", "content": choice.text}} if is_chat else {"text": choice.text}),
            }
            for index, choice in enumerate(choices)
        ]
        head = {"id": "loopback", "created": 0, "model": body["model"], "choices": shown}
        head["object"] = "chat.completion" if is_chat else "text_completion"
        return head if self._usage == "none" else {**head, "usage": self._usage_of(body, choices)}

    def _usage_of(self, body: dict[str, Any], choices: list[SentChoice]) -> dict[str, int]:
        counted = choices[:1] if self._usage == "one_choice" else choices
        prompt, completion = count_tokens(prompt_text(body)), sum(choice.tokens for choice in counted)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class AnthropicServer(LoopbackServer):
    """A server with the Anthropic messages protocol: one choice per call, no seed."""

    routes = ("/v1/messages",)
    max_choices = 1

    @property
    def base_url(self) -> str:
        """Base URL for clients."""
        return self.url

    def _completion(self, path: str, body: dict[str, Any], choices: list[SentChoice]) -> dict[str, Any]:
        return anthropic_message(body["model"], choices[0], count_tokens(prompt_text(body)))


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
