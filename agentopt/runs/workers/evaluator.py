"""Evaluates candidates by workers. Everything but the examples themselves is as in one process."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from agentopt.core.budget import Budget
from agentopt.core.candidate import Candidate
from agentopt.core.errors import BudgetExceeded
from agentopt.core.events import Observer
from agentopt.core.records import ExampleResult, FailedExamples
from agentopt.core.task import Task
from agentopt.evaluation.evaluator import Block, Evaluator, OnResult, Results
from agentopt.models.base import ChatModel
from agentopt.models.catalog import ModelSpec
from agentopt.runs.workers.chunks import DONE, FAILED, OPEN, ChunkState, ChunkStore, Work
from agentopt.runs.workers.failures import as_error
from agentopt.runs.workers.outages import patiently

LEAST, MOST = 25, 200
"""Examples of a chunk; fewer if there are too few for all workers."""
CHUNKS_PER_WORKER = 4
"""Most chunks of a block for each worker: those that are done earlier take the rest."""
FIRST_POLL, LONGEST_POLL = 0.02, 0.5
"""Seconds between two reads of the results."""


def chunk_size(examples: int, workers: int) -> int:
    """Return how many examples a chunk has.

    Args:
        examples: Number of examples.
        workers: Number of workers.
    """
    even = math.ceil(examples / workers)
    return min(MOST, even, max(LEAST, math.ceil(even / CHUNKS_PER_WORKER)))


class Placement(Protocol):
    """Starts workers somewhere."""

    async def started(self, observe: Observer) -> None:
        """Wait until a worker can work.

        Args:
            observe: Receives a `Note` if that takes long, or if not all can.

        Raises:
            ConfigError: None can be started.
        """
        ...

    def check(self) -> None:
        """Replace the workers that have ended.

        Raises:
            CallsFailError: The workers cannot work.
        """
        ...

    def interrupt(self) -> None:
        """Let the workers send nothing more, and end once their calls in flight are answered."""
        ...

    async def ended(self) -> None:
        """Wait until the workers have ended, or will not end."""
        ...

    def kill(self) -> None:
        """Kill the workers that have not ended."""
        ...


class ChunkedEvaluator(Evaluator):
    """An `Evaluator` whose examples are run by workers, in chunks.

    Args:
        task: The task.
        model: The client for calls of this process.
        specs: Model name to spec.
        seed: Seed of the responses and of the order of the examples.
        failed_examples: What becomes of an example whose call fails for a reason that lies in the example.
        store: The chunks.
        run: The run.
        workers: Number of workers.
        budget: What it holds back now, the workers do too.
        placement: The workers.
    """

    def __init__(
        self,
        task: Task,
        model: ChatModel,
        specs: Mapping[str, ModelSpec],
        *,
        seed: int,
        failed_examples: FailedExamples,
        store: ChunkStore,
        run: str,
        workers: int,
        budget: Budget,
        placement: Placement,
    ) -> None:
        super().__init__(task, model, specs, seed=seed, failed_examples=failed_examples)
        self._store, self._run_id, self._workers, self._budget = store, run, workers, budget
        self._worker_calls, self._placement = 0, placement

    @property
    def calls(self) -> int:
        """The number of subtask calls so far, of this process and of the workers."""
        return super().calls + self._worker_calls

    async def run_block(
        self,
        candidate: Candidate,
        block: Block,
        results: Results,
        on_result: OnResult,
    ) -> None:
        """Let workers run a block's examples. If one fails, those that are done are kept.

        Args:
            candidate: The candidate.
            block: The examples.
            results: Receives the results, in the order of the block.
            on_result: Called after each example.

        Raises:
            BudgetExceeded, CallsFailError, TaskError: As in the worker.
            JournalError: The database cannot be used.
        """
        whole = self._work(candidate, block)
        found = await self._usable(whole)
        for result in found.values():
            on_result(result)
        left = [example_id for example_id in whole.ids if example_id not in found]
        try:
            if left:
                await self._run_chunks(whole, left, found, on_result)
        finally:
            results.extend(found[example_id] for example_id in whole.ids if example_id in found)
        await self._budget.publish()  # what the workers spent

    def _work(self, candidate: Candidate, block: Block) -> Work:
        held, seconds = self._budget.held_back, self._budget.seconds_held_back
        kept = (held.calls, held.tokens, held.usd, seconds)
        ids = tuple(example.id for example in block.examples)
        return Work(candidate, block.split, ids, self.seed, block.repeat, self.task.unit, kept)

    async def _usable(self, work: Work) -> dict[str, ExampleResult]:
        """The results that an earlier coordinator's workers wrote; what failed, or was not parsable, is run again."""
        found = await patiently(self._store.results, self._run_id, work.evaluation)
        again = [key for key, result in found.items() if result.score is None or result.failure or result.unparsed]
        if again:
            await patiently(self._store.forget, self._run_id, work.evaluation, again)
        return {key: found[key] for key in work.ids if key in found and key not in again}

    async def _run_chunks(
        self, whole: Work, ids: Sequence[str], found: dict[str, ExampleResult], on_result: OnResult
    ) -> None:
        size = chunk_size(len(ids), self._workers)
        works = [replace(whole, ids=tuple(ids[i : i + size])) for i in range(0, len(ids), size)]
        numbers = await patiently(self._store.add, self._run_id, works)
        try:
            states = await self._wait(numbers, whole, found, on_result)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                self._placement.interrupt()  # before the database is used, which may take a while
            await asyncio.shield(patiently(self._store.withdraw, self._run_id))
            raise
        failures = [state.failure for state in states.values() if state.state == FAILED]
        if failures:
            await patiently(self._store.withdraw, self._run_id)
            await self._end_of_claims(numbers)
            await self._collect(whole, found, on_result)
            # A cap ends the run, whatever else failed at the same time.
            errors = list(map(as_error, failures))
            raise next((error for error in errors if isinstance(error, BudgetExceeded)), errors[0])

    async def _wait(
        self, numbers: Sequence[int], whole: Work, found: dict[str, ExampleResult], on_result: OnResult
    ) -> dict[int, ChunkState]:
        """Wait until all chunks are done, or one has failed."""
        wait = FIRST_POLL
        while True:
            states = await patiently(self._store.states, self._run_id, numbers)
            is_new = await self._collect(whole, found, on_result)
            if all(state.state == DONE for state in states.values()) or FAILED in {s.state for s in states.values()}:
                self._worker_calls += sum(state.calls for state in states.values())
                return states
            wait = FIRST_POLL if is_new else min(2 * wait, LONGEST_POLL)
            await asyncio.sleep(wait)
            self._budget.check_seconds()
            self._placement.check()

    async def _end_of_claims(self, numbers: Sequence[int]) -> None:
        while True:
            states = await patiently(self._store.states, self._run_id, numbers)
            if not any(state.state == OPEN and state.is_claimed for state in states.values()):
                return
            await asyncio.sleep(LONGEST_POLL)

    async def _collect(self, whole: Work, found: dict[str, ExampleResult], on_result: OnResult) -> bool:
        """Add the new results to `found`. Returns whether there were any."""
        new = await patiently(self._store.results, self._run_id, whole.evaluation, found)
        wanted = {key: result for key, result in new.items() if key in whole.ids}
        for key, result in wanted.items():
            found[key] = result
            on_result(result)
        return bool(wanted)
