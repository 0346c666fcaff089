"""Wakes a process when another one removes a row that it waits for, by PostgreSQL's LISTEN and NOTIFY."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import sqlalchemy as sa

CHANNEL = "agentopt_flights"
CHECK_SECONDS = 0.2
"""How often the thread looks whether it should end."""


class Signal:
    """Notifications of one database. Use from one event loop.

    Args:
        engine: The database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._woken: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    async def wait(self, seconds: float) -> None:
        """Wait for a notification since the last wait, at most for a number of seconds."""
        if self._woken is None:
            self._woken, self._loop = asyncio.Event(), asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._listen, name="journal-signal", daemon=True)
            self._thread.start()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), seconds)
        self._woken.clear()

    def wake(self) -> None:
        """End a wait, or the next one, from the event loop."""
        if self._woken:
            self._woken.set()

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        if self._thread:
            self._thread.join()

    def _listen(self) -> None:
        lost = (sa.exc.DBAPIError, self._engine.dialect.loaded_dbapi.Error)
        while not self._ended.is_set():
            with suppress(*lost), self._engine.connect() as connection:
                driver = connection.connection.driver_connection
                connection.detach()  # closed at the end instead of kept: it would go on listening
                connection.exec_driver_sql(f"LISTEN {CHANNEL}")
                self._report()  # of what was sent before
                while driver and not self._ended.is_set():
                    for _ in driver.notifies(timeout=CHECK_SECONDS, stop_after=1):
                        self._report()
            self._ended.wait(CHECK_SECONDS)

    def _report(self) -> None:
        if self._loop and self._woken and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._woken.set)
