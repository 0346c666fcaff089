"""The one loop that repeats transactions: how long it waits for a database, and what the steps of a run's end share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from agentopt.core.database import open_engine, outage_of, transact
from agentopt.core.outages import PAID_SECONDS, TIDY_SECONDS, WAIT_SECONDS, Outage, Patience, current


class AwayError(Exception):
    """The driver's error of a server that shuts down."""

    sqlstate = "57P01"


AWAY = sa.exc.OperationalError("SELECT 1", {}, AwayError())


class World:
    """A clock, an interruption, and a database that is away until a time. Each attempt takes some seconds."""

    def __init__(self, until: float = 1e9, seconds: float = 0.1) -> None:
        self.now, self.until, self.seconds, self.attempts = 0.0, until, seconds, 0
        self.is_interrupted = False
        self.patience = Patience(lambda: self.is_interrupted, clock=lambda: self.now, sleep=self._sleep)
        self.outage = self.patience.of("db")

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def attempt(self) -> str:
        self.attempts += 1
        self.now += self.seconds
        if self.now < self.until:
            raise AWAY
        return "done"

    def seconds_of(self, outage: Outage | None = None, *, is_paid: bool = False) -> float:
        """Seconds until a transaction fails."""
        begun = self.now
        with pytest.raises(sa.exc.OperationalError):
            (outage or self.outage).repeat(self.attempt, is_paid=is_paid)
        return self.now - begun


@pytest.mark.parametrize("seconds", [0.1, 10.0, 35.0])
def test_an_outage_is_waited_for_by_the_clock_however_long_an_attempt_takes(seconds: float) -> None:
    world = World(until=WAIT_SECONDS / 2, seconds=seconds)
    assert world.outage.repeat(world.attempt) == "done"
    assert WAIT_SECONDS <= World(seconds=seconds).seconds_of() <= WAIT_SECONDS + 2 * seconds + 1


def test_the_steps_after_one_that_waited_too_long_do_not_wait_again() -> None:
    world = World()
    world.seconds_of()
    attempts = world.attempts
    assert [world.seconds_of() for _ in range(5)] == [0.0] * 5
    assert world.attempts == attempts, "the database was away a moment ago"


def test_a_database_that_is_back_is_used_again() -> None:
    world = World()
    world.seconds_of()
    world.now += 6
    world.until = world.now
    assert world.outage.repeat(world.attempt) == "done"
    world.until = 1e9
    assert world.seconds_of() >= WAIT_SECONDS, "it is another outage"


def test_a_later_outage_is_waited_for_again_though_nothing_succeeded_meanwhile() -> None:
    world = World()
    world.seconds_of()
    world.now += 10 * WAIT_SECONDS
    assert world.seconds_of() >= WAIT_SECONDS


def test_another_database_is_not_away() -> None:
    world = World()
    world.seconds_of()
    assert world.patience.of("other").repeat(lambda: "done") == "done"
    assert world.seconds_of() == 0.0


def test_a_run_that_is_interrupted_waits_a_short_time_for_all_its_steps_and_longer_for_what_was_paid_for() -> None:
    world = World()
    world.is_interrupted = True
    assert TIDY_SECONDS <= world.seconds_of() <= TIDY_SECONDS + 2
    assert [world.seconds_of() for _ in range(5)] == [0.0] * 5
    assert PAID_SECONDS - TIDY_SECONDS - 2 <= world.seconds_of(is_paid=True) <= PAID_SECONDS
    assert world.seconds_of(is_paid=True) == 0.0
    assert world.now <= WAIT_SECONDS


def test_an_interruption_ends_the_wait_that_it_meets() -> None:
    world = World()
    wait = world.patience.sleep

    def interrupt_at_20(seconds: float) -> None:
        wait(seconds)
        world.is_interrupted = world.now > 20

    world.patience.sleep = interrupt_at_20
    assert 20 + TIDY_SECONDS <= world.seconds_of() <= 20 + TIDY_SECONDS + 3


def test_a_response_of_a_call_that_was_answered_after_the_interruption_is_waited_for() -> None:
    world = World()
    world.is_interrupted = True
    world.seconds_of()
    world.now += 100
    world.until = world.now + PAID_SECONDS / 2
    assert world.outage.repeat(world.attempt, is_paid=True) == "done"


def test_a_failure_that_does_not_pass_is_raised_immediately() -> None:
    world = World()

    def fail() -> None:
        raise sa.exc.IntegrityError("INSERT", {}, Exception("twice"))

    with pytest.raises(sa.exc.IntegrityError):
        world.outage.repeat(fail)
    assert world.now == 0.0


def test_what_is_lost_is_reported_once_with_what_follows() -> None:
    patience = Patience()
    assert patience.losses is None
    for what, number in (("lease", 1), ("responses", 2), ("responses", 1), ("lease", 1)):
        patience.lose(what, number)
    assert patience.lost_responses == 3
    assert patience.losses == (
        "the database cannot be reached; not stored: 3 responses that were paid for (their calls count at their worst "
        "case, and are made again); that this process has ended (its lease ends by itself within 15 seconds)"
    )


def test_one_response_is_one() -> None:
    patience = Patience()
    patience.lose("responses")
    assert "1 response that was paid for" in str(patience.losses)


def test_databases_share_the_wait_of_the_run_that_opens_them() -> None:
    patience = Patience()
    with patience.applied():
        one, other = (open_engine("sqlite://") for _ in range(2))
        assert outage_of(one) is outage_of(other)
        assert outage_of(one).patience is current() is patience
    assert current() is None
    assert outage_of(open_engine("sqlite://")) is not outage_of(one)


def test_a_server_that_does_not_answer_is_disconnected_once_the_run_is_interrupted(postgres_url: str) -> None:
    interrupted, begun, failures = threading.Event(), threading.Event(), list[Exception]()
    patience = Patience(interrupted.is_set, tick=0.02)

    def wait_for_ever(connection: sa.Connection) -> None:
        begun.set()
        connection.exec_driver_sql("SELECT pg_sleep(100)")

    def call(work: Callable[[sa.Connection], None]) -> None:
        try:
            transact(engine, work)
        except sa.exc.OperationalError as error:
            failures.append(error)

    with patience.applied():
        engine = open_engine(postgres_url)
        thread = threading.Thread(target=call, args=(wait_for_ever,))
        thread.start()
        begun.wait()
        time.sleep(0.3)
        assert thread.is_alive(), "before the interruption it may take any time"
        interrupted.set()
        thread.join(20)
        assert not thread.is_alive()
        assert len(failures) == 1
        engine.dispose()
