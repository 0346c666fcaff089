"""All runs of the benchmark, one after the other: model by model, seed by seed, arm by arm."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from agentopt.core.task import Task
from agentopt.models.base import ChatModel
from benchmarks.peers.endpoint import Endpoint, Meter
from benchmarks.peers.protocol import Job, Prompt
from benchmarks.peers.results import Key, Outcome, Results
from benchmarks.peers.runner import Found, run_arm
from benchmarks.peers.scoring import final_scores, row_of

SEED = "seed"
"""The arm that keeps the seed prompt."""
PROGRESS_SECONDS = 60.0
"""How often the calls of a run in progress are shown."""


@dataclass(frozen=True)
class Contestant:
    """How an arm is started, and its options."""

    command: Sequence[str]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """One task, one endpoint, and the arms."""

    task: Task
    chat: ChatModel
    contestants: Mapping[str, Contestant]
    """By arm; the seed prompt needs none."""
    results: Results
    logs: Path
    """Folder for what the arms print."""
    limit: float
    """Most seconds of one arm's run."""
    on_note: Callable[[str], None] = print

    async def run(self, keys: Sequence[Key]) -> list[Outcome]:
        """Make the runs that are missing. Returns the outcomes of all."""
        missing, took = self.results.missing(keys), Durations(self.results.of(keys))
        async with Endpoint(self.chat, self.task) as endpoint:
            for done, key in enumerate(missing):
                left = took.estimate(missing[done:])
                self.on_note(f"{done + 1} of {len(missing)}: {key.model}, {key.arm}, seed {key.seed}{left}")
                outcome = await self._outcome(endpoint, key)
                self.results.add(outcome)
                took.add(outcome)
                self.on_note(f"  {outcome.ended}, {outcome.calls} calls, {summary(outcome)}")
        return self.results.of(keys)

    async def _outcome(self, endpoint: Endpoint, key: Key) -> Outcome:
        meter, started = endpoint.admit(key.model, key.cap), time.monotonic()
        found = await self._found(key, meter)
        optimised = time.monotonic()
        test = {} if found.failed else await self._tested(key, found.prompt)
        return Outcome(
            key=key,
            prompt=found.prompt,
            validation=found.validation,
            requests=meter.requests,
            calls=meter.calls,
            refused=meter.refused,
            prompt_tokens=meter.prompt_tokens,
            completion_tokens=meter.completion_tokens,
            seconds=(meter.full_at or optimised) - started,
            test_seconds=time.monotonic() - optimised,
            ended=found.ended,
            notes=found.notes,
            test=test,
            failed=found.failed,
        )

    async def _found(self, key: Key, meter: Meter) -> Found:
        if key.arm == SEED:
            return Found(Prompt(self.task.subtasks[0].system_prompt), None, "nothing was optimised", ())
        contestant = self.contestants[key.arm]
        log = self.logs / f"{key.model}-{key.arm}-{key.seed}.log"
        job = self._job(key, meter, contestant.options)
        watching = asyncio.create_task(self._watch(meter))
        try:
            return await run_arm(contestant.command, job, meter, log=log, limit=self.limit)
        finally:
            watching.cancel()

    async def _watch(self, meter: Meter) -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            self.on_note(f"  {meter.calls} of {meter.cap} calls")

    def _job(self, key: Key, meter: Meter, options: Mapping[str, Any]) -> Job:
        subtask = self.task.subtasks[0]
        return Job(
            options=options,
            base_url=meter.base_url,
            model=key.model,
            train=tuple(row_of(self.task, example) for example in self.task.splits["train"]),
            validation=tuple(row_of(self.task, example) for example in self.task.splits["validation"]),
            seed_prompt=subtask.system_prompt,
            temperature=1.0 if subtask.temperature is None else subtask.temperature,
            max_tokens=subtask.max_tokens,
            stop=subtask.stop,
            calls=key.cap,
            seed=key.seed,
        )

    async def _tested(self, key: Key, prompt: Prompt) -> dict[str, float]:
        return await final_scores(self.chat, key.model, self.task, prompt, samples=key.samples, seed=key.seed)


class Durations:
    """Estimates the time left from the runs so far: those of the same arm and model, else of all arms but the seed's.

    Args:
        outcomes: Of earlier starts.
    """

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self._of: dict[tuple[str, str], list[float]] = {}
        for outcome in outcomes:
            self.add(outcome)

    def add(self, outcome: Outcome) -> None:
        """Count a run."""
        of_arm = self._of.setdefault((outcome.key.arm, outcome.key.model), [])
        of_arm.append(outcome.seconds + outcome.test_seconds)

    def estimate(self, keys: Sequence[Key]) -> str:
        """The time that these runs need, as a part of a sentence; empty while nothing like them was run."""
        every = [seconds for (arm, _), of_arm in self._of.items() if arm != SEED for seconds in of_arm]
        known = [self._of.get((key.arm, key.model), every) for key in keys]
        if not all(known):
            return ""
        return f" (about {sum(map(fmean, known)) / 60:.0f} min left)"


def summary(outcome: Outcome) -> str:
    """The test score and the time, or the failure."""
    if outcome.failed:
        return outcome.failed
    return f"test {fmean(outcome.test.values()):.3f}, {outcome.seconds:.0f} + {outcome.test_seconds:.0f} s"
