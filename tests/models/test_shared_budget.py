"""One suite for the budget of a process and for the budget that processes share; and what only the latter does."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
import sqlalchemy as sa

from agentopt.core.budget import Budget, Caps, Reservation, Usage
from agentopt.core.database import create_tables, open_engine
from agentopt.core.errors import BudgetExceeded, JournalError, TransientModelError
from agentopt.models.budget_store import BudgetStore, Share, View, Wish
from agentopt.models.journal import Journal
from agentopt.models.journal_tables import TABLES, ledger
from agentopt.models.lease import Lease, has_ended, this_process
from agentopt.models.shared_budget import SharedBudget, open_shared_budget
from agentopt.testing.server_process import ServerProcess

ONE = Usage(calls=1, prompt_tokens=10, completion_tokens=5, usd=1 / 128)  # whose sums are exact
Place = str | Path
Opening = Callable[..., AbstractAsyncContextManager[Budget]]


def new_place(kind: str, request: pytest.FixtureRequest, folder: Path) -> Place:
    """An empty database with a ledger."""
    place: Place = folder / "journal.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    engine = open_engine(place)
    create_tables(engine, TABLES)
    engine.dispose()
    return place


DATABASES = ["sqlite", "postgresql"]


@pytest.fixture(params=DATABASES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return new_place(request.param, request, tmp_path)


@pytest.fixture(params=["local", *DATABASES])
def opening(request: pytest.FixtureRequest, tmp_path: Path) -> Opening:
    """Opens the budget of one kind: `opening(caps, purpose_caps=...)`."""
    if request.param == "local":

        @asynccontextmanager
        async def local(caps: Caps = Caps(), **options: object) -> AsyncIterator[Budget]:
            yield Budget(caps, **options)  # type: ignore[arg-type]

        return local
    place = new_place(request.param, request, tmp_path)
    return lambda caps=Caps(), **options: open_shared_budget(place, "run", uuid.uuid4().hex, caps, **options)


async def spend(budget: Budget, usage: Usage = ONE, purpose: str = "samples") -> None:
    budget.settle(await budget.reserve(usage, purpose), usage)


class TestEveryBudget:
    async def test_a_call_that_does_not_fit_is_refused_before_it_is_made(self, opening: Opening) -> None:
        async with opening(Caps(calls=2)) as budget:
            await spend(budget)
            await spend(budget)
            with pytest.raises(BudgetExceeded, match="calls cap of 2 is reached: 2 spent"):
                await budget.reserve(ONE, "samples")
            assert budget.spent == ONE + ONE
            assert budget.spent_by_purpose == {"samples": ONE + ONE}

    async def test_tokens_beyond_32_bits_are_counted(self, opening: Opening) -> None:
        """A run of 1,000,000 examples uses thousands of millions of tokens."""
        large = Usage(1, prompt_tokens=3_000_000_000, completion_tokens=3_000_000_000)
        async with opening(Caps(tokens=10_000_000_000)) as budget:
            await spend(budget, large)
            await budget.publish()
            with pytest.raises(BudgetExceeded, match="cap of 10,000,000,000 has 4,000,000,000 left"):
                await budget.reserve(large, "samples")
            assert budget.spent == large

    @pytest.mark.parametrize("caps", [Caps(tokens=29), Caps(usd=0.015), Caps(calls=1)])
    async def test_every_cap_counts(self, opening: Opening, caps: Caps) -> None:
        async with opening(caps) as budget:
            await spend(budget)
            with pytest.raises(BudgetExceeded):
                await budget.reserve(ONE, "samples")

    async def test_a_call_waits_while_calls_in_flight_may_free_enough(self, opening: Opening) -> None:
        async with opening(Caps(tokens=20)) as budget:
            first = await budget.reserve(ONE, "samples")
            waiting = asyncio.create_task(budget.reserve(ONE, "samples"))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            budget.settle(first, Usage(calls=1, prompt_tokens=3))
            second = await waiting
            assert second.worst == ONE
            budget.settle(second, ONE)
            assert budget.spent.tokens == 18

    async def test_a_waiting_call_is_refused_once_the_budget_is_spent(self, opening: Opening) -> None:
        async with opening(Caps(tokens=20)) as budget:
            first = await budget.reserve(ONE, "samples")
            waiting = asyncio.create_task(budget.reserve(ONE, "samples"))
            await asyncio.sleep(0.05)
            budget.settle(first, ONE)
            with pytest.raises(BudgetExceeded):
                await waiting

    async def test_held_back_spend_is_unavailable_inside_the_block_only(self, opening: Opening) -> None:
        async with opening(Caps(calls=4)) as budget:
            await spend(budget)  # a slice that was granted before the block is not used inside of it
            with budget.holding_back(Usage(calls=2)):
                await spend(budget)
                with pytest.raises(BudgetExceeded, match="2 kept back"):
                    await budget.reserve(ONE, "samples")
            await spend(budget)

    async def test_a_cap_on_one_purpose_leaves_the_others_alone(self, opening: Opening) -> None:
        async with opening(purpose_caps={"agent": Caps(calls=1)}) as budget:
            await spend(budget, purpose="agent")
            with pytest.raises(BudgetExceeded) as refused:
                await budget.reserve(ONE, "agent")
            assert refused.value.name == "agent.calls"
            await spend(budget)
            assert budget.spent_by_purpose == {"agent": ONE, "samples": ONE}

    async def test_the_unused_grant_of_one_purpose_does_not_keep_another_waiting(self, opening: Opening) -> None:
        async with opening(Caps(calls=20)) as budget:
            await spend(budget)
            for _ in range(19):
                await spend(budget, purpose="agent")
            with pytest.raises(BudgetExceeded):
                await budget.reserve(ONE, "samples")

    async def test_more_than_the_worst_case_counts_too(self, opening: Opening) -> None:
        async with opening(Caps(tokens=100)) as budget:
            budget.settle(await budget.reserve(ONE, "samples"), Usage(calls=1, prompt_tokens=90))
            with pytest.raises(BudgetExceeded, match="90 spent"):
                await budget.reserve(ONE, "samples")

    async def test_many_calls_at_once_use_all_of_a_cap_and_not_more(self, opening: Opening) -> None:
        async with opening(Caps(calls=60, tokens=10_000)) as budget:
            most = 0

            async def call() -> bool:
                nonlocal most
                try:
                    reservation = await budget.reserve(ONE, "samples")
                except BudgetExceeded:
                    return False
                most = max(most, (budget.spent + budget.in_flight).calls)
                await asyncio.sleep(0)
                budget.settle(reservation, Usage(calls=1, prompt_tokens=1))
                return True

            assert sum(await asyncio.gather(*(call() for _ in range(90)))) == 60
            assert most == 60
            assert (budget.in_flight.calls, budget.in_flight.tokens) == (0, 0)

    async def test_the_outcome_of_a_call_of_an_earlier_session_may_be_open(self, opening: Opening) -> None:
        async with opening(Caps(calls=1)) as budget:
            reopened = budget.reopen(Usage(), "samples")
            await spend(budget)
            budget.settle(reopened, Usage())
            assert budget.spent == ONE

    async def test_a_budget_is_not_pickled(self, opening: Opening) -> None:
        async with opening(Caps(calls=1)) as budget:
            with pytest.raises(TypeError, match="open a session for the same run there"):
                pickle.dumps(budget)


class Book:
    """A ledger, as a client writes it: each call at its worst case before it is sent."""

    def __init__(self, place: Place) -> None:
        self.engine = open_engine(place)

    def enter(self, session: str, worst: Usage, purpose: str = "samples") -> str:
        entry = uuid.uuid4().hex
        row = {"id": entry, "run": "run", "session": session, "model": "m", "purpose": purpose, "opened": 0.0}
        with self.engine.begin() as connection:
            connection.execute(ledger.insert().values({**row, **asdict(worst), "outcome": "in flight"}))
        return entry

    def close(self, entry: str, actual: Usage) -> None:
        with self.engine.begin() as connection:
            connection.execute(ledger.update().where(ledger.c.id == entry).values(**asdict(actual), outcome="ok"))

    def move(self, entry: str, session: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(ledger.update().where(ledger.c.id == entry).values(session=session))

    @property
    def total(self) -> Usage:
        c = ledger.c
        sums = [sa.func.coalesce(sa.func.sum(n), 0) for n in (c.calls, c.prompt_tokens, c.completion_tokens, c.usd)]
        with self.engine.connect() as connection:
            return Usage(*connection.execute(sa.select(*sums)).one())


@pytest.fixture
def book(place: Place) -> Iterator[Book]:
    book = Book(place)
    yield book
    book.engine.dispose()


class Recorded:
    """A budget whose calls are in the ledger too."""

    def __init__(self, budget: Budget, session: str, book: Book) -> None:
        self.budget, self._session, self._book = budget, session, book

    async def send(self, worst: Usage = ONE, purpose: str = "samples") -> tuple[Reservation, str]:
        reservation = await self.budget.reserve(worst, purpose)
        return reservation, self._book.enter(self._session, worst, purpose)

    async def adopt(self, entry: str, worst: Usage, purpose: str = "samples") -> Reservation:
        """Continue an earlier session's call, in the order in which a `BatchLane` does."""
        reservation = self.budget.reopen(worst, purpose)
        await self.budget.publish()
        self._book.move(entry, self._session)
        await self.budget.publish(recount=True)
        return reservation

    def answered(self, sent: tuple[Reservation, str], actual: Usage = ONE) -> None:
        self._book.close(sent[1], actual)
        self.budget.settle(sent[0], actual)


