"""The end of a run's model client: what waits then is interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

from agentopt.core.errors import RunStoppingError

T = TypeVar("T")


class Closing:
    """Whether a client is closing. Use from one event loop."""

    def __init__(self) -> None:
        self._is_closing = False
        self._waiting: set[_Wait] = set()

    @property
    def is_closing(self) -> bool:
        """Whether `begin` was called."""
        return self._is_closing

    def begin(self) -> None:
        """Interrupt what waits."""
        self._is_closing = True
        for wait in self._waiting:
            wait.is_interrupted = True
            wait.task.cancel()

    async def unless(self, work: Awaitable[T]) -> T:
        """Wait for `work`, and cancel it if the client closes meanwhile.

        Raises:
            RunStoppingError: The client closes.
        """
        if self._is_closing:
            asyncio.ensure_future(work).cancel()
            raise RunStoppingError
        task = asyncio.current_task()
        assert task
        wait, cancelling = _Wait(task), task.cancelling()
        self._waiting.add(wait)
        try:
            return await work
        finally:
            self._waiting.discard(wait)
            # As in `asyncio.timeout`: a cancellation of the caller that came too is passed on.
            if wait.is_interrupted and task.uncancel() <= cancelling:
                raise RunStoppingError from None


@dataclass(eq=False, slots=True)
class _Wait:
    """A task that waits, in place of a further task and a future for each wait."""

    task: asyncio.Task[Any]
    is_interrupted: bool = False
