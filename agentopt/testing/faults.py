"""Planted faults of the loopback servers: which requests fail, and how."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from aiohttp import web

FaultKind = Literal["rate_limit", "server_error", "hang", "drop", "drop_mid_body", "not_json", "no_choices"]
Fault = FaultKind | int
"""The failure of one request; an int is returned as that HTTP status."""

STATUS_OF_KIND: Mapping[Fault, int] = {"rate_limit": 429, "server_error": 500}


@dataclass(frozen=True, slots=True)
class Faults:
    """Which requests fail, and how: first by a script, then at random."""

    rates: Mapping[Fault, float] = field(default_factory=dict)
    """Fault -> probability per request after the script; they sum to at most 1."""
    seed: int = 0
    """Seed of the random faults."""
    script: Sequence[Fault | None] = ()
    """Faults of the first requests in the order of arrival; None is no fault."""
    retry_after: float | str | None = 0.05
    """`Retry-After` header of status 429; None for no header."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of every HTTP error status."""
    message: str = "planted"
    """Text of error bodies, before the fault's name."""

    def of_request(self, index: int) -> Fault | None:
        """Return the fault of the request with this index, counted from 0 in the order of arrival."""
        if index < len(self.script):
            return self.script[index]
        left = random.Random(f"{self.seed}:{index}").random()
        for fault, rate in self.rates.items():
            left -= rate
            if left < 0:
                return fault
        return None

    def error_headers(self, status: int) -> dict[str, str]:
        """Return the headers of an error response with this HTTP status."""
        with_delay = status == 429 and self.retry_after is not None
        return {**self.headers, **({"Retry-After": str(self.retry_after)} if with_delay else {})}


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
