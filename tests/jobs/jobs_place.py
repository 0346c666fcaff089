"""Fixtures of the job tests: a folder with a task, a catalogue and a job with loopback models."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from agentopt.jobs.champion import Champions, champions_of
from agentopt.jobs.jobfile import read_job
from agentopt.jobs.store import JobStore
from agentopt.jobs.tables import JobRun
from agentopt.jobs.worker import JobWorker, as_owner
from agentopt.testing.server_process import ServerProcess

QUALITY = {"small": 0.3, "better": 1.0, "twin": 1.0, "broken": 0.0}


@dataclass
class Place:
    """Everything under one folder. `models` are those the task may use, `prices` USD per million prompt tokens."""

    folder: Path
    base_url: str
    models: list[str] = field(default_factory=lambda: ["small"])
    prices: dict[str, float] = field(default_factory=lambda: {"small": 10.0, "better": 20.0, "twin": 19.0})
    served_as: dict[str, str] = field(default_factory=dict)
    examples: int = 12
    max_choices: int = 4
    subtask: dict[str, Any] = field(default_factory=dict)
    """Further keys of the subtask."""
    splits: tuple[str, ...] = ("validation", "test")

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def champions(self) -> Champions:
        return champions_of("nightly", self.data)

    @property
    def environ(self) -> dict[str, str]:
        places = {"AGENTOPT_CACHE": "cache", "AGENTOPT_DATA": "data", "AGENTOPT_CONFIG": "."}
        return {**os.environ, **{name: str(self.folder / place) for name, place in places.items()}}

    def write(self, **changes: Any) -> Path:
        """Write task, catalogue and job file; `changes` are keys of the job file. Returns the job file."""
        task = self.folder / "task"
        task.mkdir(exist_ok=True)
        lengths = {"prompt": 128, "completion": 64}
        subtask = {"name": "answer", "prompt": "the word is [[{{ inputs.word }}]]", "models": self.models}
        spec = {
            "name": "planted",
            "data": {split: f"{split}.jsonl" for split in self.splits},
            "subtasks": [{**subtask, "max_tokens": 8, "num_samples": [1, 2], "tokens": lengths, **self.subtask}],
            "scorer": {"kind": "exact_match"},
            "cost": {"max_units": 60},
        }
        (task / "task.yaml").write_text(yaml.safe_dump(spec))
        for split in self.splits:
            rows = [
                {"id": f"{split}{i}", "word": f"{split}-{i}", "target": f"{split}-{i}"} for i in range(self.examples)
            ]
            (task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (self.folder / "models.yaml").write_text(yaml.safe_dump({"models": dict(self._entries())}))
        file = self.folder / "job.yaml"
        config = ["strategy=grid", "budget.trials=6", "journal=journal.db", "models=[models.yaml]"]
        # A dozen rows are no evidence by the default margin, and most tests count calls without those of a canary.
        rules = {"margin": 0.5, "max_cost_ratio": None}
        job: dict[str, Any] = {"name": "nightly", "task": "task", "config": config, "schedule": {"every": "2s"}}
        job |= {"promotion": rules, "canary": 0, **changes}
        file.write_text(yaml.safe_dump(job))
        return file

    def _entries(self) -> Iterable[tuple[str, Mapping[str, Any]]]:
        for name in QUALITY:
            yield (
                name,
                {
                    "base_url": self.base_url,
                    "supports": {"seed": True, "reasoning_effort": True},
                    "model": self.served_as.get(name, name),
                    "parameters": 3e9,
                    "usd_per_1m_prompt": self.prices.get(name, 10.0),
                    "max_choices": self.max_choices,
                    "max_attempts": 1,
                },
            )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "agentopt", "jobs", *arguments]


class Log(list[dict[str, Any]]):
    """A log that records its lines."""

    def __call__(self, event: str, **fields: object) -> None:
        self.append({"event": event, **fields})

    def events(self) -> list[str]:
        return [line["event"] for line in self]


@dataclass
class Clock:
    """A clock that the test sets."""

    time: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.time


async def run_due(place: Place, store: JobStore, clock: Clock, log: Log, **options: Any) -> JobRun:
    """Claim and execute the job's next due time, two seconds later, with a new worker."""
    clock.time += 2
    with as_owner(store, place.data, clock, log=log, **options) as worker:
        return await worker.work(claimed(worker, "nightly"))


def claimed(worker: JobWorker, name: str) -> JobRun:
    """Claim the job for the current time; the worker is its owner."""
    worker.claim(name, worker.now())
    (waiting,) = worker.orphans(name)
    taken = worker.take_over(waiting)
    assert taken is not None
    return taken


def open_place_store(place: Place, clock: Clock, **changes: Any) -> JobStore:
    """A store in which the job has been added."""
    place.data.mkdir(exist_ok=True)
    store = JobStore(f"sqlite:///{place.data}/jobs.db")
    store.put(read_job(place.write(**changes)), place.folder, clock.time)
    return store


class Job:
    """A job whose due times are set by the test."""

    def __init__(self, place: Place, **changes: Any) -> None:
        self.place, self.clock, self.log, self.changes = place, Clock(), Log(), changes
        self.store: JobStore = open_place_store(place, self.clock, **changes)

    async def run(self, **options: Any) -> JobRun:
        return await run_due(self.place, self.store, self.clock, self.log, **options)

    async def work(self, log: Callable[..., None]) -> JobRun:
        """A run whose every event is passed to `log` while it runs; it may be another's by its end."""
        self.clock.time += 2
        with as_owner(self.store, self.place.data, self.clock, log=log) as worker:
            return await worker.work(claimed(worker, "nightly"))

    def change(self, **changes: Any) -> None:
        """Write the changed task and catalogue; with `changes`, update the job file too."""
        self.changes |= changes
        self.store.put(read_job(self.place.write(**self.changes)), self.place.folder, self.clock.time)

    @property
    def champion(self) -> str:
        current = self.place.champions.current()
        assert current is not None
        return current.candidate["answer"].model


async def interrupted(job: Job, event: str, **options: Any) -> JobRun:
    """The job's next run, stopped when the log has the event."""
    job.clock.time += 2
    with as_owner(job.store, job.place.data, job.clock, log=job.log, **options) as worker:
        already = job.log.events().count(event)
        task = asyncio.create_task(worker.work(claimed(worker, "nightly")))
        await until(lambda: job.log.events().count(event) > already)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    (left,) = job.store.open_runs()
    return left


async def resumed(job: Job, **options: Any) -> JobRun:
    with as_owner(job.store, job.place.data, job.clock, log=job.log, **options) as worker:
        (orphan,) = worker.orphans()
        taken = worker.take_over(orphan)
        assert taken is not None
        return await worker.work(taken)


def request_counts(server: ServerProcess) -> Counter[tuple[str, int]]:
    """Number of requests for each single choice."""
    return Counter((line["key"], line["seed"] + i) for line in server.received() for i in range(line["n"]))


async def until(condition: Any, seconds: float = 60.0) -> None:
    """Wait for something that another task or process does."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the other side is a process, or knows of no event
            await asyncio.sleep(0.01)


__all__ = [
    "QUALITY",
    "Clock",
    "Job",
    "JobWorker",
    "Log",
    "Place",
    "claimed",
    "interrupted",
    "open_place_store",
    "request_counts",
    "resumed",
    "run_due",
    "until",
]
