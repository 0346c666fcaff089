"""Processes that share a budget start, send, settle, are suspended and die in any order, on either database."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from agentopt.core.budget import Caps, Reservation, Usage
from agentopt.core.database import VERSIONS, create_tables, open_engine
from agentopt.core.errors import BudgetExceeded
from agentopt.models.budget_store import BudgetStore
from agentopt.models.journal_tables import TABLES, ledger
from agentopt.models.lease import LEASE_SECONDS, Lease
from agentopt.models.shared_budget import SharedBudget

CAPS = Caps(calls=40, tokens=600)
OF_AGENT = {"agent": Caps(calls=12)}
PURPOSES = st.sampled_from(["samples", "agent"])
CHOSEN = st.integers(0, 1000)


@dataclass
class Process:
    """One process that works on the run."""

    budget: SharedBudget
    lease: Lease
    open: list[tuple[Reservation, str]] = field(default_factory=list)
    is_suspended: bool = False


class SharedBudgets(RuleBasedStateMachine):
    """The ledger is what a client writes: each call at its worst case before it is sent.

    Args:
        place: The database, which is emptied.
    """

    def __init__(self, place: str | Path) -> None:
        super().__init__()
        self.loop, self.now = asyncio.new_event_loop(), 0.0
        self.engine = open_engine(place)
        if isinstance(place, Path):
            sa.event.listen(self.engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
        create_tables(self.engine, TABLES)
        self.empty_tables()
        self.processes: list[Process] = []

    def teardown(self) -> None:
        self.everything_free_can_be_used()
        for process in self.processes:
            self.loop.run_until_complete(process.budget.aclose())
        self.loop.close()
        self.engine.dispose()

    def empty_tables(self) -> None:
        found = sa.MetaData()
        found.reflect(self.engine)
        with self.engine.begin() as connection:
            for name, table in found.tables.items():
                if name != VERSIONS.name:
                    connection.execute(table.delete())

    @precondition(lambda self: len(self.processes) < 4)
    @rule()
    def start(self) -> None:
        session = uuid.uuid4().hex
        lease = Lease(self.engine, session, now=lambda: sa.literal(self.now), clock=lambda: self.now, process="")
        lease.renew()
        store = BudgetStore(self.engine, "run", lease, CAPS, OF_AGENT)
        self.processes.append(Process(SharedBudget(store, lease, CAPS, purpose_caps=OF_AGENT), lease))

    @precondition(lambda self: self.active)
    @rule(
        which=CHOSEN,
        purpose=PURPOSES,
        tokens=st.integers(1, 60),
        calls=st.integers(1, 4),
        patience=st.sampled_from([0.001, 0.01]),
    )
    def send(self, which: int, purpose: str, tokens: int, calls: int, patience: float) -> None:
        process = self.active[which % len(self.active)]
        for _ in range(calls):
            self.try_to_send(process, Usage(1, tokens), purpose, patience)

    @precondition(lambda self: self.in_flight)
    @rule(which=CHOSEN, cheaper=st.integers(0, 60))
    def settle(self, which: int, cheaper: int) -> None:
        process, sent = self.in_flight[which % len(self.in_flight)]
        worst = sent[0].worst
        self.answer(process, sent, Usage(1, max(0, worst.prompt_tokens - cheaper)))

    @precondition(lambda self: self.processes)
    @rule(which=CHOSEN)
    def die(self, which: int) -> None:
        self.processes.pop(which % len(self.processes))

    @precondition(lambda self: self.processes)
    @rule(which=CHOSEN)
    def suspend_or_wake(self, which: int) -> None:
        process = self.processes[which % len(self.processes)]
        process.is_suspended = not process.is_suspended
        if not process.is_suspended:
            process.lease.renew()

    @rule(seconds=st.floats(1, 2 * LEASE_SECONDS))
    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds) // 5 + 1):
            self.now += 5
            for process in self.active:
                process.lease.renew()

    @precondition(lambda self: self.processes)
    @rule(which=CHOSEN)
    def publish(self, which: int) -> None:
        process = self.processes[which % len(self.processes)]
        if not process.is_suspended:
            self.loop.run_until_complete(process.budget.publish())

    @invariant()
    def no_cap_is_passed(self) -> None:
        total = self.total(ledger.c.run == "run")
        assert CAPS.exceeded_by(total) is None, total
        of_agent = self.total(ledger.c.purpose == "agent")
        assert OF_AGENT["agent"].exceeded_by(of_agent) is None, of_agent

    @property
    def active(self) -> list[Process]:
        return [process for process in self.processes if not process.is_suspended]

    @property
    def in_flight(self) -> list[tuple[Process, tuple[Reservation, str]]]:
        return [(process, sent) for process in self.active for sent in process.open]

    def total(self, which: sa.ColumnElement[bool]) -> Usage:
        c = ledger.c
        sums = [sa.func.coalesce(sa.func.sum(column), 0) for column in (c.calls, c.prompt_tokens)]
        with self.engine.connect() as connection:
            return Usage(*connection.execute(sa.select(*sums).where(which)).one())

    def try_to_send(self, process: Process, worst: Usage, purpose: str, patience: float) -> bool:
        async def reserve() -> Reservation:
            return await asyncio.wait_for(process.budget.reserve(worst, purpose), patience)

        try:
            reservation = self.loop.run_until_complete(reserve())
        except BudgetExceeded:
            return False
        except TimeoutError:
            assert patience < 1, "the call is neither granted nor refused"
            return False
        entry = uuid.uuid4().hex
        row = {"id": entry, "run": "run", "session": process.lease.member, "model": "m", "purpose": purpose}
        values = {**row, **asdict(worst), "outcome": "in flight", "opened": 0.0}
        with self.engine.begin() as connection:
            connection.execute(ledger.insert().values(values))
        process.open.append((reservation, entry))
        return True

    def answer(self, process: Process, sent: tuple[Reservation, str], actual: Usage) -> None:
        async def settled() -> None:  # a timer begins
            process.budget.settle(sent[0], actual)

        with self.engine.begin() as connection:
            change = ledger.update().where(ledger.c.id == sent[1])
            connection.execute(change.values(**asdict(actual), outcome="ok"))
        self.loop.run_until_complete(settled())
        process.open.remove(sent)

    def everything_free_can_be_used(self) -> None:
        """After the leases of dead processes are over and all calls have ended, one process can use what is left."""
        for process in self.processes:
            process.is_suspended = False
        self.pass_time(LEASE_SECONDS + 1)
        for process, sent in self.in_flight:
            self.answer(process, sent, sent[0].worst)
        for process in self.processes:
            self.loop.run_until_complete(process.budget.publish())
        self.start()
        worst = Usage(1, 1)
        while self.try_to_send(self.processes[-1], worst, "samples", patience=60):
            self.answer(self.processes[-1], self.processes[-1].open[-1], worst)
        total = self.total(ledger.c.run == "run")
        assert CAPS.exceeded_by(total + worst), f"{total} is spent, but no more is granted"
        self.no_cap_is_passed()


SETTINGS = settings(
    max_examples=10, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_no_cap_is_passed_and_nothing_free_is_lost(
    database: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    place = tmp_path / "journal.db" if database == "sqlite" else request.getfixturevalue("postgres_url")
    run_state_machine_as_test(lambda: SharedBudgets(place), settings=SETTINGS)  # type: ignore[arg-type]