@asynccontextmanager
async def joined(place: Place, book: Book, caps: Caps, **options: object) -> AsyncIterator[Recorded]:
    session = uuid.uuid4().hex
    async with open_shared_budget(place, "run", session, caps, **options) as budget:  # type: ignore[arg-type]
        yield Recorded(budget, session, book)


async def test_two_processes_have_one_cap(place: Place, book: Book) -> None:
    caps = Caps(calls=10)
    async with joined(place, book, caps) as one, joined(place, book, caps) as other:
        for _ in range(5):
            one.answered(await one.send())
            other.answered(await other.send())
        for budget in (one.budget, other.budget):
            with pytest.raises(BudgetExceeded, match="calls cap of 10 is reached: 10 spent"):
                await budget.reserve(ONE, "samples")
        assert one.budget.spent == other.budget.spent == book.total


async def test_a_call_waits_for_what_another_process_settles(place: Place, book: Book) -> None:
    caps = Caps(tokens=20)
    async with joined(place, book, caps) as one, joined(place, book, caps) as other:
        sent = await one.send()
        waiting = asyncio.create_task(other.send())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        one.answered(sent, Usage(calls=1, prompt_tokens=3))
        other.answered(await waiting)
        assert book.total.tokens == 18


async def test_what_a_process_does_not_use_is_returned_while_it_is_open(place: Place, book: Book) -> None:
    caps = Caps(calls=30)
    async with joined(place, book, caps) as idle, joined(place, book, caps) as busy:
        idle.answered(await idle.send())  # its slice is of more calls than this one
        for _ in range(29):
            busy.answered(await busy.send())
        assert book.total.calls == 30


