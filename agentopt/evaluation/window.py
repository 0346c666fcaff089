"""Runs the examples of a split concurrently, but at most so many of them at a time, and in a planned order."""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import Awaitable, Callable, Sequence

from agentopt.core.duplicates import Groups
from agentopt.core.errors import BudgetExceeded
from agentopt.core.records import ExampleResult
from agentopt.core.result_file import ResultFile
from agentopt.core.stored_rows import repeating_places, rows_at
from agentopt.core.task import Example

WINDOW = 1_000
"""Examples of one evaluation that run at a time. Each takes some 10 kB of memory while it runs."""


def in_planned_order(examples: Sequence[Example], groups: Groups, seed: str) -> Sequence[Example]:
    """Return the examples in a seeded order in which those of a group are adjacent.

    Args:
        examples: The examples of a split; those that stay in a file are not read.
        groups: The task's, for the split. All but the last group of a stopped evaluation are whole.
        seed: Of the order.
    """
    order = array("Q", range(len(examples)))
    random.Random(seed).shuffle(order)
    if groups:
        places = repeating_places(examples, ("inputs", "group"))
        of = {place: groups.get(one.id) for place, one in zip(places, rows_at(examples, places), strict=True)}
        ranks, first = array("Q", order), dict[str, int]()
        for rank, place in enumerate(order):
            group = of.get(place)
            ranks[place] = rank if group is None else first.setdefault(group, rank)
        order = array("Q", sorted(order, key=ranks.__getitem__))
    return rows_at(examples, order)


async def run_in_window(
    examples: Sequence[Example],
    run: Callable[[Example], Awaitable[ExampleResult]],
    results: list[ExampleResult] | ResultFile,
    window: int,
) -> None:
    """Run examples, each in a task of its own; finished ones are kept if a cap or an error ends the others.

    Args:
        examples: The examples. They begin in this order.
        run: Runs one.
        results: Receives the results, in the order of the examples.
        window: Most examples that run at a time.

    Raises:
        BudgetExceeded: A cap is reached. The examples that have begun end first.
        BaseException: What `run` raised otherwise first, in the order of the examples. The others are cancelled.
    """
    running: set[asyncio.Task[None]] = set()
    errors: dict[int, BaseException] = {}
    slots, finished = asyncio.Semaphore(window), _InOrder(results)

    async def one(place: int, example: Example) -> None:
        try:
            finished.add(place, await run(example))
        except BaseException as error:  # noqa: BLE001 - raised again when all have ended
            errors[place] = error
            if not isinstance(error, BudgetExceeded):
                for task in running:
                    task.cancel()  # has no effect on this one, which ends now
        finally:
            slots.release()

    try:
        for place, example in enumerate(examples):
            await slots.acquire()
            if errors:
                break
            task = asyncio.create_task(one(place, example))
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running, return_exceptions=True)  # one that is cancelled before it starts raises, too
    except BaseException:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        raise
    finished.end()
    if errors:
        found = [errors[place] for place in sorted(errors)]
        raise next((error for error in found if not isinstance(error, asyncio.CancelledError)), found[0])


class _InOrder:
    """Results that are passed on in the order of their examples."""

    def __init__(self, results: list[ExampleResult] | ResultFile) -> None:
        self._results, self._next = results, 0
        self._waiting: dict[int, ExampleResult] = {}

    def add(self, place: int, result: ExampleResult) -> None:
        self._waiting[place] = result
        while self._next in self._waiting:
            self._results.append(self._waiting.pop(self._next))
            self._next += 1

    def end(self) -> None:
        """Pass on those that follow an example without a result."""
        self._results.extend(self._waiting.pop(place) for place in sorted(self._waiting))
