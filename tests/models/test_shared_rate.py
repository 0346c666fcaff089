"""Several limiters with one pace in a database let in, together, what the pace allows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from agentopt.models.rate_limit import WINDOW_SECONDS, Pace, RateLimiter
from agentopt.models.shared_rate import SharedRates, rate_key, rate_tokens
from tests.models.test_rate_limit import FakeTime

TIME = 1_700_000_000.0


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    return tmp_path / "journal.db" if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))


class Processes:
    """Limiters of several processes, on one clock."""

    def __init__(self, place: str | Path) -> None:
        self.time, self._place, self.opened = FakeTime(), place, list[SharedRates]()
        self.time.now = TIME

    def limiter(self, pace: Pace, key: str = "key") -> RateLimiter:
        rates = SharedRates(self._place, now=lambda: sa.literal(self.time.now, sa.Double))
        self.opened.append(rates)
        return RateLimiter(8, clock=self.time.clock, sleep=self.time.sleep, shared=rates.of(key, pace))


@pytest.fixture
def processes(place: str | Path) -> Iterator[Processes]:
    processes = Processes(place)
    yield processes
    for rates in processes.opened:
        rates.close()


async def enter(limiter: RateLimiter, time: FakeTime, count: int, tokens: float = 0.0) -> list[float]:
    times = []
    for _ in range(count):
        async with limiter.slot(tokens):
            times.append(time.now - TIME)
    return times


async def enter_once(limiter: RateLimiter, time: FakeTime, tokens: float = 0.0) -> float:
    return (await enter(limiter, time, 1, tokens))[0]


def most_in_a_minute(times: list[float]) -> int:
    return max(sum(start <= t < start + WINDOW_SECONDS for t in times) for start in times)


async def test_requests_of_several_processes_keep_one_pace(processes: Processes) -> None:
    limiters = [processes.limiter(Pace(requests_per_minute=12)) for _ in range(3)]
    times = [await enter_once(limiters[i % 3], processes.time) for i in range(24)]
    assert most_in_a_minute(times) <= 12
    assert times[-1] == pytest.approx(23 * 61 / 12)  # as fast as the pace allows


async def test_a_process_that_starts_later_keeps_the_pace_of_those_before(processes: Processes) -> None:
    pace = Pace(requests_per_minute=6)
    await enter(processes.limiter(pace), processes.time, 6)
    assert await enter(processes.limiter(pace), processes.time, 1) == [pytest.approx(61)]
    assert await enter(processes.limiter(pace, "another key"), processes.time, 1) == [pytest.approx(61)]  # at once


async def test_tokens_of_several_processes_are_within_one_limit(processes: Processes) -> None:
    limiters = [processes.limiter(Pace(tokens_per_minute=100)) for _ in range(2)]
    times = [await enter_once(limiters[i % 2], processes.time, 30) for i in range(8)]
    assert most_in_a_minute(times) == 3


async def test_tokens_that_a_call_did_not_take_are_free_for_others(processes: Processes) -> None:
    one, other = (processes.limiter(Pace(tokens_per_minute=100)) for _ in range(2))
    async with one.slot(90) as slot:
        slot.tokens = 10
    await enter(one, processes.time, 1)
    assert await enter(other, processes.time, 1, 80) == [0.0]


async def test_a_larger_call_is_let_in_alone(processes: Processes) -> None:
    one, other = (processes.limiter(Pace(tokens_per_minute=100)) for _ in range(2))
    assert await enter(one, processes.time, 1, 500) == [0.0]
    assert (await enter(other, processes.time, 1, 1))[0] >= WINDOW_SECONDS


async def test_a_pause_that_a_provider_requests_holds_for_all(processes: Processes) -> None:
    pace = Pace(requests_per_minute=600)
    one, other = processes.limiter(pace), processes.limiter(pace)
    one.pause(7)
    processes.opened[0]._thread.submit(lambda: None).result()
    assert await enter(other, processes.time, 1) == [7.0]


def test_only_a_hash_of_the_api_key_is_stored(processes: Processes) -> None:
    keys = [rate_key(*of) for of in (("m", "sk-1"), ("m", "sk-2"), ("n", "sk-1"), ("m", None))]
    assert len(set(keys)) == 4
    assert all(len(key) == 64 and "sk-1" not in key for key in keys)


ROWS = sa.select(sa.func.count()).select_from(rate_tokens)


def rows_of(processes: Processes) -> int:
    with processes.opened[0]._engine.connect() as connection:
        return connection.execute(ROWS).scalar_one()


@pytest.mark.parametrize(
    ("pace", "most"),
    [
        (Pace(requests_per_minute=60), 0),
        (Pace(requests_per_minute=60, tokens_per_minute=100_000), 62),
        (Pace(tokens_per_minute=600), 62),
    ],
)
async def test_tokens_are_stored_for_a_minute_and_only_if_they_are_limited(
    processes: Processes, pace: Pace, most: int
) -> None:
    limiter = processes.limiter(pace)
    for _ in range(80):
        async with limiter.slot(20) as slot:
            processes.time.now += 3  # the call
            slot.tokens = 10
    assert rows_of(processes) <= most


async def test_a_call_of_more_than_a_minute_leaves_no_row_of_its_second(processes: Processes) -> None:
    limiter = processes.limiter(Pace(tokens_per_minute=1000))
    async with limiter.slot(20) as slot:
        processes.time.now += 100
        slot.tokens = 900
    await enter(limiter, processes.time, 1, 1)
    assert rows_of(processes) == 1


@pytest.mark.parametrize("later", [WINDOW_SECONDS + 1, 1e6])
async def test_rows_of_a_key_that_is_not_used_again_are_deleted_by_others(processes: Processes, later: float) -> None:
    await enter(processes.limiter(Pace(tokens_per_minute=1000), "old key"), processes.time, 1, 10)
    assert rows_of(processes) == 1
    processes.limiter(Pace(requests_per_minute=60))
    assert rows_of(processes) == 1  # a minute is not over
    processes.time.now += later
    processes.limiter(Pace(requests_per_minute=60))
    assert rows_of(processes) == 0
