"""Waits for a database that restarts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError

from agentopt.core.database import is_passing
from agentopt.core.errors import JournalError

T = TypeVar("T")

OUTAGE_SECONDS = 30
"""Seconds that a database may be away."""


async def patiently(work: Callable[..., T], *arguments: Any, clock: Callable[[], float] = time.monotonic) -> T:
    """Call a blocking method of a store in a thread; again while the database cannot be reached, as when it restarts.

    Args:
        work: The method.
        arguments: Its arguments.
        clock: Monotonic time in seconds.

    Raises:
        JournalError: The database cannot be reached for `OUTAGE_SECONDS`.
    """
    deadline = clock() + OUTAGE_SECONDS
    while True:
        try:
            return await asyncio.to_thread(work, *arguments)
        except DBAPIError as error:
            if clock() >= deadline or not is_passing(error):
                rule = f"the storage cannot be reached: {error}"
                raise JournalError(f"{rule}\n  remedy: check the database and its URL") from error
        await asyncio.sleep(0.5)
