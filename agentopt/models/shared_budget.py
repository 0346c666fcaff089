"""A `Budget` that several processes share through a database.

Each process is granted slices of what is left, which it reserves from without the database. A slice that is not used
for a moment is returned; that of a process that died is free once its lease is over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from agentopt.core.budget import Budget, Caps, Reservation, Usage
from agentopt.core.database import open_engine
from agentopt.core.errors import JournalError, TransientModelError
from agentopt.models.budget_store import BudgetStore, Share, View, Wish
from agentopt.models.lease import LEASE_SECONDS, Lease

T = TypeVar("T")

RETURNED_AFTER = 0.3
"""Seconds without a call after which the unused part of a slice is returned."""
FIRST_WAIT, LONGEST_WAIT = 0.02, 0.5
"""Seconds between two attempts to be granted what other processes may return or settle below its worst case."""


class SharedBudget(Budget):
    """The caps of a run that several processes work on. Use from one event loop, and close it at the end.

    `spent` includes what the others had settled when this process last used the database.

    Args:
        store: The grants.
        lease: The process's lease, without which no grant is used.
        caps: Caps of the whole run.
        purpose_caps: Caps of one purpose within the run.
        seconds_before: Wall time of earlier sessions of the run.
        clock: Seconds from an arbitrary origin.

    Attributes:
        lease: The process's lease.
    """

    def __init__(
        self,
        store: BudgetStore,
        lease: Lease,
        caps: Caps = Caps(),
        *,
        purpose_caps: Mapping[str, Caps] | None = None,
        seconds_before: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(caps, purpose_caps=purpose_caps, seconds_before=seconds_before, clock=clock)
        self._store, self.lease = store, lease
        self._others: dict[str, Usage] = {}
        self._granted: dict[str, Usage] = {}
        self._granted_at = 0
        self._refused: dict[Wish, View] = {}
        self._turn = asyncio.Lock()
        self._is_closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="budget")
        self._returning: asyncio.TimerHandle | None = None
        self._syncing: set[asyncio.Task[Any]] = set()

    @property
    def spent_by_purpose(self) -> Mapping[str, Usage]:
        """Purpose -> settled spend of all processes."""
        return _sum(self._others, self._spent)

    async def reserve(self, worst: Usage, purpose: str) -> Reservation:
        """Reserve the worst case of a call; wait if calls in flight, here or elsewhere, may still free enough.

        Args:
            worst: The worst case.
            purpose: The purpose of the call.

        Raises:
            BudgetExceeded: It would not fit even if all calls in flight cost nothing, or the time is up.
            JournalError: The database cannot be used.
        """
        wait = FIRST_WAIT
        while True:
            self.check_seconds()
            if self._fits(worst, purpose):
                return self._taken(worst, purpose)
            if reservation := await self._to_its_end(self._reserved(worst, purpose), self._give_back):
                return reservation
            with suppress(TimeoutError):
                await asyncio.wait_for(self._next_settlement(), wait)
            wait = min(2 * wait, LONGEST_WAIT)

    def settle(self, reservation: Reservation, actual: Usage) -> None:
        """Replace the reserved worst case by the actual usage.

        Raises:
            ValueError: The reservation was settled before.
        """
        super().settle(reservation, actual)
        self._refused.clear()
        if self._returning is None:
            self._return_soon()

    def check_held(self, reservation: Reservation) -> None:
        """Check that this process was not suspended for longer than its lease since it made a reservation.

        Others may have been granted it meanwhile. From the ledger's entry on, they count the call at its worst case.

        Args:
            reservation: A reservation whose call is in the ledger.

        Raises:
            TransientModelError: It was.
        """
        if isinstance(reservation, _Held) and (reservation.lapses != self.lease.lapses or not self.lease.is_valid):
            raise TransientModelError("the process was suspended before the call", kind="suspended", sent=False)

    def reopen(self, worst: Usage, purpose: str) -> Reservation:
        """Reserve a call of an earlier session, whose outcome is open, also beyond the slice.

        Until its ledger entry is this session's and `publish` has recounted, it is part of `spent` too: counted twice
        for a moment, it is never left out.

        Args:
            worst: The worst case of the call, which the ledger has.
            purpose: The purpose of the call.
        """
        return self._taken(worst, purpose)

    @contextmanager
    def holding_back(self, usage: Usage, seconds: float = 0.0) -> Iterator[None]:
        """Withhold a part of the budget inside the block, such as the cost of the final test from the search.

        Args:
            usage: The usage to withhold.
            seconds: The wall time to withhold.
        """
        self._granted.clear()  # a slice that was granted before may be what is withheld
        with super().holding_back(usage, seconds):
            yield

    async def publish(self, *, recount: bool = False) -> None:
        """Record what was settled, return the unused part of the slice, and read what the others settled.

        Args:
            recount: Whether ledger entries of earlier sessions have become this one's.

        Raises:
            JournalError: The database cannot be used.
        """
        await asyncio.shield(self._begun(self._publish(recount=recount)))

    async def aclose(self) -> None:
        """Leave the budget; afterwards `spent` is the spend of all processes by the ledger."""
        if self._returning:
            self._returning.cancel()
        async with self._turn:
            self._is_closed = True
            with suppress(JournalError):  # the lease ends in any case, and the exception to report is another one
                view = await self._in_thread(self._store.leave)
                self._others, self._spent, self._granted = dict(view.others), {}, {}
        await asyncio.to_thread(self._thread.shutdown)

    def _fits(self, worst: Usage, purpose: str) -> bool:
        """Whether it is within the slice that this process was granted, and its lease holds."""
        granted = self._granted.get(purpose)
        # After a lapse, what was granted before it may be another process's, though the lease was renewed.
        if granted is None or not self.lease.is_valid or self._granted_at != self.lease.lapses:
            return False
        bounds = (self.caps, self._purpose_caps.get(purpose, Caps()))
        return not any(_only_capped(granted, caps).exceeded_by(self._used(purpose) + worst) for caps in bounds)

    def _used(self, purpose: str) -> Usage:
        return self._spent.get(purpose, Usage()) + self._in_flight.get(purpose, Usage())

    def _taken(self, worst: Usage, purpose: str) -> Reservation:
        self._in_flight[purpose] = self._in_flight.get(purpose, Usage()) + worst
        self._return_soon()
        return _Held(purpose, worst, lapses=self.lease.lapses)

    def _give_back(self, reservation: Reservation | None) -> None:
        """Release a reservation whose caller was cancelled."""
        if reservation:
            self._in_flight[reservation.purpose] -= reservation.worst

    async def _reserved(self, worst: Usage, purpose: str) -> Reservation | None:
        """Reserve from the slice, or from a new one; None if it is not granted now."""
        async with self._turn:
            if self._fits(worst, purpose):
                return self._taken(worst, purpose)
            self._check_settled(worst, purpose)
            wish = Wish(purpose, worst, self._held_back)
            if wish in self._refused and not await self._in_thread(self._store.has_changed, self._refused[wish]):
                return None
            view = await self._sync(wish)
            if view.granted is None:
                self._check_settled(worst, purpose)
                self._refused[wish] = view
            return self._taken(worst, purpose) if self._fits(worst, purpose) else None

    def _check_settled(self, worst: Usage, purpose: str) -> None:
        """Raise `BudgetExceeded` if the call would not fit even if all calls in flight cost nothing."""
        spent = self.spent_by_purpose
        self._check(sum(spent.values(), Usage()), spent.get(purpose, Usage()), worst, purpose)

    async def _to_its_end(self, work: Coroutine[Any, Any, T], undo: Callable[[T], None]) -> T:
        """Run a transaction to its end, and undo what it did if the caller is cancelled meanwhile."""
        task = self._begun(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda task: None if _has_failed(task) else undo(task.result()))
            raise

    def _begun(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._syncing.add(task)
        task.add_done_callback(self._syncing.discard)
        task.add_done_callback(_has_failed)  # marks an exception as retrieved: the caller may have been cancelled
        return task

    async def _sync(self, wish: Wish | None, *, recount: bool = False) -> View:
        self._granted.clear()
        self._granted_at = self.lease.lapses
        purposes = {*self._spent, *self._in_flight, *([wish.purpose] if wish else [])}
        used = {purpose: self._used(purpose) for purpose in purposes}
        own = {}
        for purpose, usage in used.items():
            settled = self._spent.get(purpose, Usage())
            own[purpose] = Share(settled, _in_tokens(usage - settled))
        view = await self._in_thread(partial(self._store.sync, own, wish, recount=recount))
        self._others = dict(view.others)
        if wish and view.granted is not None:
            self._granted[wish.purpose] = _in_tokens(used[wish.purpose] + view.granted)
            self._return_soon()
        return view

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        except SQLAlchemyError as error:
            raise JournalError(f"the budget cannot be read: {error}\n  remedy: check its database") from error

    def _return_soon(self) -> None:
        if self._returning:
            self._returning.cancel()
        self._returning = asyncio.get_running_loop().call_later(RETURNED_AFTER, self._return)

    def _return(self) -> None:
        self._returning = None
        self._begun(self._publish())  # after an error, the next grant reports it

    async def _publish(self, *, recount: bool = False) -> None:
        async with self._turn:
            if not self._is_closed:
                await self._sync(None, recount=recount)


@dataclass(eq=False, slots=True)
class _Held(Reservation):
    """A reservation that was made when the lease had been over so many times."""

    lapses: int = 0


@asynccontextmanager
async def open_shared_budget(
    place: str | Path,
    run: str,
    session: str,
    caps: Caps,
    *,
    purpose_caps: Mapping[str, Caps] | None = None,
    seconds_before: float = 0.0,
    lease_seconds: float = LEASE_SECONDS,
) -> AsyncIterator[SharedBudget]:
    """Join the budget of a run; leave it at the end of the block.

    Args:
        place: The journal's database: a SQLAlchemy URL, or a path for SQLite.
        run: The run in the ledger.
        session: This process's session in the ledger.
        caps: Caps of the whole run.
        purpose_caps: Purpose -> caps within the run.
        seconds_before: Wall time of earlier sessions of the run.
        lease_seconds: Seconds after which the slice of a process that died is free.

    Raises:
        JournalError: The database cannot be written.
    """
    engine = open_engine(place)
    try:
        lease = Lease(engine, session, seconds=lease_seconds)
        await asyncio.to_thread(lease.start)
    except SQLAlchemyError as error:
        engine.dispose()
        raise JournalError(f"the budget cannot be written: {error}\n  remedy: check its database") from error
    try:
        store = BudgetStore(engine, run, lease, caps, purpose_caps)
        budget = SharedBudget(store, lease, caps, purpose_caps=purpose_caps, seconds_before=seconds_before)
        await budget.publish()
        try:
            yield budget
        finally:
            await budget.aclose()
    finally:
        with suppress(SQLAlchemyError):  # it ends by itself
            await asyncio.to_thread(lease.end)
        await asyncio.to_thread(engine.dispose)


def _has_failed(task: asyncio.Task[Any]) -> bool:
    return task.cancelled() or task.exception() is not None


def _in_tokens(usage: Usage) -> Usage:
    """The usage with all tokens in `completion_tokens`, as they are compared with caps."""
    return Usage(usage.calls, 0, usage.tokens, usage.usd)


def _only_capped(granted: Usage, caps: Caps) -> Caps:
    """The granted amounts of what has a cap, as caps."""
    return Caps(
        usd=None if caps.usd is None else granted.usd,
        tokens=None if caps.tokens is None else granted.tokens,
        calls=None if caps.calls is None else granted.calls,
    )


def _sum(one: Mapping[str, Usage], other: Mapping[str, Usage]) -> dict[str, Usage]:
    return {p: one.get(p, Usage()) + other.get(p, Usage()) for p in dict.fromkeys((*one, *other))}
