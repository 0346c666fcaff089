"""Which processes use a database now: each renews a lease, on the database's clock, in a thread of its own.

What belongs to a process whose lease is over, or that is known to have ended, may be taken over. A process that was
suspended finds out by its own clock, before it uses what may have been taken over meanwhile.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from agentopt.core.database import create_tables, insert, transact

LEASE_SECONDS = 15.0
"""Seconds after which what belongs to a process that does not renew its lease may be taken over."""

TABLES = sa.MetaData()
members = sa.Table(
    "members",
    TABLES,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("process", sa.Text, nullable=False),
    sa.Column("until", sa.Double, nullable=False),
)
"""The processes that use the database, by their session in the ledger."""

Now = Callable[[], "sa.ColumnElement[float]"]
"""Returns an expression for the present time, in seconds."""


def database_now(engine: sa.Engine) -> Now:
    """Return the database's own clock, in seconds since 1970, so that the clocks of hosts need not agree.

    Args:
        engine: The database.
    """
    if engine.dialect.name == "sqlite":
        return lambda: (sa.func.julianday("now", type_=sa.Double) - 2440587.5) * 86400.0
    return lambda: sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)


def elapsed() -> float:
    """Return seconds of a clock that also runs while the process, or the machine, is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lease:
    """The lease of one process, and the view of the others'.

    Args:
        engine: The database.
        member: Id of the process: its session in the ledger.
        seconds: Duration of a lease.
        now: Clock of the database.
        clock: A local clock, by which the process knows whether its own lease may be over.
        process: Identifies the operating system's process; see `this_process`.

    Attributes:
        member: Id of the process.
        now: Clock of the database.
        lapses: How often the lease was over before it was renewed.
    """

    def __init__(
        self,
        engine: sa.Engine,
        member: str,
        *,
        seconds: float = LEASE_SECONDS,
        now: Now | None = None,
        clock: Callable[[], float] = elapsed,
        process: str | None = None,
    ) -> None:
        self.member, self.now = member, now or database_now(engine)
        self._engine, self._seconds, self._clock = engine, seconds, clock
        self._process = this_process() if process is None else process
        self._valid_until, self.lapses = clock(), 0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        create_tables(engine, TABLES)

    @property
    def is_valid(self) -> bool:
        """Whether no other process may have taken over what belongs to this one."""
        return self._clock() < self._valid_until

    def renew(self) -> None:
        """Extend the lease, or begin one."""
        until = {"until": self.now() + self._seconds}
        row = {"id": self.member, "process": self._process, **until}
        upsert = insert(self._engine, members).values(row).on_conflict_do_update(index_elements=["id"], set_=until)

        def work(connection: sa.Connection) -> float:
            begun = self._clock()
            connection.execute(upsert)
            return begun

        valid_until = transact(self._engine, work) + self._seconds
        self.lapses += not self.is_valid
        self._valid_until = valid_until

    def live(self, connection: sa.Connection) -> set[str]:
        """Return the ids of the processes that have a lease and are not known to have ended.

        Args:
            connection: A connection to the database.
        """
        rows = connection.execute(sa.select(members.c.id, members.c.process).where(members.c.until > self.now()))
        return {row.id for row in rows if not has_ended(row.process)}

    def start(self) -> None:
        """Begin the lease, and renew it in a thread until `end`."""
        self.renew()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End the lease."""
        self._over.set()
        if self._thread:
            self._thread.join()
        self._valid_until = self._clock()
        transact(self._engine, lambda c: c.execute(members.delete().where(members.c.id == self.member)))

    def _keep_renewing(self) -> None:
        while not self._over.wait(self._seconds / 5):
            try:
                self.renew()
            except SQLAlchemyError:  # the lease outlasts a short outage; renewed at the next turn
                continue


def this_process() -> str:
    """Return what identifies this process among all hosts; empty if the system does not show it."""
    return _identity(os.getpid())


def has_ended(process: str) -> bool:
    """Whether a process of this machine has ended; False if that cannot be known.

    Args:
        process: As `this_process` returned it.
    """
    machine, _, pid = process.rpartition("/")[0].rpartition("/")
    return bool(process) and machine == _machine() and _identity(int(pid)) != process


@cache
def _machine() -> str:
    """The running system and its name space of processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _identity(pid: int) -> str:
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    machine, started = _machine(), fields[18]  # by which two processes of one id differ
    return f"{machine}/{pid}/{started}" if machine and state != "Z" else ""
