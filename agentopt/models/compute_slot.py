"""The compute slot that the local models of a process share: the calls of one model at a time.

Two engines that compute at once on the same cores lose time to each other: their threads spin at barriers while the
thread they wait for has no core. Model by model, several calls of one model at once, nothing is lost.
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
"""How long a model may take new calls while another one waits."""


@dataclass(frozen=True, slots=True)
class _Waiter:
    owner: object
    admitted: asyncio.Future[None]


class ComputeSlot:
    """Held by any number of calls of one owner; a call of another owner waits until they are done.

    While another owner waits, the present one takes no new calls once its turn of `turn_seconds` is over. Belongs to
    one event loop.
    """

    def __init__(self, *, turn_seconds: float = TURN_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._turn_seconds, self._clock = turn_seconds, clock
        self._owner: object = None
        self._active = 0
        self._turn_ends = 0.0
        self._waiting: deque[_Waiter] = deque()

    @asynccontextmanager
    async def hold(self, owner: object) -> AsyncIterator[None]:
        """Wait until `owner` may compute."""
        if self._active == 0:
            self._begin_turn(owner)
        elif not self._takes(owner):
            await self._wait(owner)
        else:
            self._active += 1
        try:
            yield
        finally:
            self._leave()

    def _takes(self, owner: object) -> bool:
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
            else:  # admitted and cancelled in the same moment
                self._leave()
            raise

    def _leave(self) -> None:
        self._active -= 1
        if self._active == 0:
            self._admit([waiter for waiter in self._waiting if not waiter.admitted.done()])

    def _admit(self, waiting: list[_Waiter]) -> None:
        """Give the next turn to the owner that has waited longest."""
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
    """The slot of the running event loop."""
    return _of_loop.setdefault(asyncio.get_running_loop(), ComputeSlot())
