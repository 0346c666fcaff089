"""Time and memory of one proposal of the default strategy with six choices per subtask and three subtasks.

    python -m benchmarks.proposals [--trials 3000] [--repeats 10]

The scores are random; no model is called. The time does not depend on them.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
import tracemalloc
from statistics import median

from agentopt.core.axes import as_axes
from agentopt.core.candidate import Candidate
from agentopt.core.cost import SubtaskCost
from agentopt.core.records import Evaluation, ExampleResult, Trial
from agentopt.search.base import SearchSpace, SubtaskSpace
from agentopt.search.baselines import RandomStrategy
from agentopt.search.optuna_strategy import OptunaStrategy

SIZES = {"1b": 1e9, "3b": 3e9, "8b": 8e9, "32b": 32e9, "70b": 70e9}
SETTINGS = {
    "temperature": (0, 0.3, 0.7, 1),
    "max_tokens": (64, 128, 256),
    "effort": ("low", "medium", "high"),
    "knobs.passages": (3, 5, 10),
}
ROWS = 100


def space() -> SearchSpace:
    """Three subtasks with a model, a number of samples and four settings each; one model lacks one setting."""
    cost, axes, lacks = SubtaskCost(500, 100, SIZES), as_axes(SETTINGS), {"1b": ("effort",)}
    return SearchSpace(
        tuple(
            SubtaskSpace(name, tuple(SIZES), (1, 2, 3, 5, 8, 10), "", cost, settings=axes, lacks=lacks)
            for name in ("retrieve", "reason", "answer")
        )
    )


async def history(searched: SearchSpace, count: int) -> list[Trial]:
    """Complete trials of the baseline and of random candidates, with random scores."""
    rng = random.Random(0)
    drawn = await RandomStrategy(1).propose(searched, [], count - 1)

    def trial(number: int, candidate: Candidate) -> Trial:
        results = tuple(ExampleResult(f"row {i}", float(rng.random() < 0.5)) for i in range(ROWS))
        evaluation = Evaluation("validation", ROWS, results, "complete")
        return Trial(number, candidate, evaluation, "random", searched.units(candidate))

    return [trial(n, c) for n, c in enumerate([searched.baseline, *(proposal.candidate for proposal in drawn)])]


async def main(trials: int, repeats: int) -> None:
    """Print the median and the longest time of a proposal, by the wall clock and by the processor's, and its memory."""
    searched = space()
    known = await history(searched, trials)
    strategy = OptunaStrategy(0, start="none")
    await strategy.propose(searched, known, 1)  # loads the libraries
    wall, processor = list[float](), list[float]()
    for _ in range(repeats):
        started = time.perf_counter(), time.process_time()
        await strategy.propose(searched, known, 1)
        wall.append(time.perf_counter() - started[0])
        processor.append(time.process_time() - started[1])
    print(f"{searched.size:.3g} candidates, {trials} trials of {ROWS} rows")
    for name, seconds in (("wall", wall), ("processor", processor)):
        print(f"{name}: median {median(seconds):.2f} s, at most {max(seconds):.2f} s")
    tracemalloc.start()
    await strategy.propose(searched, known, 1)
    print(f"memory: {tracemalloc.get_traced_memory()[1] / 1e6:.0f} MB above the trials")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=10)
    given = parser.parse_args()
    asyncio.run(main(given.trials, given.repeats))
