"""What a worker or a coordinator does while its database is away."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from agentopt.core.errors import JournalError
from agentopt.runs.workers.outages import OUTAGE_SECONDS, patiently


class AwayError(Exception):
    """The driver's error of a server that shuts down."""

    sqlstate = "57P01"


class Store:
    """A store whose database is away until a time. Each try takes some seconds of its clock."""

    def __init__(self, seconds: float, until: float) -> None:
        self.now, self._seconds, self._until, self.tries = 0.0, seconds, until, 0

    def clock(self) -> float:
        return self.now

    def read(self) -> str:
        self.tries += 1
        self.now += self._seconds
        if self.now < self._until:
            raise sa.exc.OperationalError("SELECT 1", {}, AwayError())
        return "found"


@pytest.mark.parametrize("seconds", [1.0, OUTAGE_SECONDS / 2])
async def test_a_method_is_called_again_until_the_database_is_back(seconds: float) -> None:
    store = Store(seconds, until=2 * seconds)
    assert (await patiently(store.read, clock=store.clock), store.tries) == ("found", 2)


@pytest.mark.parametrize(("seconds", "tries"), [(OUTAGE_SECONDS / 2, 2), (2.0 * OUTAGE_SECONDS, 1)])
async def test_an_outage_lasts_as_long_as_the_clock_says_however_long_a_try_takes(seconds: float, tries: int) -> None:
    store = Store(seconds, until=1e9)
    with pytest.raises(JournalError, match=r"the storage cannot be reached(?s:.)*check the database"):
        await patiently(store.read, clock=store.clock)
    assert store.tries == tries
