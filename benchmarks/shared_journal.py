"""Calls per second through one journal by several processes, in SQLite and in PostgreSQL.

Each process requests the same questions in an order of its own from a model that answers after a fixed time. Run
`python benchmarks/shared_journal.py --processes 8 --questions 500`. PostgreSQL is started for the measurement, with
its commits waiting for the disk.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import tempfile
import time
from pathlib import Path

from agentopt.core.budget import Budget
from agentopt.models.base import Message, Request, Response
from agentopt.models.catalog import ModelSpec
from agentopt.models.client import ModelClient
from agentopt.models.journal import Journal
from agentopt.models.scripted import ScriptedModel
from agentopt.testing.postgres import PostgresServer

SPEC = ModelSpec(name="m", base_url="http://127.0.0.1:1", concurrency=64)


class Slow(ScriptedModel):
    """Answers after `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(lambda *_: "answer")
        self.seconds = seconds

    async def generate(self, request: Request) -> Response:
        await asyncio.sleep(self.seconds)
        return await super().generate(request)


async def one_process(place: str | Path, seed: int, questions: int, seconds: float) -> tuple[int, float, float]:
    """Request all questions: the calls that this process sent, and when it began and ended."""
    journal, provider = Journal(place), Slow(seconds)
    model = ModelClient(provider, {"m": SPEC}, journal, Budget(), f"run {seed}")
    numbers = random.Random(seed).sample(range(questions), questions)
    began = time.time()
    await asyncio.gather(*(model.generate(Request("m", (Message("user", f"question {n}"),), 4)) for n in numbers))
    ended = time.time()
    await model.aclose()
    await journal.aclose()
    return len(provider.requests), began, ended


def run_process(arguments: tuple[str | Path, int, int, float]) -> tuple[int, float, float]:
    return asyncio.run(one_process(*arguments))


def measure(place: str | Path, name: str, processes: int, questions: int, seconds: float) -> None:
    """Print one row: the calls that were sent for the questions, and how many responses a second were given."""
    Journal(place).close()
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        done = pool.map(run_process, [(place, seed, questions, seconds) for seed in range(processes)], chunksize=1)
    sent, wall = sum(calls for calls, _, _ in done), max(e for _, _, e in done) - min(b for _, b, _ in done)
    print(f"| {name} | {processes} | {questions} | {sent} | {sent / wall:.0f} | {processes * questions / wall:.0f} |")


def main() -> None:
    """Measure 1 process, then several, on each database."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=0.05, help="duration of a call")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, calls of {given.seconds * 1e3:g} ms\n")
    print("| database | processes | questions | calls sent | calls/s | responses/s |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, PostgresServer(is_durable=True) as server:
        for processes in (1, given.processes):
            file = Path(folder) / f"{processes}.db"
            measure(file, "SQLite", processes, given.questions, given.seconds)
            measure(server.create_database(), "PostgreSQL", processes, given.questions, given.seconds)


if __name__ == "__main__":
    main()
