"""Generates bodies that no well-behaved endpoint sends, with what each is to be charged at."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
        name: What is odd about it.
        status: HTTP status.
        headers: Headers of the response.
        content: The body as it is sent.
        bill: What the call is charged at.
    """

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
    def pick(names: Sequence[str], *, step: int) -> str:
        # One part of each body in turn, so that each option occurs; the others are mostly plain.
        return names[index // 6 % len(names)] if index % 6 == step or draw.random() < 0.2 else names[0]

    content, usage = pick(list(CONTENTS), step=0), pick(list(USAGES), step=1)
    envelope, encoding = pick(list(ENVELOPES), step=2), pick(list(ENCODINGS), step=3)
    name = f"{index}: content {content}, usage {usage}, envelope {envelope}, encoding {encoding}"
    message = {"role": "assistant", "content": CONTENTS[content]}
    body: dict[str, Any] = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    reported, counted = USAGES[usage]
    if reported is not ...:
        body["usage"] = reported
    if index % 6 == 4:
        status = STATUSES[index // 6 % len(STATUSES)]
        return OddBody(f"{name}, status {status}", status, {}, _encoded(encoding, body)[0], "nothing")
    if index % 6 == 5:
        body = {"error": draw.choice(["no", {"message": "no"}, {"message": None, "code": 7}, ["no"]])} | (
            {"usage": reported} if counted else {}
        )
        sent, headers, is_readable = _encoded(encoding, body)
        return OddBody(f"{name}, error", 200, headers, sent, (counted or "nothing") if is_readable else "worst")
    sent, headers, is_readable = _encoded(encoding, ENVELOPES[envelope](body))
    return OddBody(name, 200, headers, sent, counted if counted and is_readable else "worst")


def _encoded(encoding: str, body: dict[str, Any]) -> tuple[bytes, Mapping[str, str], bool]:
    encode, headers, is_readable = ENCODINGS[encoding]
    # Escapes keep lone surrogates in bodies of any encoding.
    return encode(json.dumps(body)), headers, is_readable
