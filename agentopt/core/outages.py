"""How long the transactions of a run wait for a database that is away, or that another process has locked.

All of them are repeated by one loop. An outage of a database is counted once, by whoever meets it: who finds that it
has lasted too long gives up, and the steps after that do not wait again. A run that is ending waits for a shorter time,
and a server that does not answer it is disconnected.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar
from weakref import WeakSet

import sqlalchemy as sa

from agentopt.core.message_text import counted

T = TypeVar("T")

WAIT_SECONDS = 60
"""Seconds to wait for the lock of another process, and for a database that restarts."""
PAID_SECONDS, TIDY_SECONDS = 40, 4
"""Seconds that a run that is ending waits to store what was paid for, and for the rest. Of a database server that does
not answer, the seconds of a connection (`KEEPALIVE`) and of `TIDY_SECONDS` are added."""
AGAIN_SECONDS = 5
"""Seconds after an attempt in which no other is made, once an outage has lasted too long."""
RESPONSES, RUN_FILES, LEASE = "responses", "files", "lease"
"""What may not be stored if a run ends while its database is away."""
PASSING = frozenset({"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "53300", "25P03"})
"""SQLSTATE codes of failures that pass: serialisation, deadlock, lock wait, shutdown, start, too many connections, a
transaction that paused for too long."""


class Patience:
    """What the transactions of one run share. It is used by the databases that are opened inside of `applied`.

    Args:
        is_ending: Returns whether the run is interrupted. Called in any thread.
        clock: Monotonic time in seconds.
        sleep: Waits for a number of seconds.
        tick: Seconds between two looks at the connections of a run that is ending.
    """

    def __init__(
        self,
        is_ending: Callable[[], bool] = lambda: False,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        tick: float = 1.0,
    ) -> None:
        self._is_ending, self.clock, self.sleep, self._tick = is_ending, clock, sleep, tick
        self._ending_since: float | None = None
        self._outages: dict[str, Outage] = {}
        self._connections = WeakSet[Any]()
        self._lock, self._over = threading.Lock(), threading.Event()
        self._watching: threading.Thread | None = None
        self._lost: dict[str, int] = {}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use it for the databases that are opened in the block. Afterwards, none of them may be in use."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)
            self._over.set()
            for connection in self._open():
                _disconnect(connection, only_waiting=True)  # a thread that was given up waits for it

    @property
    def lost_responses(self) -> int:
        """Number of responses that could not be stored."""
        return self._lost.get(RESPONSES, 0)

    @property
    def losses(self) -> str | None:
        """What could not be stored, in a sentence; None if everything was."""
        verb = "was" if self.lost_responses == 1 else "were"
        responses = f"{counted(self.lost_responses, 'response')} that {verb} paid for"
        parts = {
            RESPONSES: f"{responses} (their calls count at their worst case, and are made again)",
            RUN_FILES: "the files of the run that changed (they are in its folder)",
            LEASE: "that this process has ended (its lease ends by itself within 15 seconds)",
        }
        found = [part for what, part in parts.items() if what in self._lost]
        return f"the database cannot be reached; not stored: {'; '.join(found)}" if found else None

    def lose(self, what: str, number: int = 1) -> None:
        """Note that something could not be stored.

        Args:
            what: What it is.
            number: How much of it.
        """
        with self._lock:
            self._lost[what] = self._lost.get(what, 0) + number

    def of(self, place: str) -> Outage:
        """Return what the transactions of one database share.

        Args:
            place: The database's URL.
        """
        with self._lock:
            return self._outages.setdefault(place, Outage(self))

    def ending_since(self) -> float | None:
        """Return since when the run is ending; None if it is not."""
        if not self._is_ending():
            self._ending_since = None
        elif self._ending_since is None:
            self._ending_since = self.clock()
        return self._ending_since

    def watch(self, connection: Any) -> None:
        """Disconnect a server that does not answer while the run ends; no time limit of PostgreSQL's would end that.

        Args:
            connection: A psycopg connection.
        """
        with self._lock:
            self._connections.add(connection)
            if self._watching is None:
                self._watching = threading.Thread(target=self._watch, name="outages", daemon=True)
                self._watching.start()

    def _open(self) -> list[Any]:
        with self._lock:
            return [connection for connection in self._connections if not connection.closed]

    def _watch(self) -> None:
        waiting: dict[int, int] = {}
        while not self._over.wait(self._tick):
            before, waiting = waiting, {}
            for connection in self._open() if self.ending_since() is not None else ():
                if _is_waiting(connection):
                    waiting[id(connection)] = before.get(id(connection), 0) + 1
                if waiting.get(id(connection), 0) > TIDY_SECONDS:
                    _disconnect(connection)


_current: ContextVar[Patience | None] = ContextVar("patience", default=None)


def current() -> Patience | None:
    """Return what is applied here; None if nothing is."""
    return _current.get()


def outage_at(place: str) -> Outage:
    """Return what the transactions of a database share: those of the run here, otherwise those of the caller.

    Args:
        place: The database's URL.
    """
    return (current() or Patience()).of(place)


class Outage:
    """What the transactions of one database share: since when they fail.

    Args:
        patience: That of the run.
    """

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self._since: float | None = None
        self._last, self._error = 0.0, Exception()

    def repeat(self, attempt: Callable[[], T], *, is_paid: bool = False) -> T:
        """Return what `attempt` returns; call it again while it fails for a reason that passes.

        Args:
            attempt: The attempt. It must give the same result if it is repeated.
            is_paid: Whether it stores what was paid for, so that it is waited for while the run ends, too.

        Raises:
            Exception: That of the last attempt, here or in another thread, if the outage has lasted too long.
        """
        begun, wait = self.patience.clock(), 0.01
        while True:
            is_recent = self.patience.clock() - self._last < AGAIN_SECONDS
            if self._since is not None and is_recent and self._is_too_long(self._since, is_paid):
                raise self._error
            try:
                result = attempt()
            except Exception as error:
                if not is_passing(error):
                    raise
                if self._is_too_long(self._failed(error, begun), is_paid):
                    raise
            else:
                self._since = None
                return result
            self.patience.sleep(wait)
            wait = min(2 * wait, 1.0)

    def _failed(self, error: Exception, begun: float) -> float:
        """Note a failed attempt of a transaction. Returns since when this one, or an earlier one, fails."""
        now = self.patience.clock()
        if self._since is None or now - self._last > WAIT_SECONDS:
            self._since = begun
        self._last, self._error = now, error
        return min(begun, self._since)

    def _is_too_long(self, since: float, is_paid: bool) -> bool:
        now, ending = self.patience.clock(), self.patience.ending_since()
        if ending is not None and now - max(since, ending) > (PAID_SECONDS if is_paid else TIDY_SECONDS):
            return True
        return now - since > WAIT_SECONDS


def is_passing(error: BaseException) -> bool:
    """Whether the same transaction may succeed later: after a deadlock, a lost connection or a restart.

    Args:
        error: SQLAlchemy's, a driver's, or that of the lock of a file.
    """
    if isinstance(error, TimeoutError):
        return True
    if isinstance(error, sa.exc.DBAPIError):
        return error.connection_invalidated or (error.orig is not None and is_passing(error.orig))
    if isinstance(error, sqlite3.Error):
        code: int = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if state:
        return state in PASSING or state.startswith("08")
    # A connection that cannot be opened, as during a restart, has no state.
    return any(kind.__name__ == "OperationalError" for kind in type(error).__mro__)


def _is_waiting(connection: Any) -> bool:
    """Whether a psycopg connection waits for the server's answer."""
    from psycopg.pq import TransactionStatus

    with suppress(Exception):  # another thread closes it
        return bool(connection.pgconn.transaction_status == TransactionStatus.ACTIVE)
    return False


def _disconnect(connection: Any, *, only_waiting: bool = False) -> None:
    """Let the thread that waits for the server find the connection lost."""
    if only_waiting and not _is_waiting(connection):
        return
    # The exception: another thread closes it.
    with suppress(Exception), socket.socket(fileno=os.dup(connection.pgconn.socket)) as copy:
        copy.shutdown(socket.SHUT_RDWR)
