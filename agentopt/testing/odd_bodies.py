"""Generates bodies that no well-behaved endpoint sends, with what each is to be charged at, and calls that get them."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aiohttp import web

from agentopt.core.budget import Caps
from agentopt.core.errors import ModelError
from agentopt.models.base import Message, Request
from agentopt.models.catalog import Catalog, ModelSpec
from agentopt.models.charging import worst_case
from agentopt.models.session import Session, open_session

Bill = tuple[int, int] | Literal["worst", "nothing"]
"""Prompt and completion tokens that the usage reports; `worst`: they are unknown, so that a run with a cap charges the
worst case; `nothing`: a refusal, which costs a call and no tokens."""

DEPTH = 100_000
"""Nesting that no JSON parser takes."""
LONG = "word " * 50_000


@dataclass(frozen=True, slots=True)
class OddBody:
    """One response.

    Attributes:
        kind: The part that is odd in each body of its kind; the other parts may be odd, too.
        name: What is odd about it.
        status: HTTP status.
        headers: Headers of the response.
        content: The body as it is sent.
        bill: What the call is charged at.
    """

    kind: str
    name: str
    status: int
    headers: Mapping[str, str]
    content: bytes
    bill: Bill


CONTENTS: Mapping[str, Any] = {
    "text": "yes",
    "null": None,
    "number": 5,
    "object": {"text": "yes"},
    "parts": [{"type": "text", "text": "y"}, "es", None, 7, {"type": "image_url"}, {"text": ["nested"]}],
    "deep parts": [{"type": "text", "content": [{"text": [{"content": [{"text": "yes"}]}]}]}],
    "surrogate": "half an emoji \ud83d",
    "controls": "\x00\x1b[31m\u202e\ufeff",
    "open thought": "<think>I think",
    "closed thought": "<think></think></think>yes</think>",
    "long": LONG,
}
USAGES: Mapping[str, tuple[Any, tuple[int, int] | None]] = {
    "plain": ({"prompt_tokens": 20, "completion_tokens": 5}, (20, 5)),
    "as floats": ({"prompt_tokens": 20.0, "completion_tokens": 5.0}, (20, 5)),
    "zero": ({"prompt_tokens": 0, "completion_tokens": 0}, (0, 0)),
    "above the limit": ({"prompt_tokens": 7000, "completion_tokens": 9000}, (7000, 9000)),
    "other names": ({"input_tokens": 20, "output_tokens": 5}, (20, 5)),
    "with odd details": (
        {"prompt_tokens": 20, "completion_tokens": 5, "prompt_tokens_details": 3, "completion_tokens_details": []},
        (20, 5),
    ),
    "absent": (..., None),
    "null": (None, None),
    "empty": ({}, None),
    "a list": ([20, 5], None),
    "texts": ({"prompt_tokens": "20", "completion_tokens": "5"}, None),
    "negative": ({"prompt_tokens": -20, "completion_tokens": -5}, None),
    "huge": ({"prompt_tokens": 10**30, "completion_tokens": 10**30}, None),
    "not finite": ({"prompt_tokens": float("nan"), "completion_tokens": float("inf")}, None),
    "booleans": ({"prompt_tokens": True, "completion_tokens": False}, None),
    "half": ({"prompt_tokens": 20}, None),
}
ENVELOPES: Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "plain": lambda body: body,
    "reversed": lambda body: dict(reversed(body.items())),
    "unknown keys": lambda body: {"x": {"y": [None] * 9}, **body, "id": 7, "model": None},
    "no choices": lambda body: {**body, "choices": []},
    "choices null": lambda body: {**body, "choices": None},
    "choices an object": lambda body: {**body, "choices": {"0": 1}},
    "choice a text": lambda body: {**body, "choices": ["yes"]},
    "message a text": lambda body: {**body, "choices": [{"message": "yes"}]},
    "message null": lambda body: {**body, "choices": [{"message": None, "text": "yes"}]},
    "many choices": lambda body: {**body, "choices": body["choices"] * 50},
    "odd reason": lambda body: {**body, "choices": [{**body["choices"][0], "finish_reason": {"a": 1}}]},
    "odd tool calls": lambda body: {
        **body,
        "choices": [{"message": {"content": None, "tool_calls": [None, {"function": 3}, "x"]}}],
    },
}
ENCODINGS: Mapping[str, tuple[Callable[[str], bytes], Mapping[str, str], bool]] = {
    "utf-8": (lambda text: text.encode(errors="replace"), {}, True),
    "with a byte order mark": (lambda text: text.encode("utf-8-sig", errors="replace"), {}, True),
    "utf-16": (lambda text: text.encode("utf-16", errors="replace"), {}, True),
    "bytes that are no UTF-8": (lambda text: text.replace("yes", "y\u00e9s").encode("latin-1", "replace"), {}, True),
    "gzip": (lambda text: gzip.compress(text.encode(errors="replace"), mtime=0), {"Content-Encoding": "gzip"}, True),
    "not the gzip it claims": (lambda text: text.encode(errors="replace"), {"Content-Encoding": "gzip"}, False),
    "as a page": (lambda text: text.encode(errors="replace"), {"Content-Type": "text/html"}, True),
    "surrounded by space": (lambda text: f"\r\n \t{text}\n\n".encode(errors="replace"), {}, True),
    "cut off": (lambda text: text.encode(errors="replace")[: len(text) // 2], {}, False),
    "twice": (lambda text: (text + text).encode(errors="replace"), {}, False),
    "empty": (lambda _: b"", {}, False),
    "noise": (lambda text: random.Random(len(text)).randbytes(500), {}, False),
    "deep": (lambda _: b"[" * DEPTH, {}, False),
    "deep usage": (lambda _: b'{"usage": ' * DEPTH, {}, False),
    "not an object": (lambda _: b'["yes"]', {}, False),
    "a page": (lambda _: b"<html><body>upstream</body></html>", {"Content-Type": "text/html"}, False),
}
"""Name -> the encoder, headers, and whether the body can be read."""
KINDS = ("content", "usage", "envelope", "encoding", "status", "error object")
"""In turn, one body of each."""
STATUSES = (400, 404, 418, 500, 503, 302)


def odd_bodies(count: int = 200, *, seed: int = 0) -> list[OddBody]:
    """Return `count` bodies, the same for the same seed.

    Every content, usage, envelope, encoding and status occurs; the combinations are random.

    Args:
        count: Number of bodies.
        seed: Seed of the combinations.
    """
    draw = random.Random(seed)
    return [_odd_body(index, draw) for index in range(count)]


def _odd_body(index: int, draw: random.Random) -> OddBody:
    kind, turn = KINDS[index % len(KINDS)], index // len(KINDS)

    def pick(of: str, names: Sequence[str]) -> str:
        # One part of each body in turn, so that each option occurs; the others are mostly plain.
        return names[turn % len(names)] if kind == of or draw.random() < 0.2 else names[0]

    content, usage = pick("content", list(CONTENTS)), pick("usage", list(USAGES))
    envelope, encoding = pick("envelope", list(ENVELOPES)), pick("encoding", list(ENCODINGS))
    name = f"{index}: content {content}, usage {usage}, envelope {envelope}, encoding {encoding}"
    message = {"role": "assistant", "content": CONTENTS[content]}
    body: dict[str, Any] = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    reported, counted = USAGES[usage]
    if reported is not ...:
        body["usage"] = reported
    if kind == "status":
        status = STATUSES[turn % len(STATUSES)]
        return OddBody(kind, f"{name}, status {status}", status, {}, _encoded(encoding, body)[0], "nothing")
    if kind == "error object":
        body = {"error": draw.choice(["no", {"message": "no"}, {"message": None, "code": 7}, ["no"]])} | (
            {"usage": reported} if counted else {}
        )
        sent, headers, is_readable = _encoded(encoding, body)
        return OddBody(kind, f"{name}, error", 200, headers, sent, (counted or "nothing") if is_readable else "worst")
    sent, headers, is_readable = _encoded(encoding, ENVELOPES[envelope](body))
    return OddBody(kind, name, 200, headers, sent, counted if counted and is_readable else "worst")


def _encoded(encoding: str, body: dict[str, Any]) -> tuple[bytes, Mapping[str, str], bool]:
    encode, headers, is_readable = ENCODINGS[encoding]
    # Escapes keep lone surrogates in bodies of any encoding.
    return encode(json.dumps(body)), headers, is_readable


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one call.

    Attributes:
        body: The response.
        raised: The exception that the call raised; None if it returned its choices.
        calls: Calls that were charged.
        received: Requests that the server received.
        charged: Prompt and completion tokens that were charged.
        counted: Those that the server counted. Without a readable usage, those of the worst case.
    """

    body: OddBody
    raised: BaseException | None
    calls: int
    received: int
    charged: tuple[int, int]
    counted: tuple[int, int]

    @property
    def is_right(self) -> bool:
        """Whether nothing but a `ModelError` was raised, and what was charged is what the server counted."""
        is_ours = self.raised is None or isinstance(self.raised, ModelError)
        return is_ours and (self.calls, self.charged) == (self.received, self.counted)


