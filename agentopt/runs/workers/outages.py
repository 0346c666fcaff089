"""Waits for a database that restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError

from agentopt.core.database import is_passing
from agentopt.core.errors import JournalError

T = TypeVar("T")

OUTAGE_SECONDS = 30
"""Seconds that a database may be away."""


async def patiently(work: Callable[..., T], *arguments: Any) -> T:
    """Call a blocking method of a store in a thread; again while the database cannot be reached, as when it restarts.

    Args:
        work: The method.
        arguments: Its arguments.

    Raises:
        JournalError: The database cannot be reached for `OUTAGE_SECONDS`.
    """
    tries, pause = 0, 0.5
    while True:
        try:
            return await asyncio.to_thread(work, *arguments)
        except DBAPIError as error:
            if tries * pause >= OUTAGE_SECONDS or not is_passing(error):
                rule = f"the storage cannot be reached: {error}"
                raise JournalError(f"{rule}\n  remedy: check the database and its URL") from error
        tries += 1
        await asyncio.sleep(pause)
