"""The end of a run that is interrupted, or whose database is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.exc import SQLAlchemyError

from agentopt.core.errors import JournalError
from agentopt.core.events import NotStored, Observer
from agentopt.core.outages import Patience


@asynccontextmanager
async def ending_once(observe: Observer) -> AsyncIterator[None]:
    """Inside the block, what waits for a database that is away waits for one time, and for a short one if interrupted.

    Args:
        observe: Receives a `NotStored` after the block if something could not be stored.
    """
    task = asyncio.current_task()
    assert task
    patience = Patience(lambda: task.cancelling() > 0)
    try:
        with patience.applied():
            try:
                yield
            except (JournalError, SQLAlchemyError) as error:
                if not task.cancelling():
                    raise
                # The run was interrupted meanwhile: the outage is no reason to end otherwise.
                raise asyncio.CancelledError from error
    finally:
        if losses := patience.losses:
            observe(NotStored(losses, patience.lost_responses))
