"""The end of a run's model client: what waits then is interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from agentopt.core.errors import RunStoppingError

T = TypeVar("T")


class Closing:
    """Whether a client is closing. Use from one event loop."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()

    @property
    def is_closing(self) -> bool:
        """Whether `begin` was called."""
        return self._begun.is_set()

    def begin(self) -> None:
        """Interrupt what waits."""
        self._begun.set()

    async def unless(self, work: Awaitable[T]) -> T:
        """Wait for `work`, and cancel it if the client closes meanwhile.

        Raises:
            RunStoppingError: The client closes.
        """
        done, closing = asyncio.ensure_future(work), asyncio.ensure_future(self._begun.wait())
        try:
            await asyncio.wait((done, closing), return_when=asyncio.FIRST_COMPLETED)
            if self._begun.is_set():
                raise RunStoppingError
            return await done
        finally:
            done.cancel()
            closing.cancel()
