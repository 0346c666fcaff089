"""The budget: reserve the worst case before a call, settle its actual use afterwards.

A reservation is granted only while everything spent, everything in flight at its worst, and the new worst case
together stay within every cap. So no cap is passed, also with hundreds of calls in flight.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields

from agentopt.core.errors import BudgetExceeded


@dataclass(frozen=True, slots=True)
class Usage:
    """What calls used, or may use at worst. Token counts are those the provider reported."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Caps:
    """The most that may be spent; None is no cap. `seconds` is wall time, `trials` counts candidates."""

    usd: float | None = None
    tokens: int | None = None
    calls: int | None = None
    seconds: float | None = None
    trials: int | None = None

    def exceeded_by(self, usage: Usage) -> tuple[str, float] | None:
        """The first cap on usd, tokens or calls that `usage` is above, with its value."""
        for name in ("calls", "tokens", "usd"):
            cap = getattr(self, name)
            # A sum of floats may miss a cap by rounding alone; a thousandth of a micro-dollar is no money.
            if cap is not None and getattr(usage, name) > cap + 1e-9:
                return name, cap
        return None


@dataclass(eq=False, slots=True)
class Reservation:
    """A granted worst case. Settle it exactly once."""

    purpose: str
    worst: Usage
    settled: bool = False


class Budget:
    """Owns the caps over everything a run does, and the spend by purpose.

    `caps` bound the whole run; `purpose_caps` bound one purpose inside it (such as the agent's own calls).
    `already_spent` and `seconds_before` carry over what earlier sessions of the same run took.
    """

    def __init__(
        self,
        caps: Caps = Caps(),
        *,
        purpose_caps: Mapping[str, Caps] | None = None,
        already_spent: Mapping[str, Usage] | None = None,
        seconds_before: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.caps = caps
        self._purpose_caps = dict(purpose_caps or {})
        self._spent = dict(already_spent or {})
        self._in_flight: dict[str, Usage] = {}
        self._held_back = Usage()
        self._seconds_held_back = 0.0
        self._clock = clock
        self._started = clock() - seconds_before
        self._settled = asyncio.Event()

    @property
    def is_capped(self) -> bool:
        """Whether there is a cap on tokens or USD, on the whole run or on a purpose."""
        return any(
            caps.usd is not None or caps.tokens is not None for caps in (self.caps, *self._purpose_caps.values())
        )

    @property
    def spent(self) -> Usage:
        return sum(self._spent.values(), Usage())

    @property
    def spent_by_purpose(self) -> Mapping[str, Usage]:
        return dict(self._spent)

    @property
    def in_flight(self) -> Usage:
        return sum(self._in_flight.values(), Usage())

    @property
    def held_back(self) -> Usage:
        """What is out of reach now; see `holding_back`."""
        return self._held_back

    @property
    def seconds_held_back(self) -> float:
        return self._seconds_held_back

    @property
    def seconds(self) -> float:
        """Wall time that this run took so far, earlier sessions included."""
        return self._clock() - self._started

    @property
    def seconds_left(self) -> float | None:
        if self.caps.seconds is None:
            return None
        return max(0.0, self.caps.seconds - self._seconds_held_back - self.seconds)

    @contextmanager
    def holding_back(self, usage: Usage, seconds: float = 0.0) -> Iterator[None]:
        """Keep `usage` and `seconds` out of reach inside the block: what the search must leave for the final test.

        Blocks nest: an inner one keeps its own on top of the outer one's.
        """
        before = self._held_back, self._seconds_held_back
        self._held_back, self._seconds_held_back = before[0] + usage, before[1] + seconds
        try:
            yield
        finally:
            self._held_back, self._seconds_held_back = before

    async def reserve(self, worst: Usage, purpose: str) -> Reservation:
        """Grant `worst`, waiting while only calls in flight prevent it.

        Raises `BudgetExceeded` when it would not fit even if everything in flight turned out free.
        """
        while True:
            self.check_seconds()
            self._check(self.spent, self._spent.get(purpose, Usage()), worst, purpose)
            try:
                self._check(
                    self.spent + self.in_flight,
                    self._spent.get(purpose, Usage()) + self._in_flight.get(purpose, Usage()),
                    worst,
                    purpose,
                )
            except BudgetExceeded:
                await self._next_settlement()
                continue
            self._in_flight[purpose] = self._in_flight.get(purpose, Usage()) + worst
            return Reservation(purpose, worst)

    def settle(self, reservation: Reservation, actual: Usage) -> None:
        """Replace the worst case by what the call took."""
        if reservation.settled:
            raise ValueError("a reservation is settled once, but this one was settled before")
        reservation.settled = True
        purpose = reservation.purpose
        self._in_flight[purpose] -= reservation.worst
        self._spent[purpose] = self._spent.get(purpose, Usage()) + actual
        self._settled.set()
        self._settled = asyncio.Event()

    async def _next_settlement(self) -> None:
        await self._settled.wait()

    def check_seconds(self, wanted: float = 0.0) -> None:
        """Raise `BudgetExceeded` when the time is up, or would be after `wanted` more seconds."""
        left = self.seconds_left
        if left is not None and left <= wanted:
            raise self.out_of_time(wanted)

    def out_of_time(self, wanted: float = 0.0) -> BudgetExceeded:
        """The exception for the cap on seconds."""
        kept = self._seconds_held_back
        return BudgetExceeded("seconds", cap=self.caps.seconds or 0.0, spent=self.seconds, wanted=wanted, kept=kept)

    def _check(self, total: Usage, of_purpose: Usage, worst: Usage, purpose: str) -> None:
        bounds = [("", self.caps, total, self._held_back)]
        if purpose in self._purpose_caps:
            bounds.append((f"{purpose}.", self._purpose_caps[purpose], of_purpose, Usage()))
        for prefix, caps, used, kept in bounds:
            if exceeded := caps.exceeded_by(used + kept + worst):
                name, cap = exceeded
                spent, wanted, held = (getattr(usage, name) for usage in (used, worst, kept))
                raise BudgetExceeded(prefix + name, cap=cap, spent=spent, wanted=wanted, kept=held)
