"""The budget: reserve the worst case before a call, settle its actual use afterwards.

A reservation is granted only if the spend, the worst case of all calls in flight and the new worst case together are
within every cap. So no cap is exceeded, even with hundreds of calls in flight.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from agentopt.core.errors import BudgetExceeded


@dataclass(frozen=True, slots=True)
class Usage:
    """Usage of calls, actual or worst case. Token counts are those that the provider reported.

    Attributes:
        calls: Requests sent.
        prompt_tokens: Tokens of the prompts.
        completion_tokens: Tokens of the responses.
        usd: US dollars.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.usd + other.usd,
        )

    def __sub__(self, other: Usage) -> Usage:
        return Usage(
            self.calls - other.calls,
            self.prompt_tokens - other.prompt_tokens,
            self.completion_tokens - other.completion_tokens,
            self.usd - other.usd,
        )

    def __mul__(self, factor: int) -> Usage:
        return Usage(
            self.calls * factor,
            self.prompt_tokens * factor,
            self.completion_tokens * factor,
            self.usd * factor,
        )

    def divided(self, by: int) -> Usage:
        """Return an equal part of it, with counts rounded up."""
        calls, prompt, completion = (-(-n // by) for n in (self.calls, self.prompt_tokens, self.completion_tokens))
        return Usage(calls, prompt, completion, self.usd / by)

    def longer(self) -> Usage:
        """Return 1.5 times the tokens and USD, for calls whose prompts are not written yet and may be longer."""
        prompt, completion = (n * 3 // 2 for n in (self.prompt_tokens, self.completion_tokens))
        return Usage(self.calls, prompt, completion, self.usd * 1.5)

    def lower(self, other: Usage) -> Usage:
        """Return the lower calls, tokens and USD of both; all tokens are in `completion_tokens`."""
        return self._by_cap(other, min)

    def beyond(self, other: Usage) -> Usage:
        """Return the calls, tokens and USD that exceed those of `other`; all tokens are in `completion_tokens`."""
        return self._by_cap(other, lambda own, others: max(0, own - others))

    def _by_cap(self, other: Usage, combine: Callable[[Any, Any], Any]) -> Usage:
        calls, tokens, usd = (combine(getattr(self, n), getattr(other, n)) for n in ("calls", "tokens", "usd"))
        return Usage(calls=calls, completion_tokens=tokens, usd=usd)

    def columns(self) -> dict[str, object]:
        """Return its fields by name, as columns of a table."""
        return {
            "calls": self.calls,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "usd": self.usd,
        }


@dataclass(frozen=True, slots=True)
class Caps:
    """Upper limits of the spend; None is no cap.

    Attributes:
        usd: US dollars.
        tokens: Prompt and completion tokens together.
        calls: Requests sent.
        seconds: Wall time.
        trials: Candidates evaluated.
    """

    usd: float | None = None
    tokens: int | None = None
    calls: int | None = None
    seconds: float | None = None
    trials: int | None = None

    @property
    def usage(self) -> Usage:
        """The usage that the caps allow; 0 for a cap that is not set."""
        return Usage(calls=self.calls or 0, completion_tokens=self.tokens or 0, usd=self.usd or 0.0)

    def scaled(self, share: float) -> Caps:
        """Return that share of every cap, with counts rounded down; without a cap on trials."""
        usd, seconds = (None if cap is None else cap * share for cap in (self.usd, self.seconds))
        tokens, calls = (None if cap is None else int(cap * share) for cap in (self.tokens, self.calls))
        return Caps(usd, tokens, calls, seconds)

    def exceeded_by(self, usage: Usage) -> tuple[str, float] | None:
        """Return the name and the value of the first cap that `usage` exceeds; None if it exceeds none."""
        for name in ("calls", "tokens", "usd"):
            cap = getattr(self, name)
            # A sum of floats may exceed a cap by rounding; 1e-9 dollars are negligible.
            if cap is not None and getattr(usage, name) > cap + 1e-9:
                return name, cap
        return None


@dataclass(eq=False, slots=True)
class Reservation:
    """A granted worst case, to be settled exactly once.

    Attributes:
        purpose: The purpose of the call.
        worst: Its worst case.
        settled: Whether `Budget.settle` was called.
    """

    purpose: str
    worst: Usage
    settled: bool = False


class Budget:
    """The caps of a run, and its spend by purpose.

    Args:
        caps: Caps of the whole run.
        purpose_caps: Caps of one purpose within the run, such as the calls of the search agent.
        already_spent: Spend of earlier sessions of the run, by purpose.
        seconds_before: Wall time of earlier sessions of the run.
        clock: Seconds from an arbitrary origin.
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
        """The settled spend of all purposes."""
        return sum(self.spent_by_purpose.values(), Usage())

    @property
    def spent_by_purpose(self) -> Mapping[str, Usage]:
        """Purpose -> settled spend."""
        return dict(self._spent)

    @property
    def in_flight(self) -> Usage:
        """The worst case of all reservations that are not settled."""
        return sum(self._in_flight.values(), Usage())

    @property
    def held_back(self) -> Usage:
        """The usage that is withheld now; see `holding_back`."""
        return self._held_back

    @property
    def seconds_held_back(self) -> float:
        """The seconds that are withheld now; see `holding_back`."""
        return self._seconds_held_back

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, including earlier sessions."""
        return self._clock() - self._started

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the cap, less those held back; None without a cap."""
        if self.caps.seconds is None:
            return None
        return max(0.0, self.caps.seconds - self._seconds_held_back - self.seconds)

    @contextmanager
    def holding_back(self, usage: Usage, seconds: float = 0.0) -> Iterator[None]:
        """Withhold a part of the budget inside the block, such as the cost of the final test from the search.

        Nested blocks add up.

        Args:
            usage: The usage to withhold.
            seconds: The wall time to withhold.
        """
        before = self._held_back, self._seconds_held_back
        self._held_back, self._seconds_held_back = before[0] + usage, before[1] + seconds
        try:
            yield
        finally:
            self._held_back, self._seconds_held_back = before

    async def reserve(self, worst: Usage, purpose: str) -> Reservation:
        """Reserve the worst case of a call; wait if calls in flight may still free enough.

        Args:
            worst: The worst case.
            purpose: The purpose of the call.

        Raises:
            BudgetExceeded: It would not fit even if all calls in flight cost nothing, or the time is up.
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
        """Replace the reserved worst case by the actual usage.

        Raises:
            ValueError: The reservation was settled before.
        """
        if reservation.settled:
            raise ValueError("a reservation must be settled once, but this one was settled before")
        reservation.settled = True
        purpose = reservation.purpose
        self._in_flight[purpose] -= reservation.worst
        self._spent[purpose] = self._spent.get(purpose, Usage()) + actual
        self._settled.set()
        self._settled = asyncio.Event()

    def check_held(self, reservation: Reservation) -> None:
        """Do nothing: a reservation of one process is held until it is settled; see `SharedBudget`.

        Args:
            reservation: A reservation whose call is in the ledger.
        """

    async def publish(self, *, recount: bool = False) -> None:
        """Do nothing: the spend of one process is known to it; see `SharedBudget`."""

    def reopen(self, worst: Usage, purpose: str) -> Reservation:
        """Turn spend of an earlier session into a reservation: the outcome of its call is still open.

        Args:
            worst: The worst case of the call, which is part of `already_spent`.
            purpose: The purpose of the call.
        """
        self._spent[purpose] = self._spent.get(purpose, Usage()) - worst
        self._in_flight[purpose] = self._in_flight.get(purpose, Usage()) + worst
        return Reservation(purpose, worst)

    async def _next_settlement(self) -> None:
        await self._settled.wait()

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied to another process, which would then have caps of its own.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            "a budget cannot be pickled: its copy in another process would have the caps a second time; "
            "open a session for the same run there (`open_session`), which shares the budget through the journal"
        )

    def check_seconds(self, wanted: float = 0.0) -> None:
        """Raise `BudgetExceeded` when the time is up, or would be after `wanted` more seconds."""
        left = self.seconds_left
        if left is not None and left <= wanted:
            raise self.out_of_time(wanted)

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Raise `BudgetExceeded` if the block is not done when the run's time is up."""
        try:
            async with asyncio.timeout(self.seconds_left) as cap:
                yield
        except TimeoutError as error:
            if not cap.expired():
                raise  # the provider's, which breaks the contract of `ChatModel`
            raise self.out_of_time() from error

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
