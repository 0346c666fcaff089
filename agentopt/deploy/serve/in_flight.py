"""The calls that are being answered: how many, whose, and until when."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from agentopt.core.errors import ApiError
from agentopt.deploy.serve.limits import ServerLimits

T = TypeVar("T")


class InFlight:
    """Counts calls, and ends those whose client left, and all at the server's deadline.

    Args:
        limits: The limits.
        on_change: Called with the number of calls.
    """

    def __init__(self, limits: ServerLimits, on_change: Callable[[int], object] = lambda _: None) -> None:
        self._limits, self._on_change = limits, on_change
        self._count = 0
        self._by_key = Counter[str]()
        self._ended = asyncio.Event()

    @contextmanager
    def place(self, key: str) -> Iterator[None]:
        """Count one call inside the block.

        Args:
            key: Identifies the caller's API key.

        Raises:
            ApiError: There are too many calls, or too many with this key.
        """
        most, per_key = self._limits.in_flight, self._limits.per_key
        if self._count >= most:
            message = f"too many concurrent calls; at most {most} are answered"
            raise ApiError(503, message, type="server_error", code="overloaded", headers={"Retry-After": "1"})
        if per_key is not None and self._by_key[key] >= per_key:
            message = f"too many concurrent calls with this API key; at most {per_key} are answered"
            kind = "rate_limit_exceeded"
            raise ApiError(429, message, type=kind, code=kind, headers={"Retry-After": "1"})
        self._add(key, 1)
        try:
            yield
        finally:
            self._add(key, -1)

    async def run(self, work: Coroutine[Any, Any, T], gone: Awaitable[None]) -> T:
        """Return the result of `work`, which is cancelled if nobody can receive it any more.

        Args:
            work: Answers a call.
            gone: Completes when the client has left.

        Raises:
            ApiError: The client left (499), or the server ends (503).
        """
        answering = asyncio.ensure_future(work)
        left, ended = asyncio.ensure_future(gone), asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait((answering, left, ended), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                return answering.result()
            raise _client_left() if left.done() else _ending()
        finally:
            for task in (answering, left, ended):
                task.cancel()
            await asyncio.gather(answering, left, return_exceptions=True)

    def end(self) -> None:
        """End all calls."""
        self._ended.set()

    def _add(self, key: str, change: int) -> None:
        self._count += change
        self._by_key[key] += change
        if not self._by_key[key]:
            del self._by_key[key]
        self._on_change(self._count)


def _client_left() -> ApiError:
    message = "the client left before the answer; no further model call is made"
    return ApiError(499, message, code="client_closed_request")


def _ending() -> ApiError:
    message = "the server ends before the answer; the model calls that were sent are billed"
    return ApiError(503, message, type="server_error", code="shutting_down", headers={"Retry-After": "1"})
