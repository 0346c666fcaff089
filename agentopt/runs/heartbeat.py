"""Reports once a minute that a run is alive, for logs and pipes, which no display is kept up to date in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agentopt.core.budget import Budget
from agentopt.core.events import Event, FileProgress, Observer, StillRunning

BEAT_SECONDS = 60.0
"""Seconds between two reports."""


@dataclass
class Heartbeat:
    """An observer that passes every event on, and adds `StillRunning` once a minute.

    Attributes:
        observer: Receives all events.
        sleep: Waits for a number of seconds.
    """

    observer: Observer
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _activity: str = "starting"
    _download: str | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, FileProgress):
            self._download = None if event.has_ended else event.message
        elif event.logged and not isinstance(event, StillRunning):
            self._activity = event.message
        self.observer(event)

    @asynccontextmanager
    async def beating(self, budget: Budget) -> AsyncIterator[None]:
        """Report inside the block.

        Args:
            budget: The live budget of the run.

        Raises:
            CallbackError: A callback failed on a report.
        """
        beats = asyncio.create_task(self._beat(budget))
        try:
            yield
        finally:
            beats.cancel()
            await asyncio.wait([beats])
        if not beats.cancelled() and (error := beats.exception()):
            raise error

    async def _beat(self, budget: Budget) -> None:
        while True:
            await self.sleep(BEAT_SECONDS)
            self(StillRunning(self._download or self._activity, budget.spent, budget.seconds, budget.seconds_left))
