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
from typing import Protocol

WINDOW_SECONDS = 60.0
ARRIVAL_SECONDS = 1.0
"""How much sooner after its entry than another call one may arrive: the first call of a process opens a connection."""
RAISE_AFTER = 2.0
"""The concurrency is raised by one after this many times the current concurrency of successful calls."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Requests and tokens per minute; calls are evenly spaced after a burst of one second's worth, at least one.

    Attributes:
        requests_per_minute: Most calls that arrive in any 60 seconds, rounded up.
        tokens_per_minute: Most tokens of the calls let in in any 60 seconds; a larger single call is let in alone.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None

    @property
    def is_limited(self) -> bool:
        """Whether there is any limit."""
        return bool(self.requests_per_minute or self.tokens_per_minute)

    @property
    def burst(self) -> int:
        """Number of calls that are let in at once after a pause."""
        return max(1, int((self.requests_per_minute or 0) // 60))

    @property
    def spacing(self) -> float:
        """Seconds between calls. A burst adds to what the spacing lets through, so the spacing compensates for it."""
        if not self.requests_per_minute:
            return 0.0
        return (WINDOW_SECONDS + ARRIVAL_SECONDS) / (self.requests_per_minute - self.burst + 1)

    def entry_allowed_at(self, next_even: float) -> float:
        """When a call may be let in.

        Args:
            next_even: When the next call would be let in if all were evenly spaced.
        """
        return next_even - (self.burst - 1) * self.spacing


class SharedPace(Protocol):
    """The pace of calls that several processes share; `shared_rate.SharedRate` implements it."""

    async def enter(self, tokens: float) -> tuple[float, int]:
        """Let a call in, or return how long it has to wait.

        Args:
            tokens: The most that the call may take.

        Returns:
            Seconds until another attempt, 0 if the call was let in; and a place for `took`.
        """
        ...

    def took(self, place: int, more: float) -> None:
        """Count what a call took beyond what it was let in with.

        Args:
            place: The place that `enter` returned.
            more: Further tokens; below 0 if it took less.
        """
        ...

    def pause(self, seconds: float) -> None:
        """Let no call in for `seconds` from now.

        Args:
            seconds: The wait that a provider requested.
        """
        ...


@dataclass(eq=False, slots=True)
class Slot:
    """A call that was let in.

    Attributes:
        entered: When it was let in.
        tokens: Tokens that count against `tokens_per_minute`; set this to the actual number after the call.
        cuts: Number of cuts of the concurrency before it was let in.
        place: What the shared pace counts its tokens under.
        counted: Those of its tokens that are counted in the last minute's; None if it is not, or no longer.
    """

    entered: float
    tokens: float
    cuts: int
    place: int = 0
    counted: float | None = None


class RateLimiter:
    """Bounds concurrent calls, and in any 60 seconds the requests and tokens.

    Slots are granted in order of arrival. Entries are evenly spaced (a leaky bucket) after a burst of one second's
    worth, at least one. The concurrency adapts: `throttled` halves it, `succeeded` raises it slowly. An instance
    belongs to one event loop.

    Args:
        concurrency: Most concurrent calls.
        requests_per_minute: Most calls that arrive in any 60 seconds, rounded up.
        tokens_per_minute: Most tokens of the calls let in in any 60 seconds; a larger single call is let in alone.
        clock: Monotonic time in seconds.
        sleep: Waits for a number of seconds.
        shared: The pace that this limiter shares with those of other processes; its own unless given.
    """

    def __init__(
        self,
        concurrency: int,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        shared: SharedPace | None = None,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._most = self.concurrency = concurrency
        self._active, self._successes, self._cuts = 0, 0, 0
        self._freed = asyncio.Event()
        self._turn = asyncio.Lock()
        self._pace = Pace() if shared else Pace(requests_per_minute, tokens_per_minute)
        self._shared = shared
        self._window: deque[Slot] = deque()
        self._in_window = 0.0
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
            if self._shared:
                self._shared.took(slot.place, slot.tokens - tokens)
            if slot.counted is not None:
                self._count(slot, slot.tokens)
            self._release()

    @property
    def is_paused(self) -> bool:
        """Whether a pause is going on."""
        return self._clock() < self._paused_until

    def pause(self, seconds: float) -> None:
        """Let no call in for `seconds` from now; a pause that ends later is not shortened."""
        self._paused_until = max(self._paused_until, self._clock() + seconds)
        if self._shared and seconds:
            self._shared.pause(seconds)

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
        place = await self._enter_shared(self._shared, tokens) if self._shared else 0
        now = self._clock()
        self._next_even_entry = max(self._next_even_entry, now) + self._pace.spacing
        slot = Slot(now, tokens, self._cuts, place)
        if self._pace.tokens_per_minute:
            self._window.append(slot)
            self._count(slot, tokens)
        return slot

    async def _enter_shared(self, shared: SharedPace, tokens: float) -> int:
        while True:
            wait, place = await shared.enter(tokens)
            if not wait:
                return place
            await self._sleep(wait)

    def _entry_allowed_at(self) -> float:
        return max(self._pace.entry_allowed_at(self._next_even_entry), self._paused_until)

    def _tokens_allowed_at(self, tokens: float) -> float:
        """When enough of the calls in the window are older than a minute."""
        if not self._pace.tokens_per_minute:
            return self._paused_until
        now = self._clock()
        while self._window and self._window[0].entered + WINDOW_SECONDS <= now:
            self._count(self._window.popleft(), None)
        used = self._in_window
        allowed_at = now
        for slot in self._window:
            if used + tokens <= self._pace.tokens_per_minute:
                break
            used -= slot.counted or 0.0
            allowed_at = slot.entered + WINDOW_SECONDS
        return allowed_at

    def _count(self, slot: Slot, tokens: float | None) -> None:
        """Change what a slot counts in the window, whose sum over thousands of calls is not formed for each."""
        self._in_window += (tokens or 0.0) - (slot.counted or 0.0)
        slot.counted = tokens
