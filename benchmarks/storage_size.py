"""Opening, reading and extending a journal and a study that have grown, in SQLite and in PostgreSQL.

Run `python -m benchmarks.storage_size --responses 1000000 --trials 10000`. PostgreSQL is started for the measurement,
with its commits waiting for the disk. A journal or study of that size is filled by SQL, which takes minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import sqlalchemy as sa

from agentopt.core.candidate import Candidate
from agentopt.core.cost import SubtaskCost
from agentopt.core.database import open_engine
from agentopt.core.records import Evaluation, ExampleResult, SubtaskUse
from agentopt.models.journal import Journal
from agentopt.models.journal_tables import ledger, requests, responses
from agentopt.runs.folder import StudyPlace
from agentopt.runs.trial_store import TrialStore
from agentopt.search.base import Proposal, SearchSpace, SubtaskSpace
from agentopt.testing.postgres import PostgresServer
from agentopt.testing.synthetic_landscape import SIZES

EXAMPLES, MODELS, PART, TIMES = 20, 5, 20_000, 5
"""Examples of a trial, models of the journal, rows of one statement, repeats of a measurement."""


def space() -> SearchSpace:
    """14,400 candidates."""
    counts = tuple(range(1, 21))
    cost = SubtaskCost(256, 64, SIZES)
    return SearchSpace(tuple(SubtaskSpace(name, tuple(SIZES), counts, "", cost) for name in ("retrieve", "answer")))


def candidates(of: SearchSpace) -> Iterator[Candidate]:
    choices = list(itertools.product(SIZES, range(1, 21)))
    for retrieve, answer in itertools.product(choices, choices):
        yield of.candidate({"retrieve": retrieve, "answer": answer})


def evaluation(seed: int) -> Evaluation:
    rng = random.Random(seed)

    def use() -> SubtaskUse:
        tokens = rng.randrange(100, 120)
        return SubtaskUse(tokens, 10, tokens / 8, tokens * 1e-6, responses=1, seconds=rng.random(), requests=1)

    uses = [{"retrieve": use(), "answer": use()} for _ in range(EXAMPLES)]
    results = tuple(
        ExampleResult(f"row-{i}", rng.random(), "an answer", subtasks=used, metrics={"f1": 0.5}, seconds=1.0)
        for i, used in enumerate(uses)
    )
    return Evaluation("validation", EXAMPLES, results, "complete", 1.0)


def fill_journal(place: Path | str, count: int) -> None:
    """As many responses, one to each request, of `MODELS` models, and a ledger entry of each."""
    engine = open_engine(place)
    call = {"calls": 1, "prompt_tokens": 100, "completion_tokens": 10, "usd": 1e-4}
    for start in range(0, count, PART):
        keys = [f"{random.Random(i).getrandbits(256):064x}" for i in range(start, min(count, start + PART))]
        with engine.begin() as connection:
            connection.execute(
                requests.insert(),
                [{"key": key, "identity": f"model {i % MODELS}", "request": "{}"} for i, key in enumerate(keys)],
            )
            answer = {"text": "an answer", "finish_reason": "stop", "prompt_tokens": 100, "completion_tokens": 10}
            of_key = [{"key": key, "repeat": 0, **answer, "seconds": 1.0, "created": 1.0} for key in keys]
            connection.execute(responses.insert(), of_key)
            entry = {"session": "s", "model": "m", "purpose": "samples", **call, "outcome": "ok"}
            paid = [
                {"id": key[:32], "run": f"run {start // PART}", **entry, "opened": 1.0, "closed": 2.0} for key in keys
            ]
            connection.execute(ledger.insert(), paid)
    engine.dispose()


def fill_study(place: StudyPlace, count: int) -> None:
    """Copies of the first trial, each with a candidate of its own."""
    of = space()
    first, *others = itertools.islice(candidates(of), count)
    TrialStore(place, of).add(Proposal(first, "grid"), evaluation(0))
    engine, tables = open_engine(place.database), sa.MetaData()
    tables.reflect(engine)
    with engine.begin() as connection:
        trials = tables.tables["trials"]
        one = dict(connection.execute(sa.select(trials)).mappings().one())
        study, first_id = one["study_id"], one.pop("trial_id")
        rows = [{**one, "number": number} for number in range(1, count)]
        connection.execute(trials.insert(), rows)
        ids = connection.execute(sa.select(trials.c.trial_id).where(trials.c.study_id == study).order_by("number"))
        new = list(ids.scalars())[1:]
        for name in ("trial_user_attributes", "trial_params", "trial_values"):
            connection.execute(
                tables.tables[name].insert(), _copies(connection, tables.tables[name], first_id, new, others)
            )
    engine.dispose()


def _copies(
    connection: sa.Connection, table: sa.Table, first: int, new: list[int], others: list[Candidate]
) -> list[dict[str, Any]]:
    key = next(iter(table.primary_key.columns)).name
    found = [dict(row) for row in connection.execute(sa.select(table).where(table.c.trial_id == first)).mappings()]
    copies = []
    for number, candidate in zip(new, others, strict=True):
        for row in found:
            changed = {"value_json": json.dumps(candidate.to_dict())} if row.get("key") == "candidate" else {}
            copies.append({k: v for k, v in {**row, "trial_id": number, **changed}.items() if k != key})
    return copies


Seconds = tuple[float, float]
"""Of the wall clock, and of the processor in this process, which other programs do not lengthen."""


def timed(what: Callable[[], object], times: int = TIMES) -> Seconds:
    """Median seconds of a call."""
    walls, processors = [], []
    for _ in range(times):
        wall, processor = time.perf_counter(), time.process_time()
        what()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return median(walls), median(processors)


def measure_journal(place: Path | str, count: int) -> list[tuple[str, Seconds]]:
    Journal(place).close()
    fill_journal(place, count)
    journal = Journal(place)
    keys = [f"{random.Random(i).getrandbits(256):064x}" for i in random.Random(1).sample(range(count), 1000)]
    found = iter(keys * 2)
    look_up = timed(lambda: journal.find(next(found), 0, 1), 1000)
    rows = [
        ("journal: open", timed(lambda: Journal(place).close())),
        ("journal: look-up", look_up),
        ("journal: pace of a model", timed(lambda: journal.pace("model 0"))),
        ("journal: spend of a run of 20,000 calls", timed(lambda: journal.spend("run 0"))),
    ]
    journal.close()
    return rows


def measure_study(place: StudyPlace, count: int) -> list[tuple[str, Seconds]]:
    fill_study(place, count)
    of = space()
    opened = timed(lambda: TrialStore(place, of), 3)
    read = timed(lambda: [trial.score for trial in TrialStore(place, of).trials], 3)
    store = TrialStore(place, of)
    further = itertools.islice(candidates(of), count, None)
    added = timed(lambda: store.add(Proposal(next(further), "grid"), evaluation(1)), 50)
    return [
        ("study: open", opened),
        ("study: open, and read the results of every trial", read),
        ("study: add a trial", added),
        ("study: unfinished", timed(lambda: store.unfinished)),
    ]


def main() -> None:
    """Measure both on each database."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--responses", type=int, default=1_000_000)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default=None, help="default: both")
    given = parser.parse_args()
    print(f"{given.responses:,} responses, {given.trials:,} trials of {EXAMPLES} examples, {os.cpu_count()} cores\n")
    print("| database | | ms, wall clock | ms, processor |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, PostgresServer(is_durable=True) as server:
        for database in (given.database,) if given.database else ("sqlite", "postgresql"):
            is_file = database == "sqlite"
            place: Path | str = Path(folder) / "storage.db" if is_file else server.create_database()
            measured = measure_journal(place, given.responses) if given.responses else []
            if given.trials:
                measured += measure_study(StudyPlace(place, "run"), given.trials)
            for name, (wall, processor) in measured:
                print(f"| {database} | {name} | {wall * 1e3:.3g} | {processor * 1e3:.3g} |", flush=True)


if __name__ == "__main__":
    main()