async def test_the_next_session_counts_what_the_ledger_has(place: Place, book: Book) -> None:
    book.enter("killed before it could settle", ONE * 7)
    async with joined(place, book, Caps(calls=8)) as budget:
        assert budget.budget.spent == ONE * 7
        sent = await budget.send()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(budget.send(), 0.1)  # the call in flight may be free
        budget.answered(sent)
    async with joined(place, book, Caps(calls=9)) as budget:  # a raised cap
        budget.answered(await budget.send())
        with pytest.raises(BudgetExceeded):
            await budget.send()


async def test_an_earlier_sessions_call_frees_what_it_did_not_cost(place: Place, book: Book) -> None:
    entry = book.enter("it waits in a batch", ONE * 5)
    async with joined(place, book, Caps(calls=8)) as budget:
        reopened = await budget.adopt(entry, ONE * 5)
        for _ in range(3):
            budget.answered(await budget.send())
        waiting = asyncio.create_task(budget.send())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        budget.answered((reopened, entry))
        budget.answered(await waiting)
        await budget.budget.publish()
        assert budget.budget.spent == book.total == ONE * 5


async def test_an_earlier_sessions_call_is_counted_by_all_processes_at_each_moment(place: Place, book: Book) -> None:
    entry, caps = book.enter("it waits in a batch", ONE * 5), Caps(calls=8)
    async with joined(place, book, caps) as one, joined(place, book, caps) as other:
        reopened = await one.adopt(entry, ONE * 5)
        sent = [await other.send() for _ in range(3)]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(other.send(), 0.1)
        for each in sent:
            other.answered(each)
        one.answered((reopened, entry), ONE * 5)
        await one.budget.publish()
        with pytest.raises(BudgetExceeded, match="the calls cap of 8 is reached: 8 spent"):
            await other.send()
        await one.budget.publish()
        assert one.budget.spent == other.budget.spent == book.total == ONE * 8


