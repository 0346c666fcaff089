"""One process requests a response, the others wait for it: the table of the responses that are being requested.

Whoever inserts the row of a response requests it. The row is removed in the transaction that stores the response, or
the failure. The rows of a process that died are removed by those that wait, if they see that it has ended; otherwise
they are free once their lease is over. Leases are set and compared on the database's clock, and a thread renews them,
so that a busy event loop does not lose them. Waiting processes poll, with pauses that grow; PostgreSQL wakes them when
a row that they wait for is removed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from agentopt.core.database import create_tables, insert, transact
from agentopt.core.errors import JournalError
from agentopt.models.journal_rows import RESPONSES_OF
from agentopt.models.journal_tables import flights
from agentopt.models.lease import TABLES, has_ended, members, this_process
from agentopt.models.listen_notify import CHANNEL, Signal

LEASE_SECONDS = 30.0
"""How long after its last sign of life a process may be taken for dead."""
FIRST_POLL, LAST_POLL = 0.02, 0.5
"""Seconds between two polls at first, and at most."""
BATCH = 300
"""Responses per statement: databases bound the number of parameters."""

Place = tuple[str, int]
"""Key and repeat index of a response."""

Query = Callable[[sa.Executable], Awaitable[Sequence[sa.Row[Any]]]]

_ROW = sa.tuple_(flights.c.key, flights.c.repeat)
_TAKEN = sa.select(flights.c.key, flights.c.repeat, flights.c.worker, members.c.process).select_from(
    flights.outerjoin(members, members.c.id == flights.c.worker)
)
_LOCKED = (
    sa.select(flights.c.key, flights.c.repeat, flights.c.worker, flights.c.is_awaited)
    .where(flights.c.key.in_(sa.bindparam("keys", expanding=True)))  # SQLite has no index for pairs
    .order_by(flights.c.key, flights.c.repeat)
    .with_for_update()
)
_REMOVE = flights.delete().where(
    flights.c.key == sa.bindparam("of_key"),
    flights.c.repeat == sa.bindparam("of_repeat"),
    flights.c.worker == sa.bindparam("of_worker"),
)


class Flights:
    """The responses that this process is requesting, and those that others are.

    Args:
        engine: The database.
        worker: Identifier of this process's session.
        query: Reads rows without blocking the event loop.
        is_usable: Whether a row of `RESPONSES_OF` is a response that need not be requested again.
        lease_seconds: How long after its last sign of life this process may be taken for dead.
    """

    def __init__(
        self,
        engine: sa.Engine,
        worker: str,
        query: Query,
        is_usable: Callable[[sa.Row[Any]], bool],
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._engine, self._worker, self._query, self._is_usable = engine, worker, query, is_usable
        self._lease_seconds = lease_seconds
        self._is_postgres = engine.dialect.name == "postgresql"
        self._now: sa.ColumnElement[float] = sa.literal_column(
            "extract(epoch FROM clock_timestamp())"
            if self._is_postgres
            else "((julianday('now') - 2440587.5) * 86400.0)",
            sa.Double,
        )
        create_tables(engine, TABLES)
        self._claim = self._claiming()
        # Without a lease: what this process claims has leases of its own.
        own = {"id": worker, "process": this_process(), "until": 0.0}
        self._introduce = insert(engine, members).values(own).on_conflict_do_nothing()
        self._held: set[Place] = set()
        self._waiting: dict[asyncio.Future[None], set[Place]] = {}
        self._polling: asyncio.Task[None] | None = None
        self._signal = Signal(engine) if self._is_postgres else None
        self._beating: threading.Thread | None = None
        self._ended = threading.Event()

    def lock(self, connection: sa.Connection, places: Sequence[Place]) -> bool:
        """Lock the rows of responses in one order, before they are claimed and released, and return if any is awaited.

        SQLite has one writer at a time, which polls, so nothing is locked there.

        Args:
            connection: The transaction.
            places: The responses.
        """
        return self._is_postgres and any(row.is_awaited for row in _rows(connection, _LOCKED, places))

    def claim(self, connection: sa.Connection, groups: Sequence[Sequence[Place]]) -> list[bool]:
        """Claim responses in a transaction, each group as a whole or not at all.

        A group is refused if another process is requesting one of its responses, or has stored one since it was
        looked up.

        Args:
            connection: The transaction.
            groups: Groups of responses, which have none in common.

        Returns:
            For each group, whether it is claimed.
        """
        places = sorted(place for group in groups for place in group)
        rows = [{"key": key, "repeat": repeat, "worker": self._worker, "is_awaited": False} for key, repeat in places]
        if self._beating is None:
            connection.execute(self._introduce)
        claimed = connection.execute(self._claim, rows).rowcount
        # After the claims: a row that was removed meanwhile was removed together with storing the response.
        refused = {(row.key, row.repeat) for row in _rows(connection, RESPONSES_OF, places) if self._is_usable(row)}
        if claimed < len(places):
            found = _rows(connection, _LOCKED, places)
            refused.update((row.key, row.repeat) for row in found if row.worker != self._worker)
        refused.update(self._held.intersection(places))
        outcomes = [refused.isdisjoint(group) for group in groups]
        lost = {place for group, is_won in zip(groups, outcomes, strict=True) if not is_won for place in group}
        self.release(connection, sorted(lost - self._held))
        return outcomes

    def release(self, connection: sa.Connection, places: Sequence[Place], *, is_awaited: bool = False) -> None:
        """Let other processes request responses, in a transaction.

        Args:
            connection: The transaction.
            places: The responses. Those that another process has taken over stay with it.
            is_awaited: Whether other processes wait for one of them.
        """
        if places:
            rows = [{"of_key": key, "of_repeat": n, "of_worker": self._worker} for key, n in sorted(places)]
            connection.execute(_REMOVE, rows)
        if is_awaited:
            connection.exec_driver_sql(f"NOTIFY {CHANNEL}")

    def hold(self, places: Sequence[Place]) -> None:
        """Renew the leases of claimed responses from now on."""
        self._held.update(places)
        if self._beating is None:
            self._beating = threading.Thread(target=self._beat, name="journal-leases", daemon=True)
            self._beating.start()

    def drop(self, places: Sequence[Place]) -> None:
        """Note that claimed responses are released."""
        self._held.difference_update(places)

    async def wait(self, places: Sequence[Place]) -> None:
        """Wait until none of the responses is being requested.

        Args:
            places: The responses, none of which this caller has claimed.

        Raises:
            JournalError: The table cannot be read.
        """
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[ended] = set(places)
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())
        elif self._signal:
            self._signal.wake()
        try:
            await ended
        finally:
            self._waiting.pop(ended, None)

    def close(self) -> None:
        """End the threads, and let other processes request what this one has claimed and will not request."""
        self._ended.set()
        if self._beating:
            self._beating.join()
            with suppress(sa.exc.DBAPIError):
                transact(self._engine, lambda connection: self._remove(connection, [self._worker]))
        if self._signal:
            self._signal.close()

    async def _poll(self) -> None:
        pause = FIRST_POLL
        try:
            while self._waiting:
                taken = await self._taken()
                free = [ended for ended, places in self._waiting.items() if taken.isdisjoint(places)]
                for ended in free:
                    del self._waiting[ended]
                    if not ended.done():
                        ended.set_result(None)
                pause = FIRST_POLL if free else min(1.5 * pause, LAST_POLL)
                if self._waiting:
                    await (self._signal.wait(LAST_POLL) if self._signal else asyncio.sleep(pause))
        except sa.exc.DBAPIError as error:
            for ended in self._waiting:
                if not ended.done():
                    ended.set_exception(JournalError(f"the journal cannot be read: {error.orig}"))

    async def _taken(self) -> set[Place]:
        """The responses that are being requested, by any process. On PostgreSQL, their removal wakes this one."""
        if self._signal:
            keys = sorted({key for places in self._waiting.values() for key, _ in places})
            for start in range(0, len(keys), BATCH):
                unmarked = flights.c.key.in_(keys[start : start + BATCH]), ~flights.c.is_awaited
                of_keys = sa.select(flights.c.key, flights.c.repeat).where(*unmarked)
                ordered = of_keys.order_by(flights.c.key, flights.c.repeat).with_for_update()
                await self._query(
                    flights.update().where(_ROW.in_(ordered)).values(is_awaited=True).returning(flights.c.key)
                )
        rows = await self._query(_TAKEN.where(flights.c.lease_until > self._now))
        known = {row.worker: row.process for row in rows if row.process}
        if ended := [worker for worker, process in known.items() if has_ended(process)]:
            await asyncio.to_thread(transact, self._engine, lambda connection: self._remove(connection, ended))
        return {(row.key, row.repeat) for row in rows if row.worker not in ended}

    def _remove(self, connection: sa.Connection, workers: Sequence[str]) -> None:
        """Remove processes, with what they claimed."""
        own = sa.select(flights.c.key, flights.c.repeat).where(flights.c.worker.in_(workers))
        ordered = own.order_by(flights.c.key, flights.c.repeat).with_for_update()
        connection.execute(flights.delete().where(_ROW.in_(ordered)))
        connection.execute(members.delete().where(members.c.id.in_(workers)))

    def _beat(self) -> None:
        own = sa.select(flights.c.key, flights.c.repeat).where(flights.c.worker == self._worker)
        # A row that is locked is being claimed or released by this process.
        renew = flights.update().where(_ROW.in_(own.with_for_update(skip_locked=True)))
        renew = renew.values(lease_until=self._now + self._lease_seconds)
        while not self._ended.wait(self._lease_seconds / 4):
            if self._held:
                with suppress(sa.exc.DBAPIError):  # writes report that the database is lost
                    transact(self._engine, lambda connection: connection.execute(renew))

    def _claiming(self) -> sa.Insert:
        statement = insert(self._engine, flights).values(lease_until=self._now + self._lease_seconds)
        new = statement.excluded
        return statement.on_conflict_do_update(
            index_elements=["key", "repeat"],
            set_={"worker": new.worker, "lease_until": new.lease_until, "is_awaited": False},
            where=flights.c.lease_until < self._now,
        ).execution_options(preserve_rowcount=True)


def _rows(connection: sa.Connection, query: sa.Select[Any], places: Sequence[Place]) -> Iterator[sa.Row[Any]]:
    """The rows of a query by `keys` that are of one of the places."""
    keys, wanted = sorted({key for key, _ in places}), set(places)
    for start in range(0, len(keys), BATCH):
        rows = connection.execute(query, {"keys": keys[start : start + BATCH]}).all()
        yield from (row for row in rows if (row.key, row.repeat) in wanted)
