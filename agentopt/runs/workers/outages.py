"""Calls the blocking methods of a store from an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError

from agentopt.core.errors import JournalError

T = TypeVar("T")


async def patiently(work: Callable[..., T], *arguments: Any) -> T:
    """Call a blocking method of a store in a thread. The method repeats its transaction while the database is away.

    Args:
        work: The method.
        arguments: Its arguments.

    Raises:
        JournalError: The database could not be reached for `WAIT_SECONDS`.
    """
    try:
        return await asyncio.to_thread(work, *arguments)
    except DBAPIError as error:
        rule = f"the storage cannot be reached: {error}"
        raise JournalError(f"{rule}\n  remedy: check the database and its URL") from error
