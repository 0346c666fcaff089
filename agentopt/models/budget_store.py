"""The budget of a run in a database: what each process was granted, and what it settled.

All grants of a run are made one after the other, under the lock of its row in `budgets`. What a process was granted
counts against the caps until it returns it. Processes that have left or died are counted by the ledger: their calls at
what they cost, or at their worst case if their outcome is not known. So a dead process's unspent grant is free again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import sqlalchemy as sa

from agentopt.core.budget import Caps, Usage
from agentopt.core.database import create_tables, insert, transact
from agentopt.models.journal_tables import ledger
from agentopt.models.lease import Lease

SLICE_CALLS = 50
"""Most calls that a process is granted at once."""

TABLES = sa.MetaData()
budgets = sa.Table(
    "budgets",
    TABLES,
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
)
"""The runs with grants; the row is the lock of a run's grants."""
grants = sa.Table(
    "budget_grants",
    TABLES,
    sa.Column("run", sa.Text, primary_key=True),
    sa.Column("member", sa.String(32), primary_key=True),
    sa.Column("purpose", sa.String(16), primary_key=True),
    sa.Column("calls", sa.Integer, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("usd", sa.Double, nullable=False),
    sa.Column("granted_calls", sa.Integer, nullable=False),
    sa.Column("granted_tokens", sa.BigInteger, nullable=False),
    sa.Column("granted_usd", sa.Double, nullable=False),
)
"""What each process settled, and what it was granted beyond that. The member `` has what others spent before."""
BASE, JOINED = "", ""
"""The member for the spend of processes that are gone; the purpose of the row that shows that a member has joined."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the spend.

    Attributes:
        settled: The settled usage.
        granted: What was granted beyond it: the worst case of calls in flight, and what is not used yet. Tokens are in
            `completion_tokens`.
    """

    settled: Usage = field(default_factory=Usage)
    granted: Usage = field(default_factory=Usage)

    @property
    def taken(self) -> Usage:
        """What counts against the caps."""
        return self.settled + self.granted


@dataclass(frozen=True, slots=True)
class Wish:
    """A call that needs a grant.

    Attributes:
        purpose: Its purpose.
        worst: Its worst case.
        held_back: Usage that is withheld from the run's caps.
    """

    purpose: str
    worst: Usage
    held_back: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class View:
    """The state of a run's budget after a transaction.

    Attributes:
        others: Purpose -> what all other processes, and earlier sessions, settled.
        granted: What was granted for the wish; None if it does not fit now.
        version: Number of changes of the budget so far.
        members: The processes that share the budget, this one included.
    """

    others: Mapping[str, Usage] = field(default_factory=dict)
    granted: Usage | None = None
    version: int = 0
    members: frozenset[str] = frozenset()


class BudgetStore:
    """The budget of one run, as one of its processes changes it.

    Args:
        engine: The database, which has the ledger too.
        run: The run in the ledger.
        lease: The process's lease.
        caps: Caps of the whole run.
        purpose_caps: Purpose -> caps within the run.
    """

    def __init__(
        self, engine: sa.Engine, run: str, lease: Lease, caps: Caps, purpose_caps: Mapping[str, Caps] | None = None
    ) -> None:
        self._engine, self._run, self._lease = engine, run, lease
        self._caps, self._purpose_caps = caps, dict(purpose_caps or {})
        create_tables(engine, TABLES)

    def sync(self, own: Mapping[str, Share], wish: Wish | None = None, *, recount: bool = False) -> View:
        """Record the process's spend, return what it does not use, and grant a wish, in one transaction.

        Args:
            own: Purpose -> what the process settled, and the worst case of its calls in flight.
            wish: The call that needs a grant.
            recount: Whether what earlier sessions spent has changed in the ledger.

        Returns:
            The view. A grant is at least the worst case of the wish, and at most that of `SLICE_CALLS` such calls;
            it is smaller the less is left, so that little is unused in one process while another needs it.
        """
        return transact(self._engine, lambda connection: self._sync(connection, own, wish, recount))

    def has_changed(self, view: View) -> bool:
        """Whether a wish that was refused may be granted now, without a transaction that others wait for.

        Args:
            view: The view in which it was refused.
        """
        with self._engine.connect() as connection:
            live = self._lease.live(connection) | {self._lease.member}
            return self._version(connection) != view.version or not view.members <= live

    def _sync(self, connection: sa.Connection, own: Mapping[str, Share], wish: Wish | None, recount: bool) -> View:
        self._lock(connection)
        shares = self._shares(connection, recount)
        others = {place: share for place, share in shares.items() if place[0] != self._lease.member}
        settled = _by_purpose({place: share.settled for place, share in others.items()})
        taken = _by_purpose({place: share.taken for place, share in others.items()})
        for purpose, share in own.items():
            taken[purpose] = taken.get(purpose, Usage()) + share.taken
        members = frozenset(member for member, _ in shares) - {BASE}
        granted = self._grant(wish, taken, len(members)) if wish else None
        self._store(connection, shares, own, wish, granted)
        version = self._version(connection)
        return View(settled, granted, version, members)

    def leave(self) -> View:
        """Remove the process from the budget; from now on the ledger has what it spent.

        Returns:
            The view, in which all spend is that of others.
        """

        def work(connection: sa.Connection) -> View:
            self._lock(connection)
            connection.execute(grants.delete().where(self._of_run, grants.c.member == self._lease.member))
            self._recount(connection, self._lease.live(connection) - {self._lease.member})
            self._count_change(connection)
            shares = self._read(connection)
            return View(_by_purpose({place: share.settled for place, share in shares.items()}))

        return transact(self._engine, work)

    @property
    def _of_run(self) -> sa.ColumnElement[bool]:
        return grants.c.run == self._run

    def _lock(self, connection: sa.Connection) -> None:
        change = budgets.update().where(budgets.c.run == self._run).values(version=budgets.c.version)
        if not connection.execute(change).rowcount:
            row = {"run": self._run, "version": 0}
            connection.execute(insert(self._engine, budgets).on_conflict_do_nothing(), row)
            connection.execute(change)

    def _version(self, connection: sa.Connection) -> int:
        found = connection.execute(sa.select(budgets.c.version).where(budgets.c.run == self._run)).scalar()
        return 0 if found is None else int(found)

    def _count_change(self, connection: sa.Connection) -> None:
        change = budgets.update().where(budgets.c.run == self._run)
        connection.execute(change.values(version=budgets.c.version + 1))

    def _shares(self, connection: sa.Connection, recount: bool) -> dict[tuple[str, str], Share]:
        """(member, purpose) -> share; first moves what dead processes left to the base, and joins."""
        shares, live = self._read(connection), self._lease.live(connection) | {self._lease.member}
        joined = {member for member, _ in shares} - {BASE}
        if recount or self._lease.member not in joined or joined - live:
            self._recount(connection, live)
            self._count_change(connection)
            self._write(connection, self._lease.member, JOINED, Share())
            shares = self._read(connection)
        return shares

    def _read(self, connection: sa.Connection) -> dict[tuple[str, str], Share]:
        rows = connection.execute(sa.select(grants).where(self._of_run))
        return {
            (row.member, row.purpose): Share(
                Usage(row.calls, row.prompt_tokens, row.completion_tokens, row.usd),
                Usage(row.granted_calls, 0, row.granted_tokens, row.granted_usd),
            )
            for row in rows
        }

    def _recount(self, connection: sa.Connection, live: set[str]) -> None:
        """Count by the ledger what was spent by all but the live processes that have joined."""
        c, of_run = ledger.c, grants.c.run == self._run
        connection.execute(grants.delete().where(of_run, grants.c.member.not_in(live)))
        joined = set(connection.execute(sa.select(grants.c.member).where(of_run)).scalars()) | (
            live & {self._lease.member}
        )
        sums = [sa.func.sum(column) for column in (c.calls, c.prompt_tokens, c.completion_tokens, c.usd)]
        query = sa.select(c.purpose, *sums).where(c.run == self._run, c.session.not_in(joined)).group_by(c.purpose)
        for purpose, *spent in connection.execute(query).fetchall():
            self._write(connection, BASE, purpose, Share(Usage(*spent)))

    def _grant(self, wish: Wish, taken: Mapping[str, Usage], sharers: int) -> Usage | None:
        total = sum(taken.values(), Usage()) + wish.held_back
        bounds = [(self._caps, total)]
        if of_purpose := self._purpose_caps.get(wish.purpose):
            bounds.append((of_purpose, taken.get(wish.purpose, Usage())))
        if any(caps.exceeded_by(used + wish.worst) for caps, used in bounds):
            return None
        most = SLICE_CALLS
        for caps, used in bounds:
            for name in ("calls", "tokens", "usd"):
                cap, worst = getattr(caps, name), getattr(wish.worst, name)
                if cap is not None and worst > 0:
                    most = min(most, int((cap - getattr(used, name)) / (2 * sharers * worst)))
        return wish.worst * max(1, most)

    def _store(
        self,
        connection: sa.Connection,
        before: Mapping[tuple[str, str], Share],
        own: Mapping[str, Share],
        wish: Wish | None,
        granted: Usage | None,
    ) -> None:
        # A grant that was never used, because the lease was over when it came, is returned too.
        shares = {purpose: Share() for member, purpose in before if member == self._lease.member} | dict(own)
        if wish and granted:
            share = own.get(wish.purpose, Share())
            shares[wish.purpose] = Share(share.settled, share.granted + granted)
        changed = {p: share for p, share in shares.items() if before.get((self._lease.member, p), Share()) != share}
        for purpose, share in changed.items():
            self._write(connection, self._lease.member, purpose, share)
        if changed:
            self._count_change(connection)

    def _write(self, connection: sa.Connection, member: str, purpose: str, share: Share) -> None:
        granted = {f"granted_{name}": getattr(share.granted, name) for name in ("calls", "tokens", "usd")}
        values = {**asdict(share.settled), **granted}
        place = {"run": self._run, "member": member, "purpose": purpose}
        upsert = insert(self._engine, grants).values({**place, **values})
        connection.execute(upsert.on_conflict_do_update(index_elements=list(place), set_=values))


def _by_purpose(of_members: Mapping[tuple[str, str], Usage]) -> dict[str, Usage]:
    found: dict[str, Usage] = {}
    for (_, purpose), usage in of_members.items():
        if purpose != JOINED:
            found[purpose] = found.get(purpose, Usage()) + usage
    return found
