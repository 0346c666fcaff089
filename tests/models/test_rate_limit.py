"""The rate limiter, with a fake clock that advances only during sleeps."""

import asyncio
import math
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentopt.models.rate_limit import RateLimiter


class FakeTime:
    """A clock that jumps to the next wake-up as soon as every task waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        wake = self.now + seconds
        await asyncio.sleep(0)
        self.now = max(self.now, wake)


async def entries(limiter: RateLimiter, time: FakeTime, count: int) -> list[tuple[int, float]]:
    """(caller, time) of `count` simultaneous callers."""
    entered: list[tuple[int, float]] = []

    async def call(who: int) -> None:
        async with limiter.slot():
            entered.append((who, time.now))

    await asyncio.gather(*(call(who) for who in range(count)))
    return entered


async def test_no_more_than_concurrency_hold_a_slot() -> None:
    limiter, inside, most = RateLimiter(3), 0, 0

    async def call() -> None:
        nonlocal inside, most
        async with limiter.slot():
            inside += 1
            most = max(most, inside)
            for _ in range(5):
                await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(call() for _ in range(20)))
    assert most == 3


async def test_slots_are_granted_in_order_of_arrival() -> None:
    time = FakeTime()
    limiter = RateLimiter(2, 30, clock=time.clock, sleep=time.sleep)
    assert [who for who, _ in await entries(limiter, time, 10)] == list(range(10))


async def test_thirty_requests_per_minute_are_a_thirtieth_of_it_apart_and_of_the_time_that_arrivals_differ() -> None:
    time = FakeTime()
    limiter = RateLimiter(100, 30, clock=time.clock, sleep=time.sleep)
    assert [when - 1000 for _, when in await entries(limiter, time, 4)] == pytest.approx([0, 61 / 30, 122 / 30, 6.1])


async def test_without_a_rate_no_caller_waits() -> None:
    time = FakeTime()
    await entries(RateLimiter(100, clock=time.clock, sleep=time.sleep), time, 50)
    assert time.now == 1000


@settings(max_examples=50)
@given(rate=st.floats(0.5, 600), count=st.integers(1, 200), random=st.randoms(use_true_random=False))
@example(rate=30, count=40, random=Random(1))
def test_no_minute_holds_more_requests_than_allowed_though_some_arrive_later(
    rate: float, count: int, random: Random
) -> None:
    time = FakeTime()

    async def run() -> list[float]:
        limiter = RateLimiter(1000, rate, clock=time.clock, sleep=time.sleep)
        return [when for _, when in await entries(limiter, time, count)]

    times = sorted(when + random.uniform(0, 1) for when in asyncio.run(run()))
    for first in range(len(times)):
        in_the_minute = sum(times[first] <= when < times[first] + 60 - 1e-6 for when in times[first:])
        assert in_the_minute <= math.ceil(rate)


async def test_a_burst_of_one_second_is_not_delayed() -> None:
    time = FakeTime()
    limiter = RateLimiter(100, 600, clock=time.clock, sleep=time.sleep)
    times = [when for _, when in await entries(limiter, time, 12)]
    assert times[9] == pytest.approx(1000)
    assert times[10] > 1000.05
    assert times[11] > times[10] + 0.05


async def test_a_pause_delays_every_caller() -> None:
    time = FakeTime()
    limiter = RateLimiter(10, clock=time.clock, sleep=time.sleep)
    limiter.pause(7)
    assert [when for _, when in await entries(limiter, time, 3)] == [1007, 1007, 1007]


async def test_a_shorter_pause_does_not_shorten_a_longer_one() -> None:
    time = FakeTime()
    limiter = RateLimiter(10, clock=time.clock, sleep=time.sleep)
    limiter.pause(7)
    limiter.pause(1)
    assert await entries(limiter, time, 1) == [(0, 1007)]


async def test_a_pause_during_a_wait_extends_it() -> None:
    time = FakeTime()
    limiter = RateLimiter(10, 60, clock=time.clock, sleep=time.sleep)
    await entries(limiter, time, 1)
    waiting = asyncio.ensure_future(entries(limiter, time, 1))
    await asyncio.sleep(0)
    limiter.pause(30)
    assert await waiting == [(0, 1030)]


async def test_a_cancelled_waiter_frees_its_slot() -> None:
    limiter = RateLimiter(1)
    async with limiter.slot():
        waiting = asyncio.ensure_future(limiter.slot().__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    time = FakeTime()
    assert len(await entries(limiter, time, 3)) == 3


async def test_a_failed_call_frees_its_slot() -> None:
    limiter = RateLimiter(1)
    with pytest.raises(ValueError, match="broken"):
        async with limiter.slot():
            raise ValueError("broken")
    assert len(await entries(limiter, FakeTime(), 1)) == 1


async def test_the_concurrency_is_halved_once_per_burst_and_raised_slowly() -> None:
    limiter = RateLimiter(8)
    async with limiter.slot() as first, limiter.slot() as second:
        limiter.throttled(first)
        limiter.throttled(second)
    assert limiter.concurrency == 4, "calls in flight during a cut do not cut again"
    async with limiter.slot() as third:
        limiter.throttled(third)
    assert limiter.concurrency == 2
    for _ in range(4):
        limiter.succeeded()
    assert limiter.concurrency == 3
    for _ in range(1000):
        limiter.succeeded()
    assert limiter.concurrency == 8


async def test_the_concurrency_stays_at_least_one_and_a_waiting_call_is_let_in_when_it_is_raised() -> None:
    limiter = RateLimiter(2)
    for _ in range(3):
        async with limiter.slot() as slot:
            limiter.throttled(slot)
    assert limiter.concurrency == 1
    async with limiter.slot():
        waiting = asyncio.create_task(limiter.slot().__aenter__())
        await asyncio.sleep(0)
        assert not waiting.done()
        for _ in range(2):
            limiter.succeeded()
        await waiting


@settings(max_examples=50)
@given(rate=st.floats(100, 5000), sizes=st.lists(st.integers(1, 400), min_size=1, max_size=60))
def test_no_minute_holds_more_tokens_than_allowed(rate: float, sizes: list[int]) -> None:
    time = FakeTime()
    entered: list[tuple[float, int]] = []

    async def run() -> None:
        limiter = RateLimiter(1000, None, rate, clock=time.clock, sleep=time.sleep)

        async def call(tokens: int) -> None:
            async with limiter.slot(tokens):
                entered.append((time.now, tokens))

        await asyncio.gather(*map(call, sizes))

    asyncio.run(run())
    for start, _ in entered:
        minute = [tokens for when, tokens in entered if start <= when < start + 60 - 1e-6]
        assert sum(minute) <= rate or len(minute) == 1, "a single call larger than the limit is let in alone"


async def test_tokens_that_a_call_did_not_take_are_available_again() -> None:
    time = FakeTime()
    limiter = RateLimiter(10, None, 1000, clock=time.clock, sleep=time.sleep)
    async with limiter.slot(1000) as slot:
        slot.tokens = 10
    async with limiter.slot(900):
        assert time.now == 1000
    async with limiter.slot(900):
        assert time.now == 1060