async def test_a_process_that_was_suspended_uses_nothing_of_its_slice(place: Place, book: Book) -> None:
    now, engine = 0.0, open_engine(place)

    def lease(name: str) -> Lease:
        return Lease(engine, name, seconds=15, now=lambda: sa.literal(now), clock=lambda: now, process="")

    def budget(of: Lease) -> SharedBudget:
        return SharedBudget(BudgetStore(engine, "run", of, Caps(calls=100)), of, Caps(calls=100))

    suspended, other = lease("suspended"), lease("other")
    suspended.renew()
    first = Recorded(budget(suspended), "suspended", book)
    in_flight = await first.send()
    now = 16.0
    other.renew()
    second = Recorded(budget(other), "other", book)
    second.answered(await second.send(ONE * 99), ONE * 99)
    await second.budget.publish()
    with pytest.raises(BudgetExceeded):
        await second.send()
    with pytest.raises(TransientModelError, match="suspended"):
        first.budget.check_held(in_flight[0])  # had it not been sent before
    suspended.renew()
    with pytest.raises(TransientModelError, match="suspended"):
        first.budget.check_held(in_flight[0])
    waiting = asyncio.create_task(first.send())
    await asyncio.sleep(0.1)
    assert not waiting.done()  # its call in flight may be free
    first.answered(in_flight)
    with pytest.raises(BudgetExceeded):
        await waiting
    assert first.budget.spent == book.total == ONE * 100
    engine.dispose()


async def test_a_grant_that_came_after_the_lease_was_over_is_returned(place: Place) -> None:
    now, engine, caps = 0.0, open_engine(place), Caps(calls=100)

    class SuspendedInside(BudgetStore):
        def sync(self, own: Mapping[str, Share], wish: Wish | None = None, *, recount: bool = False) -> View:
            nonlocal now
            view = super().sync(own, wish, recount=recount)
            now = 16.0 if wish else now
            return view

    def lease(name: str) -> Lease:
        return Lease(engine, name, seconds=15, now=lambda: sa.literal(now), clock=lambda: now, process="")

    suspended, other = lease("suspended"), lease("other")
    suspended.renew()
    first = SharedBudget(SuspendedInside(engine, "run", suspended, caps), suspended, caps)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(first.reserve(ONE, "samples"), 0.1)
    suspended.renew()
    await first.publish()
    other.renew()
    second = SharedBudget(BudgetStore(engine, "run", other, caps), other, caps)
    second.settle(await asyncio.wait_for(second.reserve(ONE * 100, "samples"), 10), ONE * 100)
    engine.dispose()


