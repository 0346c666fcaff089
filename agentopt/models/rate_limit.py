"""Owns how fast one model is asked: calls in flight, requests per minute, and pauses the provider asked for.

Own code rather than `aiolimiter`: that one reads the event loop's clock only, lets newcomers overtake those that
wait, and cannot be paused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager


class RateLimiter:
    """At most `concurrency` slots at once, and at most `requests_per_minute`, rounded up, entered in any 60 seconds.

    Slots are granted first come, first served. Entries are spaced evenly (a leaky bucket) after a burst of one
    second's worth, at least one. `clock` is in seconds, monotonic. One instance belongs to one event loop.
    """

    def __init__(
        self,
        concurrency: int,
        requests_per_minute: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._free = asyncio.Semaphore(concurrency)
        self._turn = asyncio.Lock()
        self._burst = max(1, int((requests_per_minute or 0) // 60))
        # A burst comes on top of what the spacing lets through, so the spacing makes up for it.
        self._spacing = 60 / (requests_per_minute - self._burst + 1) if requests_per_minute else 0.0
        self._next_even_entry = self._paused_until = clock()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a turn, then hold one of the slots inside the block."""
        async with self._free:
            async with self._turn:
                await self._wait_for_entry()
            yield

    def pause(self, seconds: float) -> None:
        """Let nobody in for `seconds` from now; a pause that ends later already stays as it is."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    async def _wait_for_entry(self) -> None:
        # A pause may be asked for during the sleep, so look again after it.
        while (wait := self._entry_allowed_at() - self._clock()) > 0:
            await self._sleep(wait)
        self._next_even_entry = max(self._next_even_entry, self._clock()) + self._spacing

    def _entry_allowed_at(self) -> float:
        return max(self._next_even_entry - (self._burst - 1) * self._spacing, self._paused_until)
