"""Limits the calls of one model: concurrency, requests and tokens per minute, and pauses the provider requests.

Not `aiolimiter`: it reads only the event loop's clock, lets newcomers overtake waiting calls, and cannot be paused.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

WINDOW_SECONDS = 60.0
RAISE_AFTER = 2.0
"""The concurrency is raised by one after this many times the current concurrency of successful calls."""


@dataclass(eq=False, slots=True)
class Slot:
    """A call that was let in.

    Attributes:
        entered: When it was let in.
        tokens: Tokens that count against `tokens_per_minute`; set this to the actual number after the call.
        cuts: Number of cuts of the concurrency before it was let in.
    """

    entered: float
    tokens: float
    cuts: int


class RateLimiter:
    """Bounds concurrent calls, and in any 60 seconds the requests and tokens.

    Slots are granted in order of arrival. Entries are evenly spaced (a leaky bucket) after a burst of one second's
    worth, at least one. The concurrency adapts: `throttled` halves it, `succeeded` raises it slowly. An instance
    belongs to one event loop.

    Args:
        concurrency: Most concurrent calls.
        requests_per_minute: Most calls let in in any 60 seconds, rounded up.
        tokens_per_minute: Most tokens of the calls let in in any 60 seconds; a larger single call is let in alone.
        clock: Monotonic time in seconds.
        sleep: Waits for a number of seconds.
    """

    def __init__(
        self,
        concurrency: int,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._most = self.concurrency = concurrency
        self._active, self._successes, self._cuts = 0, 0, 0
        self._freed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._burst = max(1, int((requests_per_minute or 0) // 60))
        # A burst adds to what the spacing lets through, so the spacing compensates for it.
        self._spacing = 60 / (requests_per_minute - self._burst + 1) if requests_per_minute else 0.0
        self._tokens_per_minute = tokens_per_minute
        self._window: deque[Slot] = deque()
        self._next_even_entry = self._paused_until = clock()

    @asynccontextmanager
    async def slot(self, tokens: float = 0.0) -> AsyncIterator[Slot]:
        """Wait for a turn, then hold a slot inside the block.

        Args:
            tokens: The most that the call may take.
        """
        async with self._turn:
            while self._active >= self.concurrency:
                self._freed.clear()
                await self._freed.wait()
            self._active += 1
            try:
                slot = await self._enter(tokens)
            except BaseException:
                self._release()
                raise
        try:
            yield slot
        finally:
            self._release()

    @property
    def is_paused(self) -> bool:
        """Whether a pause is going on."""
        return self._clock() < self._paused_until

    def pause(self, seconds: float) -> None:
        """Let no call in for `seconds` from now; a pause that ends later is not shortened."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def throttled(self, slot: Slot) -> None:
        """Halve the concurrency: the provider refused a call because of its rate.

        Calls that were in flight during the last cut do not cut again.
        """
        if slot.cuts == self._cuts:
            self.concurrency, self._successes = max(1, self.concurrency // 2), 0
            self._cuts += 1

    def succeeded(self) -> None:
        """Count a success; enough of them raise the concurrency by one, up to the configured value."""
        self._successes += 1
        if self.concurrency < self._most and self._successes >= RAISE_AFTER * self.concurrency:
            self.concurrency, self._successes = self.concurrency + 1, 0
            self._freed.set()

    def _release(self) -> None:
        self._active -= 1
        self._freed.set()

    async def _enter(self, tokens: float) -> Slot:
        # A pause may begin during the sleep, so check again after it.
        while (wait := max(self._entry_allowed_at(), self._tokens_allowed_at(tokens)) - self._clock()) > 0:
            await self._sleep(wait)
        now = self._clock()
        self._next_even_entry = max(self._next_even_entry, now) + self._spacing
        slot = Slot(now, tokens, self._cuts)
        if self._tokens_per_minute:
            self._window.append(slot)
        return slot

    def _entry_allowed_at(self) -> float:
        return max(self._next_even_entry - (self._burst - 1) * self._spacing, self._paused_until)

    def _tokens_allowed_at(self, tokens: float) -> float:
        """When enough of the calls in the window are older than a minute."""
        if not self._tokens_per_minute:
            return self._paused_until
        now = self._clock()
        while self._window and self._window[0].entered + WINDOW_SECONDS <= now:
            self._window.popleft()
        used = sum(slot.tokens for slot in self._window)
        allowed_at = now
        for slot in self._window:
            if used + tokens <= self._tokens_per_minute:
                break
            used -= slot.tokens
            allowed_at = slot.entered + WINDOW_SECONDS
        return allowed_at
