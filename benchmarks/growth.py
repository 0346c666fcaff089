"""What a model call and an example write into a storage, and the processor time of one call.

Run `python -m benchmarks.growth`. One process makes calls with a shared budget through the journal, and stores the
results of examples as a worker does; the model answers at once. PostgreSQL is started for the measurement, with its
commits waiting for the disk. These figures are those of the sizing table in docs/beyond-one-machine.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from agentopt.core.budget import Caps
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.cost import Unit
from agentopt.core.database import open_engine
from agentopt.core.records import ExampleResult, SubtaskUse
from agentopt.models.base import Message, Request
from agentopt.models.catalog import ModelSpec
from agentopt.models.lease import Lease
from agentopt.models.scripted import ScriptedModel
from agentopt.models.session import open_session
from agentopt.runs.workers.chunks import Chunk, ChunkStore, Work
from agentopt.testing.postgres import PostgresServer

PROMPT, ANSWER = 1600, 400
"""Characters of a prompt and of an answer, about 400 and 100 tokens."""
IN_FLIGHT, BATCH = 64, 64
"""Calls in flight, and results of one transaction."""
TABLES = {
    "responses": ("requests", "responses", "run_keys", "response_details"),
    "ledger": ("ledger",),
    "example results": ("chunk_results",),
}


def words(characters: int, seed: int) -> str:
    """Text that a database compresses as it does prose, unlike one repeated character."""
    text = " ".join(f"word{(seed * 7919 + i * 104729) % 9973}" for i in range(characters // 7))
    return text[:characters]


async def make_calls(place: Path | str, calls: int, first: int = 0) -> None:
    """Make calls that differ, with journal, ledger and a shared budget."""
    spec = ModelSpec.model_validate(
        {"name": "m", "base_url": "http://127.0.0.1:1", "concurrency": IN_FLIGHT, "usd_per_1m_prompt": 1.0}
    )
    provider = ScriptedModel(lambda request, _: words(ANSWER, len(request.messages[0].content)))
    opening = open_session(
        {"m": spec}, "run", caps=Caps(calls=10 * calls), journal=str(place), provider=provider, is_shared=True
    )
    numbers = iter(range(first, first + calls))

    async with opening as session:

        async def lane() -> None:
            for i in numbers:
                await session.model.generate(Request("m", (Message("user", f"{i}: {words(PROMPT, i)}"),), 200))

        await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))


def write_results(place: Path | str, examples: int) -> None:
    """Store the results of examples of two subtasks, each with three samples of its second."""
    engine = open_engine(place)
    store = ChunkStore(engine, Lease(engine, uuid.uuid4().hex))
    candidate = Candidate.of({"retrieve": SubtaskChoice("m", 1), "answer": SubtaskChoice("m", 3)})
    work = Work(candidate, "validation", (), 0, 0, Unit(1e9, 128, 64), (0, 0, 0.0, 0.0))
    chunk = Chunk("run", 0, 0, work)
    for start in range(0, examples, BATCH):
        store.write(chunk, [result(i) for i in range(start, min(start + BATCH, examples))])
    engine.dispose()


def result(number: int) -> ExampleResult:
    """The result of one example."""
    retrieve = SubtaskUse(412, 96, 51.25, 0.000412, responses=1, seconds=0.431, requests=1)
    answer = SubtaskUse(412, 301, 153.75, 0.001236, responses=3, seconds=0.612, requests=3)
    uses = {"retrieve": retrieve, "answer": answer}
    return ExampleResult(f"example-{number}", float(number % 2), words(ANSWER, number), subtasks=uses, seconds=1.043)


def sizes(place: Path | str) -> dict[str, int]:
    """Bytes of the tables and their indexes, by what they hold, and of the write-ahead log."""
    engine = open_engine(place)
    queries = {
        "sqlite": "SELECT coalesce(sum(pgsize), 0) FROM dbstat WHERE name IN "
        "(SELECT name FROM sqlite_master WHERE tbl_name = :name)",
        "postgresql": "SELECT coalesce(pg_total_relation_size(to_regclass(:name)), 0)",
    }
    query = sa.text(queries[engine.dialect.name])
    with engine.connect() as connection:
        found = {
            what: sum(int(connection.execute(query, {"name": name}).scalar_one()) for name in names)
            for what, names in TABLES.items()
        }
        if engine.dialect.name == "postgresql":
            log = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"
            found["write-ahead log"] = int(connection.execute(sa.text(log)).scalar_one())
    engine.dispose()
    return found


def used() -> float:
    """Seconds of the processor that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def used_by_server(place: Path | str) -> float:
    """Seconds of the processor that the processes of the database's server have used; 0 if there is none."""
    engine = open_engine(place)
    if engine.dialect.name != "postgresql":
        return 0.0
    with engine.connect() as connection:
        backend = int(connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one())
        server = _stat(backend)[1]
        children = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        own = [_stat(pid) for pid in children if _stat(pid)[1] == server]
    engine.dispose()
    of_server = [int(ticks) for ticks in _stat(server)[11:15]]  # its own, and those of processes that have ended
    ticks = sum(of_server) + sum(int(ticks) for stat in own for ticks in stat[11:13])
    return ticks / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[Any]:
    """The fields of /proc/PID/stat from the state on, with the parent's pid as a number; empty ones if it has ended."""
    try:
        fields: list[Any] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["", -1]
    return [fields[0], int(fields[1]), *fields[2:]]


def measure(place: Path | str, name: str, calls: int, examples: int) -> None:
    """Print the rows of one database."""
    asyncio.run(make_calls(place, IN_FLIGHT))  # creates the tables, and loads what the first calls load
    before, began, processor, of_server = sizes(place), time.perf_counter(), used(), used_by_server(place)
    asyncio.run(make_calls(place, calls, first=IN_FLIGHT))
    wall, processor = time.perf_counter() - began, used() - processor
    of_server = used_by_server(place) - of_server
    between = sizes(place)
    write_results(place, examples)
    after = sizes(place)
    print(f"| {name} | calls/s of one process | {calls / wall:,.0f} |")
    print(f"| | processor, µs per call | {1e6 * processor / calls:,.0f} |")
    if of_server:
        print(f"| | processor of the server, µs per call | {1e6 * of_server / calls:,.0f} |")
    for what, size in between.items():
        if what != "example results":
            print(f"| | {what}, bytes per call | {(size - before[what]) / calls:,.0f} |")
    for what in [what for what in ("example results", "write-ahead log") if what in after]:
        print(f"| | {what}, bytes per example | {(after[what] - between[what]) / examples:,.0f} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both databases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--examples", type=int, default=20_000)
    given = parser.parse_args(arguments)
    print(f"{os.cpu_count()} cores, prompts of {PROMPT} and answers of {ANSWER} characters, {IN_FLIGHT} in flight\n")
    print("| database | | |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, PostgresServer(is_durable=True) as server:
        measure(Path(folder) / "storage.db", "SQLite", given.calls, given.examples)
        measure(server.create_database(), "PostgreSQL", given.calls, given.examples)


if __name__ == "__main__":
    main()
