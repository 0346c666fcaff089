"""The budget grants what fits and nothing else."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.budget import Budget, Caps, Usage
from agentopt.core.errors import BudgetExceeded

ONE = Usage(calls=1, prompt_tokens=10, completion_tokens=5, usd=0.01)


async def test_a_call_that_does_not_fit_is_refused_before_it_is_made() -> None:
    budget = Budget(Caps(calls=2))
    for _ in range(2):
        budget.settle(await budget.reserve(ONE, "samples"), ONE)
    with pytest.raises(BudgetExceeded, match="calls cap of 2 is reached: 2 spent"):
        await budget.reserve(ONE, "samples")
    assert budget.spent == ONE + ONE


@pytest.mark.parametrize("caps", [Caps(tokens=29), Caps(usd=0.015), Caps(calls=1)])
async def test_every_cap_counts(caps: Caps) -> None:
    budget = Budget(caps)
    budget.settle(await budget.reserve(ONE, "samples"), ONE)
    with pytest.raises(BudgetExceeded):
        await budget.reserve(ONE, "samples")


async def test_a_call_waits_while_only_calls_in_flight_stand_in_its_way() -> None:
    budget = Budget(Caps(tokens=20))
    first = await budget.reserve(ONE, "samples")
    waiting = asyncio.create_task(budget.reserve(ONE, "samples"))
    await asyncio.sleep(0)
    assert not waiting.done()
    budget.settle(first, Usage(calls=1, prompt_tokens=3))
    assert (await waiting).worst == ONE


async def test_a_waiting_call_is_refused_once_the_money_is_really_gone() -> None:
    budget = Budget(Caps(tokens=20))
    first = await budget.reserve(ONE, "samples")
    waiting = asyncio.create_task(budget.reserve(ONE, "samples"))
    await asyncio.sleep(0)
    budget.settle(first, ONE)
    with pytest.raises(BudgetExceeded):
        await waiting


async def test_held_back_spend_is_unavailable_inside_the_block_only() -> None:
    budget = Budget(Caps(calls=3))
    with budget.holding_back(Usage(calls=2)):
        budget.settle(await budget.reserve(ONE, "samples"), ONE)
        with pytest.raises(BudgetExceeded):
            await budget.reserve(ONE, "samples")
    assert await budget.reserve(ONE, "samples")


async def test_a_cap_on_one_purpose_leaves_the_others_alone() -> None:
    budget = Budget(purpose_caps={"agent": Caps(calls=1)})
    budget.settle(await budget.reserve(ONE, "agent"), ONE)
    with pytest.raises(BudgetExceeded) as refused:
        await budget.reserve(ONE, "agent")
    assert refused.value.name == "agent.calls"
    assert "raise agent.max_calls" in str(refused.value)
    assert await budget.reserve(ONE, "samples")


async def test_time_runs_on_over_sessions_and_ends_the_run() -> None:
    now = 100.0
    budget = Budget(Caps(seconds=10), seconds_before=4, clock=lambda: now)
    assert budget.seconds == 4
    assert budget.seconds_left == 6
    now = 106.0
    with pytest.raises(BudgetExceeded, match="seconds cap of 10"):
        await budget.reserve(ONE, "samples")


async def test_settling_twice_is_a_mistake_of_ours() -> None:
    budget = Budget()
    reservation = await budget.reserve(ONE, "samples")
    budget.settle(reservation, ONE)
    with pytest.raises(ValueError, match="settled once"):
        budget.settle(reservation, ONE)


@given(
    cap=st.integers(0, 60),
    calls=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=40),
    seed=st.randoms(use_true_random=False),
)
def test_no_order_of_settling_passes_a_cap(cap: int, calls: list[tuple[int, int]], seed: object) -> None:
    """Many concurrent calls, each settling at its worst case or below it: the sum never exceeds the cap."""

    async def run() -> None:
        budget = Budget(Caps(tokens=cap))

        async def call(worst: int, actual: int) -> None:
            try:
                reservation = await budget.reserve(Usage(prompt_tokens=worst), "samples")
            except BudgetExceeded:
                return
            assert (budget.spent + budget.in_flight).tokens <= cap
            for _ in range(seed.randint(0, 3)):  # type: ignore[attr-defined]
                await asyncio.sleep(0)
            budget.settle(reservation, Usage(prompt_tokens=min(actual, worst)))

        await asyncio.gather(*(call(*c) for c in calls))
        assert budget.spent.tokens <= cap
        assert budget.in_flight == Usage()

    asyncio.run(run())


def test_usage_is_multiplied_divided_and_compared_by_cap() -> None:
    usage, other = Usage(3, 100, 11, 0.5), Usage(2, 10, 200, 1.0)
    assert usage * 2 == Usage(6, 200, 22, 1.0)
    assert usage.divided(2) == Usage(2, 50, 6, 0.25)
    assert usage.lower(other) == Usage(calls=2, completion_tokens=111, usd=0.5)
    assert usage.beyond(other) == Usage(calls=1)
    assert other.beyond(usage) == Usage(completion_tokens=99, usd=0.5)


def test_a_share_of_the_caps_keeps_those_that_are_not_set_unset() -> None:
    caps = Caps(usd=2.0, calls=7, trials=5).scaled(0.5)
    assert caps == Caps(usd=1.0, calls=3)
    assert caps.usage == Usage(calls=3, usd=1.0)
