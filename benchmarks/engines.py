"""Calls per second of a run by engine and number of workers, and what a call costs beyond that of one process.

    python -m benchmarks.engines [--engines processes ray] [--workers 1 2 4] [--examples 2000] [--rounds 3]

The endpoint answers after 50 ms, on loopback, from a process of its own. Each process has 16 calls in flight, so that
workers that limit nothing send 320 calls a second each. A round evaluates one candidate, of one call per example, by
each engine in turn; the table has the medians of the rounds. The time in which workers start is not counted. What a
call takes is the time for which it occupies one of those 16 places: seconds x places / calls. Ray joins the cluster of
RAY_ADDRESS, or starts one. With `--storage`, the journal is in that database.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import sqlalchemy as sa
import yaml

from agentopt.api import load
from agentopt.core.database import open_engine
from agentopt.models.lease import Lease
from agentopt.models.router import ModelRouter
from agentopt.models.session import journal_place
from agentopt.runs.config import Config, load_config
from agentopt.runs.evaluators import open_evaluator
from agentopt.runs.workers.pool import open_run
from agentopt.testing.server_process import ServerProcess

DELAY, PLACES = 0.05, 16
"""Seconds of a call, and calls that a process may have in flight."""

Arm = tuple[str, int]
"""Engine and number of workers."""


def write_task(folder: Path, base_url: str, examples: int) -> Path:
    """A task of one call per example, and the catalogue for it."""
    prompt = "the word behind {{ inputs.word }}: [[{{ inputs.word }}]]"
    lengths = {"max_tokens": 8, "tokens": {"prompt": 32, "completion": 8}}
    task = {
        "name": "words",
        "data": {split: f"{split}.jsonl" for split in ("validation", "test")},
        "subtasks": [{"name": "answer", "models": ["m"], "num_samples": [1], "prompt": prompt, **lengths}],
        "scorer": {"kind": "exact_match"},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    for split, count in (("validation", 1), ("test", examples)):
        words = [f"{split}-{i}" for i in range(count)]
        rows = [{"id": word, "word": word, "target": word} for word in words]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = {"base_url": base_url, "supports": {"seed": True}, "concurrency": PLACES}
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": {"m": model}}))
    return folder


async def started(config: Config, workers: int) -> None:
    """Wait until all workers of the run have a lease, beside its coordinator."""
    engine = open_engine(journal_place(config.journal))
    lease = Lease(engine, "")
    try:
        while await asyncio.to_thread(_live, engine, lease) <= workers:  # noqa: ASYNC110 - a database has no event
            await asyncio.sleep(0.1)
    finally:
        engine.dispose()


def _live(engine: sa.Engine, lease: Lease) -> int:
    with engine.connect() as connection:
        return len(lease.live(connection))


async def seconds(task: Path, journal: str, arm: Arm, seed: int) -> float:
    """Evaluate the baseline on all examples. Returns the seconds that it took."""
    engine, workers = arm
    places = [f"journal={journal}", f"models={task}/models.yaml", f"response_seed={seed}"]
    config = load_config([*places, f"engine={engine}", f"workers={workers}", "ray.num_cpus=0.1"])
    loaded = load(task, config, agent=False)
    models = ModelRouter(loaded.specs)
    async with open_run(f"{arm} {seed}", loaded.task, config, loaded.specs, models, lambda _: None) as (session, pool):
        if pool:
            await started(config, workers)
        evaluator = open_evaluator(loaded.task, config, session, pool=pool)
        begun = time.perf_counter()
        evaluation = await evaluator.evaluate(loaded.task.baseline, "test")
        took = time.perf_counter() - begun
    assert evaluation.state == "complete"
    return took


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("--engines", nargs="*", default=["processes", "ray"])
    parser.add_argument("--workers", nargs="*", type=int, default=[1, 2, 4])
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--storage", help="A SQLAlchemy URL; default: a new SQLite file.")
    options = parser.parse_args()
    arms: list[Arm] = [("local", 1), *((engine, count) for engine in options.engines for count in options.workers)]
    took: dict[Arm, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name, ServerProcess(counter=Path(name) / "calls", delay=DELAY) as server:
        task, journal = write_task(Path(name), server.base_url, options.examples), f"{name}/journal.db"
        for seed, arm in enumerate(arms * options.rounds):
            took[arm].append(await seconds(task, options.storage or journal, arm, seed))
    print("| engine | workers | calls/s | ms per call | over local |\n|---|---|---|---|---|")
    alone = statistics.median(took["local", 1]) * PLACES / options.examples
    for (engine, workers), times in took.items():
        middle = statistics.median(times)
        call = middle * workers * PLACES / options.examples
        figures = f"{options.examples / middle:,.0f} | {1000 * call:.1f} | {call / alone - 1:+.0%}"
        print(f"| {engine} | {workers} | {figures} |")


if __name__ == "__main__":
    asyncio.run(main())
