"""Mutual exclusion between local models: only one model computes at a time, with any number of its own calls.

Two engines that compute simultaneously on the same cores slow each other down: threads spin at barriers while the
thread they wait for has no core. Running one model at a time, with several concurrent calls, loses nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

TURN_SECONDS = 5.0
"""How long a model may start new calls while another model waits."""


@dataclass(frozen=True, slots=True)
class _Waiter:
    owner: object
    admitted: asyncio.Future[None]


class ComputeSlot:
    """A lock held by any number of calls of one owner; calls of other owners wait until they are done.

    While another owner waits, the current one starts no new calls after its turn of `turn_seconds`. An instance
    belongs to one event loop.

    Args:
        turn_seconds: Length of a turn while another owner waits, in seconds.
        clock: Monotonic time in seconds.
    """

    def __init__(self, *, turn_seconds: float = TURN_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._turn_seconds, self._clock = turn_seconds, clock
        self._owner: object = None
        self._active = 0
        self._turn_ends = 0.0
        self._waiting: deque[_Waiter] = deque()

    @asynccontextmanager
    async def hold(self, owner: object) -> AsyncIterator[None]:
        """Wait until `owner` may compute, and hold the slot inside the block."""
        if self._active == 0:
            self._begin_turn(owner)
        elif not self._may_join(owner):
            await self._wait(owner)
        else:
            self._active += 1
        try:
            yield
        finally:
            self._leave()

    def _may_join(self, owner: object) -> bool:
        others_wait = any(waiter.owner is not owner for waiter in self._waiting)
        return owner is self._owner and (not others_wait or self._clock() < self._turn_ends)

    def _begin_turn(self, owner: object) -> None:
        self._owner, self._active, self._turn_ends = owner, 1, self._clock() + self._turn_seconds

    async def _wait(self, owner: object) -> None:
        waiter = _Waiter(owner, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        try:
            await waiter.admitted
        except asyncio.CancelledError:
            if waiter.admitted.cancelled():
                self._waiting.remove(waiter)
            else:  # admitted and cancelled simultaneously
                self._leave()
            raise

    def _leave(self) -> None:
        self._active -= 1
        if self._active == 0:
            self._admit([waiter for waiter in self._waiting if not waiter.admitted.done()])

    def _admit(self, waiting: list[_Waiter]) -> None:
        """Start the turn of the owner that has waited longest."""
        if not waiting:
            return
        first, *others = waiting
        self._begin_turn(first.owner)
        admitted = [first, *(waiter for waiter in others if waiter.owner is first.owner)]
        self._active = len(admitted)
        for waiter in admitted:
            self._waiting.remove(waiter)
            waiter.admitted.set_result(None)


_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, ComputeSlot] = WeakKeyDictionary()


def shared_slot() -> ComputeSlot:
    """Return the slot of the running event loop."""
    return _of_loop.setdefault(asyncio.get_running_loop(), ComputeSlot())