async def test_a_database_that_cannot_be_written_is_one_error_with_its_remedy(place: Place) -> None:
    engine = open_engine(place)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE members (id INTEGER)")  # of another program
    engine.dispose()
    with pytest.raises(JournalError, match="remedy: check its database"):
        async with open_shared_budget(place, "run", "session", Caps(calls=1)):
            pass


def test_a_process_of_this_machine_that_has_ended_is_known_to_have() -> None:
    own = this_process()
    if not own:
        pytest.skip("the system has no /proc")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    machine = own.rpartition("/")[0].rpartition("/")[0]
    started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    of_child = f"{machine}/{child.pid}/{started}"
    assert not has_ended(own)
    assert not has_ended(of_child)
    os.kill(child.pid, signal.SIGSTOP)
    assert not has_ended(of_child)
    child.kill()
    child.communicate()
    assert has_ended(of_child)
    assert has_ended(f"{machine}/{os.getpid()}/0")  # its id belongs to another process now
    assert not has_ended(f"another-{of_child}")
    assert not has_ended("")


def test_the_time_of_sessions_that_overlap_counts_once(place: Place, book: Book) -> None:
    spans = {"one": (10.0, 20.0), "other": (15.0, 30.0), "inside": (16.0, 17.0), "later": (50.0, 55.0)}
    for session, (opened, closed) in spans.items():
        book.close(entry := book.enter(session, ONE), ONE)
        with book.engine.begin() as connection:
            connection.execute(ledger.update().where(ledger.c.id == entry).values(opened=opened, closed=closed))
    journal = Journal(place)
    assert journal.spend("run").seconds == 25
    journal.close()


def begin(*arguments: str) -> subprocess.Popen[str]:
    module = [sys.executable, "-m", "tests.models.budget_process", *arguments]
    return subprocess.Popen(module, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("place", "caps"),
    [
        ("sqlite", {"calls": 150}),
        ("postgresql", {"usd": 0.3}),
        pytest.param("sqlite", {"usd": 0.3}, marks=pytest.mark.slow),
        pytest.param("postgresql", {"calls": 150}, marks=pytest.mark.slow),
    ],
    indirect=["place"],
)
def test_four_processes_never_pass_a_cap_and_use_nearly_all_of_it(
    place: Place, book: Book, tmp_path: Path, caps: dict[str, float]
) -> None:
    with ServerProcess(counter=tmp_path / "requests.jsonl", delay=0.01) as server:
        processes = [begin(server.base_url, str(place), json.dumps(caps), "100", f"p{i}") for i in range(4)]
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == "open\n"
        for process in processes:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        answered = [int(process.communicate(timeout=600)[0]) for process in processes]
        received = len(server.received())
    total = book.total
    print(f"caps {caps}: {received} requests, answers by process {answered}, ledger {total}")
    assert received == total.calls == sum(answered)
    if "calls" in caps:
        assert received == 150
    else:
        # A call costs .003 USD, and .076 at its worst: no process is refused before that would pass the cap.
        assert 0.3 - 0.076 < total.usd <= 0.3


def test_a_killed_process_keeps_its_calls_in_flight_and_frees_the_rest(
    place: Place, book: Book, tmp_path: Path
) -> None:
    with ServerProcess(counter=tmp_path / "requests.jsonl", delay=0.5) as server:
        killed = begin(server.base_url, str(place), '{"calls": 100}', "100", "killed")
        assert killed.stdin
        killed.stdin.write("\n")
        killed.stdin.flush()
        while not server.received():
            time.sleep(0.01)
        killed.kill()
        killed.communicate()
        counted = book.total.calls
        started = time.monotonic()
        next_one = begin(server.base_url, str(place), '{"calls": 100}', "200", "next")
        answered = int(next_one.communicate("\n", timeout=120)[0].split()[1])
        print(f"{counted} calls of the killed process, {answered} afterwards, {time.monotonic() - started:.1f} s")
        assert counted < 50
        assert answered == 100 - counted
        assert book.total.calls == 100
        assert len(server.received()) <= 100
