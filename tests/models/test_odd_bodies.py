"""Two hundred odd bodies through the client: none raises out of a call, and none is charged wrongly."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from agentopt.core.budget import Caps, Usage
from agentopt.core.errors import ModelError
from agentopt.models.base import Message, Request
from agentopt.models.catalog import ModelSpec
from agentopt.models.charging import worst_case
from agentopt.models.session import open_session
from tests.models.free_server import Answer, FreeServer

Random = random.Random
USAGE = {"prompt_tokens": 20, "completion_tokens": 5}
SCALARS: list[Any] = [None, True, -1, 0, 10**400, 1e308, float("nan"), "", "text", "\ud800", "\x00", "é" * 50, "🙂"]


def value(draw: Random, depth: int = 0) -> Any:
    """Any JSON value, a few levels deep."""
    kind = draw.randrange(4) if depth < 3 else 0
    if kind == 1:
        return [value(draw, depth + 1) for _ in range(draw.randrange(4))]
    if kind == 2:
        keys = ("content", "text", "type", "message", "error", "code", "function", "x")
        return {draw.choice(keys): value(draw, depth + 1) for _ in range(draw.randrange(4))}
    return draw.choice(SCALARS)


def completion_like(draw: Random) -> dict[str, Any]:
    """A completion with some of its values replaced."""
    message: dict[str, Any] = {"role": "assistant", "content": draw.choice(["yes", value(draw)])}
    for key in ("reasoning_content", "reasoning", "tool_calls", "refusal", "reasoning_details"):
        if draw.random() < 0.3:
            message[key] = value(draw)
    choice: dict[str, Any] = {"index": draw.choice([0, value(draw)]), "message": draw.choice([message, value(draw)])}
    if draw.random() < 0.5:
        choice["finish_reason"] = draw.choice(["stop", "length", value(draw)])
    body: dict[str, Any] = {"choices": draw.choice([[choice], [choice] * 3, value(draw)])}
    if draw.random() < 0.7:
        body["usage"] = draw.choice([USAGE, USAGE, value(draw)])
    if draw.random() < 0.2:
        body["error"] = value(draw)
    items = list(body.items())
    draw.shuffle(items)
    return dict(items)


def as_stream(body: dict[str, Any], draw: Random) -> bytes:
    lines = [f"data: {json.dumps(part)}\n\n" for part in (body, value(draw), body)]
    draw.shuffle(lines)
    return ("".join(lines) + draw.choice(["", "data: [DONE]\n\n", "data: "])).encode(errors="replace")


def nested(draw: Random) -> bytes:
    return b"[" * draw.choice([10, 2000, 200_000])


ENCODINGS: list[Callable[[dict[str, Any], Random], tuple[bytes, dict[str, str]]]] = [
    lambda body, _: (json.dumps(body).encode(), {}),
    lambda body, _: (json.dumps(body, ensure_ascii=False).encode(errors="surrogatepass"), {}),
    lambda body, _: (json.dumps(body).encode("utf-16"), {}),
    lambda body, draw: (json.dumps(body).encode()[: draw.randrange(200)], {}),
    lambda body, _: (gzip.compress(json.dumps(body).encode()), {"Content-Encoding": "gzip"}),
    lambda body, _: (json.dumps(body).encode(), {"Content-Encoding": "gzip"}),
    lambda body, draw: (as_stream(body, draw), {"Content-Type": "text/event-stream"}),
    lambda body, draw: (as_stream(body, draw), {}),
    lambda _, draw: (nested(draw), {}),
    lambda _, draw: (draw.randbytes(draw.choice([0, 1, 50, 5000])), {}),
    lambda body, _: (b"\xef\xbb\xbf" + json.dumps(body).encode(), {}),
    lambda body, _: (b"<html>" + json.dumps(body).encode(), {"Content-Type": "text/html"}),
]


def odd_answer(seed: int) -> Answer:
    draw = Random(seed)
    content, headers = draw.choice(ENCODINGS)(completion_like(draw), draw)
    return draw.choice([200, 200, 200, 200, 201, 400, 500]), content, headers


@pytest.mark.parametrize("start", [0, 100])
async def test_no_odd_body_raises_out_of_a_call_or_is_charged_wrongly(tmp_path: Path, start: int) -> None:
    async with FreeServer(lambda _, index: odd_answer(start + index)) as server:
        spec = ModelSpec(name="m", base_url=server.base_url, max_attempts=1, timeout_seconds=20)
        journal = str(tmp_path / "journal.db")
        async with open_session({"m": spec}, "run", caps=Caps(tokens=10**6), journal=journal) as session:
            while (sent := len(server.bodies)) < 100:
                request = Request("m", (Message("user", f"question {sent}"),), 16)
                before = session.budget.spent
                with suppress(ModelError):
                    for choice in (await session.model.generate(request)).choices:
                        (choice.text + choice.thought + choice.finish_reason).encode()
                spent, calls = session.budget.spent - before, len(server.bodies) - sent
                assert spent.calls == calls
                assert_charged(spent, worst_case(request, spec), calls)


def assert_charged(spent: Usage, worst: Usage, calls: int) -> None:
    """The usage that the body reports, the worst case of an unknown outcome, or nothing for a refusal."""
    reported = Usage(1, 20, 5)
    mixed = {Usage(1, prompt, completion) for prompt in (0, 20, worst.prompt_tokens) for completion in (0, 5, 16)}
    assert calls > 1 or spent in {Usage(1), reported, worst, *mixed}, spent
