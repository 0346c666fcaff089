"""`Closing`: what waits is interrupted once, and a cancellation of the caller stays one."""

import asyncio

import pytest

from agentopt.core.errors import RunStoppingError
from agentopt.models.closing import Closing


async def test_work_that_ends_first_gives_its_result_or_its_exception() -> None:
    closing = Closing()

    async def fails() -> None:
        raise KeyError("k")

    assert await closing.unless(asyncio.sleep(0, "done")) == "done"
    with pytest.raises(KeyError):
        await closing.unless(fails())


async def test_what_waits_is_interrupted_and_its_task_goes_on() -> None:
    closing = Closing()
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("work")

    async def caller() -> str:
        with pytest.raises(RunStoppingError):
            await closing.unless(work())
        await asyncio.sleep(0)  # a cancellation that was left pending would be raised here
        return "went on"

    tasks = [asyncio.create_task(caller()) for _ in range(3)]
    await asyncio.sleep(0)
    closing.begin()
    assert await asyncio.gather(*tasks) == ["went on"] * 3
    assert ended == ["work"] * 3
    assert closing.is_closing


async def test_nothing_begins_after_the_end_began() -> None:
    closing, future = Closing(), asyncio.get_running_loop().create_future()
    closing.begin()
    for work in (asyncio.sleep(60), future):
        with pytest.raises(RunStoppingError):
            await closing.unless(work)
    assert future.cancelled()


@pytest.mark.parametrize("is_closing", [False, True])
async def test_a_cancellation_of_the_caller_is_one_also_if_the_client_closes(is_closing: bool) -> None:
    closing = Closing()
    task = asyncio.create_task(closing.unless(asyncio.sleep(60)))
    await asyncio.sleep(0)
    task.cancel()
    if is_closing:
        closing.begin()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_work_that_does_not_end_when_it_is_cancelled_is_stopped_all_the_same() -> None:
    closing = Closing()

    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "late"
        return "done"

    task = asyncio.create_task(closing.unless(stubborn()))
    await asyncio.sleep(0)
    closing.begin()
    with pytest.raises(RunStoppingError):
        await task
    assert not task.cancelling()
