"""Commits the writes of concurrent callers together, in a thread: one flush of the disk for all that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import sqlalchemy as sa

from agentopt.core.database import outage_of, transact
from agentopt.core.errors import JournalError
from agentopt.core.outages import RESPONSES
from agentopt.models.journal_statements import Write, execute
from agentopt.models.single_flight import Flights, Place


@dataclass(frozen=True, slots=True, eq=False)
class _Pending:
    """What one caller writes, and its future."""

    writes: Sequence[Write]
    claims: Sequence[Place]
    releases: Sequence[Place]
    responses: int
    done: asyncio.Future[bool]


class CommitQueue:
    """The writes to the journal. Use from one event loop.

    Args:
        engine: The database.
        flights: The responses that are being requested.
    """

    def __init__(self, engine: sa.Engine, flights: Flights) -> None:
        self._engine, self._flights = engine, flights
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._pending: list[_Pending] = []
        self._flushing: asyncio.Task[None] | None = None

    async def write(
        self,
        writes: Sequence[Write],
        *,
        claims: Sequence[Place] = (),
        releases: Sequence[Place] = (),
        responses: int = 0,
    ) -> bool:
        """Commit, together with all other writes that arrive meanwhile, in one disk flush.

        Deadlocks and a restart of the database are survived: writes that give the same result if they are repeated,
        such as an insert that keeps what is there, are repeated.

        Args:
            writes: Statements of one transaction.
            claims: Responses to claim. The writes are left out if that is refused.
            releases: Responses that other processes may request again afterwards.
            responses: Number of responses that are stored; they are paid for, so the end of a run waits longer.

        Returns:
            With claims, whether they were granted; otherwise whether all responses were new in the database. If one
            that was committed together with them was not, this is False, too.

        Raises:
            JournalError: They cannot be committed.
        """
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pending.append(_Pending(writes, claims, releases, responses, done))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        # If the caller is cancelled, this is, too, but what it writes is committed.
        return await done

    async def flush(self) -> None:
        """Wait until everything is committed."""
        if self._flushing:
            await self._flushing

    def close(self) -> None:
        """End the writing thread."""
        self._thread.shutdown()

    async def _flush(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            outcome = await self._outcome_of(batch)
            if isinstance(outcome, list) or len(batch) == 1 or _is_of_database(outcome):
                _resolve(batch, outcome)
                continue
            # The database works, but refuses a row: commit the others without it.
            for one in batch:
                _resolve([one], await self._outcome_of([one]))

    async def _outcome_of(self, batch: Sequence[_Pending]) -> list[bool] | JournalError:
        """Commit the batch, and return the outcome of each caller, or why it failed."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._commit, batch)
        except Exception as error:  # noqa: BLE001 - every waiting caller must be informed, whatever it is
            failure = JournalError(f"the journal cannot be written: {error}\n  remedy: check its disk and its URL")
            failure.__cause__ = error
            if _is_of_database(failure) and (lost := sum(one.responses for one in batch)):
                outage_of(self._engine).patience.lose(RESPONSES, lost)
            return failure

    def _commit(self, batch: Sequence[_Pending]) -> list[bool]:
        claims = [one.claims for one in batch if one.claims]
        released = [place for one in batch for place in one.releases]
        touched = [*released, *(place for group in claims for place in group)]

        def work(connection: sa.Connection) -> list[bool]:
            is_awaited = self._flights.lock(connection, touched)
            granted = iter(self._flights.claim(connection, claims) if claims else ())
            outcomes = [next(granted) if one.claims else True for one in batch]
            made = [one for one, is_granted in zip(batch, outcomes, strict=True) if is_granted]
            is_new = execute(connection, [write for one in made for write in one.writes])
            self._flights.release(connection, released, is_awaited=is_awaited and bool(released))
            return [outcome if one.claims else is_new for one, outcome in zip(batch, outcomes, strict=True)]

        return transact(self._engine, work, is_paid=any(one.responses for one in batch))


def _is_of_database(failure: JournalError) -> bool:
    """Whether the database failed as a whole, instead of refusing a row."""
    return isinstance(failure.__cause__, sa.exc.OperationalError)


def _resolve(batch: Sequence[_Pending], outcome: list[bool] | JournalError) -> None:
    """Resolve the futures of the batch."""
    for place, one in enumerate(batch):
        if one.done.done():
            continue
        if isinstance(outcome, JournalError):
            one.done.set_exception(outcome)
        else:
            one.done.set_result(outcome[place])
