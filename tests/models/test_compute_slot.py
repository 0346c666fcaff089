"""The compute slot: one model at a time, and no model starves."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from agentopt.models.compute_slot import ComputeSlot, shared_slot


class Bench:
    """Runs calls that hold a slot until they are released, with a clock set by the test."""

    def __init__(self) -> None:
        self.now = 0.0
        self.inside: list[str] = []
        self.slot = ComputeSlot(turn_seconds=5, clock=lambda: self.now)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}

    async def call(self, name: str) -> None:
        """A call of the model named by the first letter of `name`."""
        self._ends[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._hold(name))
        await self.settle()

    async def _hold(self, name: str) -> None:
        async with self.slot.hold({"a": "A", "b": "B", "c": "C"}[name[0]]):
            self.inside.append(name)
            try:
                await self._ends[name].wait()
            finally:
                self.inside.remove(name)

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await self.settle()

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


async def test_calls_of_one_model_run_concurrently_and_another_model_waits() -> None:
    bench = Bench()
    for name in ("a1", "a2", "b1"):
        await bench.call(name)
    assert bench.inside == ["a1", "a2"]
    await bench.end("a1")
    assert bench.inside == ["a2"]
    await bench.end("a2")
    assert bench.inside == ["b1"]


async def test_a_model_starts_new_calls_during_its_turn_and_then_yields() -> None:
    bench = Bench()
    for name in ("a1", "b1", "b2", "a2"):
        await bench.call(name)
    assert bench.inside == ["a1", "a2"]
    bench.now = 5.0
    await bench.call("a3")
    for name in ("a1", "a2"):
        await bench.end(name)
    assert bench.inside == ["b1", "b2"]
    for name in ("b1", "b2"):
        await bench.end(name)
    assert bench.inside == ["a3"]


async def test_without_waiters_a_model_continues_after_its_turn() -> None:
    bench = Bench()
    await bench.call("a1")
    bench.now = 50.0
    await bench.call("a2")
    assert bench.inside == ["a1", "a2"]


async def test_a_cancelled_call_does_not_keep_the_slot() -> None:
    bench = Bench()
    for name in ("a1", "b1", "c1"):
        await bench.call(name)
    await bench.cancel("b1")
    await bench.cancel("a1")
    assert bench.inside == ["c1"]


async def test_a_call_cancelled_while_being_admitted_releases_the_slot() -> None:
    bench = Bench()
    for name in ("a1", "b1", "c1"):
        await bench.call(name)
    bench._ends["a1"].set()
    while bench.inside:  # noqa: ASYNC110 - single steps of the loop, up to that moment
        await asyncio.sleep(0)
    bench._tasks["b1"].cancel()
    await bench.settle()
    assert bench.inside == ["c1"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["call", "end", "cancel", "wait"])), max_size=40))
def test_two_models_never_compute_simultaneously_and_every_call_runs(steps: list[tuple[str, str]]) -> None:
    async def run() -> None:
        bench, names = Bench(), list[str]()
        for model, step in steps:
            known = [name for name in names if name[0] == model]
            if step == "call":
                names.append(f"{model}{len(names)}")
                await bench.call(names[-1])
            elif step == "wait":
                bench.now += 3
            elif known:
                await (bench.end(known[0]) if step == "end" else bench.cancel(known[-1]))
            assert len({name[0] for name in bench.inside}) <= 1
        for _ in names:
            for name in list(bench.inside):
                await bench.end(name)
        assert all(bench._tasks[name].done() for name in names)

    asyncio.run(run())


async def test_the_models_of_an_event_loop_share_one_slot() -> None:
    assert shared_slot() is shared_slot()
