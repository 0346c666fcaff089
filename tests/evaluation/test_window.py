"""Examples run in a window: at most so many at a time, with the results in the order of the examples."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from agentopt.core.errors import BudgetExceeded, CallsFailError
from agentopt.core.records import Evaluation, ExampleResult, Trial
from agentopt.core.result_file import ResultFile
from agentopt.core.task import Example
from agentopt.evaluation.evaluator import Evaluator
from agentopt.evaluation.window import WINDOW, in_planned_order, run_in_window
from agentopt.models.base import Choice, Request, Response
from agentopt.models.catalog import ModelSpec
from agentopt.runs.trial_attributes import attributes_of
from agentopt.testing.toy import LARGE, SMALL, toy_model, toy_task


def examples(count: int) -> list[Example]:
    return [Example(str(n), {"n": n}) for n in range(count)]


class Runs:
    """Runs examples, each for a number of turns of the event loop, and counts how many run at a time."""

    def __init__(self, turns: Sequence[int], errors: dict[str, BaseException] | None = None) -> None:
        self._turns, self._errors = turns, errors or {}
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.now = self.most = 0

    async def __call__(self, example: Example) -> ExampleResult:
        self.begun.append(example.id)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            for _ in range(self._turns[int(example.id) % len(self._turns)]):
                await asyncio.sleep(0)
        finally:
            self.now -= 1
        if example.id in self._errors:
            raise self._errors[example.id]
        self.ended.append(example.id)
        return ExampleResult(example.id, 1.0)


@pytest.mark.parametrize("turns", [[0], [1], [7, 0, 3], [40, 0, 0, 0, 0, 0, 0, 0, 1]])
@pytest.mark.parametrize("window", [1, 4, 100])
async def test_no_more_than_the_window_run_and_the_order_is_that_of_the_examples(window: int, turns: list[int]) -> None:
    run, results = Runs(turns), list[ExampleResult]()
    await run_in_window(examples(50), run, results, window)
    assert run.most <= window
    assert [result.id for result in results] == [str(n) for n in range(50)] == run.begun
    if turns == [1]:
        assert run.most == min(window, 50)


async def test_at_a_cap_those_that_have_begun_end_and_no_other_begins() -> None:
    run = Runs([3, 0, 20, 9], {"1": BudgetExceeded("calls", cap=1, spent=1, wanted=1)})
    results = list[ExampleResult]()
    with pytest.raises(BudgetExceeded):
        await run_in_window(examples(50), run, results, 4)
    assert run.begun == ["0", "1", "2", "3"]
    assert [result.id for result in results] == ["0", "2", "3"]


async def test_another_error_cancels_the_others_also_those_that_have_not_started() -> None:
    first, later = CallsFailError("first", remedy="r"), CallsFailError("later", remedy="r")
    for turns, begun in (([0], ["0", "1"]), ([3], ["0", "1", "2", "3"])):
        run, results = Runs(turns, {"1": first, "2": later}), list[ExampleResult]()
        with pytest.raises(CallsFailError, match="first"):
            await run_in_window(examples(50), run, results, 4)
        assert run.begun == begun
        assert [result.id for result in results] == ["0"]


async def test_a_cancelled_block_leaves_nothing_running() -> None:
    run, results = Runs([1_000]), list[ExampleResult]()
    task = asyncio.create_task(run_in_window(examples(50), run, results, 4))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert run.now == 4
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (run.now, run.ended) == (0, [])


async def test_an_example_that_cannot_be_read_ends_the_block() -> None:
    class Broken(list[Example]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            yield from examples(2)
            raise OSError("gone")

    run = Runs([1_000])
    with pytest.raises(OSError, match="gone"):
        await run_in_window(Broken(examples(4)), run, [], 4)
    assert (run.now, run.ended) == (0, [])


@pytest.mark.parametrize("seed", range(5))
def test_the_order_is_a_shuffle_with_the_rows_of_a_group_adjacent(seed: int) -> None:
    rows = examples(40)
    expected = list(rows)
    random.Random(f"{seed}:test").shuffle(expected)
    assert list(in_planned_order(tuple(rows), {}, f"{seed}:test")) == expected
    groups = {str(n): str(n % 7) for n in range(20)}
    first: dict[str, int] = {}
    grouped = sorted(expected, key=lambda e: first.setdefault(groups.get(e.id, e.id), len(first)))
    assert list(in_planned_order(tuple(rows), groups, f"{seed}:test")) == grouped


class Counting:
    """A model that counts how many calls wait for it."""

    def __init__(self) -> None:
        self.now = self.most = 0

    async def generate(self, request: Request) -> Response:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return Response((Choice("x", 1),) * request.n, 1)

    async def reject(self, request: Request) -> None: ...

    async def aclose(self) -> None: ...


@pytest.mark.parametrize(
    ("in_waves", "concurrency", "most"), [(False, 16, WINDOW), (False, 599, 1200), (True, 16, 1500)]
)
async def test_an_evaluator_has_a_window_that_suffices_for_its_models_and_batches(
    in_waves: bool, concurrency: int, most: int
) -> None:
    task, model = toy_task(test=1500), Counting()
    specs = {
        name: ModelSpec(name=name, base_url="http://127.0.0.1:9", parameters=1e8, concurrency=share)
        for name, share in ((SMALL, concurrency), (LARGE, 1))
    }
    task = replace(task, subtasks=(replace(task.subtasks[0], reads=()),), output="")
    evaluator = Evaluator(task, model, specs, in_waves=in_waves)
    evaluation = await evaluator.evaluate(task.baseline, "test")
    assert len(evaluation.results) == 1500
    assert model.most == most


@pytest.mark.parametrize("repeats", [1, 3])
async def test_results_of_very_many_examples_are_in_a_file_and_the_same(repeats: int) -> None:
    task, model = toy_task(test=40), toy_model()
    specs = {name: ModelSpec(name=name, base_url="http://127.0.0.1:9", parameters=1e8) for name in (SMALL, LARGE)}
    found = []
    for most in (39 * repeats, 40 * repeats):
        evaluator = Evaluator(task, model, specs, clock=lambda: 0.0, most_in_memory=most)
        found.append(await evaluator.evaluate_repeatedly(task.baseline, "test", repeats))
    stored, listed = found
    assert isinstance(stored.results, ResultFile)
    assert isinstance(listed.results, tuple)
    assert stored == listed
    assert stored.scores == listed.scores
    assert attributes_of(trial(stored)) == attributes_of(trial(listed))


def trial(evaluation: Evaluation) -> Trial:
    return Trial(0, toy_task().baseline, evaluation, "baseline", 1.0)