async def outcomes(bodies: Sequence[OddBody], journal: Path) -> list[Outcome]:
    """Make one call for each body, to a loopback server that sends it as its response.

    Args:
        bodies: The bodies.
        journal: File of the journal.
    """
    requests: Counter[str] = Counter()
    found = []
    async with _sending(bodies, requests) as url:
        # One entry for each body: what is found about one endpoint does not change the requests to another.
        catalog = Catalog({str(i): _entry(str(i), url) for i in range(len(bodies))})
        caps = Caps(tokens=10**9, usd=10**6)
        async with open_session(catalog, "odd bodies", caps=caps, journal=str(journal)) as session:
            for name, body in zip(catalog, bodies, strict=True):
                request = Request(name, (Message("user", f"question {name}"),), 50)
                before = session.budget.spent
                raised = await _raised(session, request)
                spent = session.budget.spent - before
                charged, counted = (
                    (spent.prompt_tokens, spent.completion_tokens),
                    _counted(body, request, catalog[name]),
                )
                found.append(Outcome(body, raised, spent.calls, requests[name], charged, counted))
    return found


def _entry(name: str, url: str) -> ModelSpec:
    return ModelSpec(name=name, base_url=url, usd_per_1m_prompt=1, usd_per_1m_completion=2, max_attempts=1)


@asynccontextmanager
async def _sending(bodies: Sequence[OddBody], requests: Counter[str]) -> AsyncIterator[str]:
    """Base URL of a server that sends the body whose index is the model's name, and counts the requests."""

    async def respond(request: web.Request) -> web.Response:
        model = (await request.json())["model"]
        requests[model] += 1
        body = bodies[int(model)]
        location = {"Location": "/elsewhere"} if body.status == 302 else {}
        headers = {"Content-Type": "application/json", **body.headers, **location}
        return web.Response(status=body.status, body=body.content, headers=headers)

    app = web.Application()
    app.add_routes([web.post("/v1/chat/completions", respond)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def _raised(session: Session, request: Request) -> BaseException | None:
    """What a call raises, or the encoding of its texts."""

    async def call() -> None:
        for choice in (await session.model.generate(request)).choices:
            choice.text.encode()

    (raised,) = await asyncio.gather(call(), return_exceptions=True)
    return raised


def _counted(body: OddBody, request: Request, spec: ModelSpec) -> tuple[int, int]:
    worst = worst_case(request, spec)
    if body.bill == "worst":
        return worst.prompt_tokens, worst.completion_tokens
    return (0, 0) if body.bill == "nothing" else body.bill
