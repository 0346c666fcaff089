"""Chunks of examples in a database: the coordinator of a run adds them, its workers claim them and write the results.

A chunk belongs to the worker that claimed it while that worker has a lease; afterwards another one may claim it, and
runs the examples that have no result yet. What was answered is in the journal, so only calls in flight are repeated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from agentopt.core.candidate import Candidate
from agentopt.core.cost import Unit
from agentopt.core.database import Condition, create_tables, insert, read, transact
from agentopt.core.errors import ConfigError, JournalError
from agentopt.core.records import ExampleResult, Split
from agentopt.core.unicode_text import database_text
from agentopt.models.journal import IN_FLIGHT
from agentopt.models.journal_tables import ledger
from agentopt.models.lease import Lease

OPEN, DONE, FAILED = "open", "done", "failed"
LONGEST_ID = 200
"""Characters of an example's id that the database takes. A longer one, or one with a NUL, is stored as a hash."""
NOBODY = ""
"""The member of a chunk, or coordinator of a run, that has none."""

TABLES = sa.MetaData()
runs = sa.Table(
    "worker_runs",
    TABLES,
    sa.Column("run", sa.String(200), primary_key=True),
    sa.Column("job", sa.Text, nullable=False),
    sa.Column("coordinator", sa.String(32), nullable=False),
    sa.Column("epoch", sa.Integer, nullable=False),
)
"""The runs that workers evaluate for: what they load, who coordinates it, and the number of withdrawals so far."""
chunks = sa.Table(
    "chunks",
    TABLES,
    sa.Column("run", sa.String(200), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("work", sa.Text, nullable=False),
    sa.Column("member", sa.String(32), nullable=False),
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("calls", sa.Integer, nullable=False),
    sa.Column("failure", sa.Text, nullable=False),
)
results = sa.Table(
    "chunk_results",
    TABLES,
    sa.Column("run", sa.String(200), primary_key=True),
    sa.Column("evaluation", sa.String(64), primary_key=True),
    sa.Column("example", sa.String(LONGEST_ID), primary_key=True),
    sa.Column("result", sa.Text, nullable=False),
)
"""Results by evaluation, that is, by candidate, split, seed and repeat: a chunk that is run twice has one of each."""
_results = TypeAdapter(ExampleResult)


@dataclass(frozen=True, slots=True)
class Work:
    """Examples to evaluate a candidate on.

    Attributes:
        candidate: The candidate.
        split: Their split.
        ids: Their ids.
        seed: Seed of the responses.
        repeat: Index of the independent repeat.
        unit: The unit of costs; that of the task, or the one that replaces it once token lengths are measured.
        held_back: Calls, tokens, USD and seconds that are withheld from the run's caps meanwhile.
    """

    candidate: Candidate
    split: Split
    ids: tuple[str, ...]
    seed: int
    repeat: int
    unit: Unit
    held_back: tuple[int, int, float, float]

    @property
    def evaluation(self) -> str:
        """Hash of what the results depend on, beside the run's task."""
        parts = [self.candidate.to_dict(), self.split, self.seed, self.repeat, astuple(self.unit)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def dump(self) -> str:
        """Return it as JSON."""
        parts = [self.split, self.ids, self.seed, self.repeat, astuple(self.unit), self.held_back]
        return json.dumps([self.candidate.to_dict(), *parts])

    @classmethod
    def load(cls, text: str) -> Work:
        """Read what `dump` returned.

        Args:
            text: The JSON.
        """
        candidate, split, ids, seed, repeat, unit, held_back = json.loads(text)
        return cls(Candidate.from_dict(candidate), split, tuple(ids), seed, repeat, Unit(*unit), tuple(held_back))


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk that was claimed.

    Attributes:
        run: The run.
        number: Its number in the run.
        epoch: The run's epoch when it was added. It is withdrawn when the run has a higher one.
        work: The examples.
    """

    run: str
    number: int
    epoch: int
    work: Work


@dataclass(frozen=True, slots=True)
class ChunkState:
    """The state of a chunk.

    Attributes:
        state: `open`, `done` or `failed`.
        is_claimed: Whether a worker is working on it.
        calls: Number of subtask calls.
        failure: Why it failed, as JSON; empty if it did not.
    """

    state: str
    is_claimed: bool
    calls: int
    failure: str


class ChunkStore:
    """The chunks in a database. Its methods block.

    Args:
        engine: The database.
        lease: The process's lease: that of the coordinator, or of the worker.
    """

    def __init__(self, engine: sa.Engine, lease: Lease) -> None:
        self._engine, self._lease = engine, lease
        create_tables(engine, TABLES)

    def coordinate(self, run: str, job: Mapping[str, Any]) -> None:
        """Become the coordinator of a run. Chunks of an earlier one are removed; their results are kept.

        Args:
            run: The run.
            job: What workers load, in JSON.

        Raises:
            ConfigError: Another process coordinates it.
        """
        row = {"run": run, "job": json.dumps(job), "coordinator": self._lease.member, "epoch": 0}
        changed = {"job": row["job"], "coordinator": row["coordinator"], "epoch": runs.c.epoch + 1}

        def take(connection: sa.Connection) -> None:
            connection.execute(insert(self._engine, runs).values(row).on_conflict_do_nothing())
            connection.execute(runs.update().where(runs.c.run == run).values(epoch=runs.c.epoch))  # locks it
            owner = connection.execute(sa.select(runs.c.coordinator).where(runs.c.run == run)).scalar_one()
            if owner in self._lease.live(connection) - {self._lease.member}:
                rule = "another process coordinates this run"
                raise ConfigError(rule, where=f"run {run}", remedy="wait for it, or stop it")
            connection.execute(runs.update().where(runs.c.run == run).values(changed))
            connection.execute(chunks.delete().where(chunks.c.run == run))

        transact(self._engine, take)

    def retire(self, run: str) -> None:
        """Stop coordinating a run.

        Args:
            run: The run.
        """
        of_run = sa.and_(runs.c.run == run, runs.c.coordinator == self._lease.member)
        self._execute(runs.update().where(of_run).values(coordinator=NOBODY, epoch=runs.c.epoch + 1))

    def add(self, run: str, works: Sequence[Work]) -> list[int]:
        """Add chunks, and return their numbers.

        Args:
            run: The run.
            works: The examples of each.

        Raises:
            JournalError: Another process coordinates the run, because the lease of this one was over.
        """

        def insert_all(connection: sa.Connection) -> list[int]:
            self._condition(run).check(connection)
            most = sa.select(sa.func.coalesce(sa.func.max(chunks.c.number), -1)).where(chunks.c.run == run)
            first = int(connection.execute(most).scalar_one()) + 1
            epoch = connection.execute(sa.select(runs.c.epoch).where(runs.c.run == run)).scalar_one()
            new = {"run": run, "epoch": epoch, "member": NOBODY, "state": OPEN, "calls": 0, "failure": ""}
            rows = [{**new, "number": first + i, "work": work.dump()} for i, work in enumerate(works)]
            connection.execute(chunks.insert(), rows)
            return [first + i for i in range(len(works))]

        return transact(self._engine, insert_all)

    def withdraw(self, run: str) -> None:
        """Raise the epoch of a run: nobody claims its chunks, and their workers start no further example.

        Args:
            run: The run.
        """
        of_run = sa.and_(runs.c.run == run, runs.c.coordinator == self._lease.member)
        self._execute(runs.update().where(of_run).values(epoch=runs.c.epoch + 1))

    def states(self, run: str, numbers: Iterable[int]) -> dict[int, ChunkState]:
        """Return the states of chunks.

        Args:
            run: The run.
            numbers: Numbers of its chunks.
        """
        c = chunks.c
        query = sa.select(c.number, c.state, c.member, c.calls, c.failure)
        query = query.where(c.run == run, c.number.in_(list(numbers)))
        live, rows = read(self._engine, lambda c: (self._lease.live(c), c.execute(query).fetchall()))
        return {row.number: ChunkState(row.state, row.member in live, row.calls, row.failure) for row in rows}

    def results(self, run: str, evaluation: str, known: Iterable[str] = ()) -> dict[str, ExampleResult]:
        """Return example id -> result.

        Args:
            run: The run.
            evaluation: As `Work.evaluation`.
            known: Ids of examples whose results are not needed.
        """
        c, known = results.c, tuple(known)
        of_evaluation = (c.run == run, c.evaluation == evaluation)

        def work(connection: sa.Connection) -> dict[str, ExampleResult]:
            stored = set(connection.execute(sa.select(c.example).where(*of_evaluation)).scalars())
            found: dict[str, ExampleResult] = {}
            for part in _parts(sorted(stored.difference(map(_stored_id, known)))):
                rows = connection.execute(sa.select(c.result).where(*of_evaluation, c.example.in_(part)))
                found.update({one.id: one for one in map(_results.validate_json, rows.scalars())})
            return found

        return read(self._engine, work)

    def forget(self, run: str, evaluation: str, ids: Iterable[str]) -> None:
        """Remove results, so that their examples are run again.

        Args:
            run: The run.
            evaluation: As `Work.evaluation`.
            ids: Ids of the examples.

        Raises:
            JournalError: As `add`.
        """
        c = results.c
        of_evaluation = (c.run == run, c.evaluation == evaluation)
        parts = (
            results.delete().where(*of_evaluation, c.example.in_(part)) for part in _parts(list(map(_stored_id, ids)))
        )
        self._execute(*parts, condition=self._condition(run))

    def job(self, run: str) -> dict[str, Any]:
        """Return what workers load for a run.

        Args:
            run: The run.
        """
        query = sa.select(runs.c.job).where(runs.c.run == run)
        found: dict[str, Any] = json.loads(read(self._engine, lambda c: c.execute(query).scalar_one()))
        return found

    def waiting_runs(self) -> list[str]:
        """Return the runs that have a coordinator."""
        query = sa.select(runs.c.run, runs.c.coordinator).order_by(runs.c.run)
        rows, live = read(self._engine, lambda c: (c.execute(query).fetchall(), self._lease.live(c)))
        return [row.run for row in rows if row.coordinator in live]

    def in_flight(self, run: str) -> int:
        """Return how many calls of the live processes of a run are in flight.

        Args:
            run: The run.
        """
        c, count = ledger.c, sa.select(sa.func.count()).select_from(ledger)

        def work(connection: sa.Connection) -> int:
            is_open = sa.and_(c.run == run, c.outcome == IN_FLIGHT, c.session.in_(self._lease.live(connection)))
            return int(connection.execute(count.where(is_open)).scalar_one())

        return read(self._engine, work)

    def epoch(self, run: str) -> int | None:
        """Return the epoch of a run; None if it has no coordinator.

        Args:
            run: The run.
        """
        query = sa.select(runs.c.coordinator, runs.c.epoch).where(runs.c.run == run)

        def work(connection: sa.Connection) -> int | None:
            row = connection.execute(query).one_or_none()
            return int(row.epoch) if row and row.coordinator in self._lease.live(connection) else None

        return read(self._engine, work)

    def claim(self, run: str) -> Chunk | None:
        """Claim the first chunk of a run that no live worker has; None if there is none.

        Args:
            run: The run.
        """
        c, me = chunks.c, self._lease.member
        epoch = sa.select(runs.c.epoch).where(runs.c.run == run).scalar_subquery()

        def take(connection: sa.Connection) -> Chunk | None:
            # Its own: this worker has none now, but an answer of the database may have been lost.
            others = self._lease.live(connection) - {me}
            is_free = sa.and_(c.run == run, c.epoch == epoch, c.state == OPEN, c.member.not_in(others))
            first = sa.select(c.number).where(is_free).order_by(c.number).limit(1).with_for_update(skip_locked=True)
            claim = chunks.update().where(c.run == run, c.number == first.scalar_subquery(), is_free).values(member=me)
            row = connection.execute(claim.returning(c.number, c.epoch, c.work)).one_or_none()
            return Chunk(run, row.number, row.epoch, Work.load(row.work)) if row else None

        return transact(self._engine, take)

    def write(self, chunk: Chunk, done: Sequence[ExampleResult]) -> None:
        """Write results; those that are there already are kept.

        Args:
            chunk: Their chunk.
            done: The results.
        """
        place = {"run": chunk.run, "evaluation": chunk.work.evaluation}
        rows = [{**place, "example": _stored_id(one.id), "result": _results.dump_json(one).decode()} for one in done]
        if rows:
            self._execute(insert(self._engine, results).values(rows).on_conflict_do_nothing())

    def end(self, chunk: Chunk, calls: int, failure: str = "") -> None:
        """End a chunk that this worker has.

        Args:
            chunk: The chunk.
            calls: Number of subtask calls.
            failure: Why it failed, as JSON; empty if it did not.
        """
        self._change(chunk, state=FAILED if failure else DONE, calls=calls, failure=failure, member=NOBODY)

    def release(self, chunk: Chunk) -> None:
        """Let another worker claim a chunk that this one has.

        Args:
            chunk: The chunk.
        """
        self._change(chunk, member=NOBODY)

    def _change(self, chunk: Chunk, **values: object) -> None:
        c = chunks.c
        own = (c.run == chunk.run, c.number == chunk.number, c.member == self._lease.member)
        self._execute(chunks.update().where(*own).values(**values))

    def _condition(self, run: str) -> Condition:
        """That this process coordinates a run."""
        own = sa.select(runs.c.run).where(runs.c.run == run, runs.c.coordinator == self._lease.member)
        rule = "another process has continued this run\n  remedy: see `agentopt runs list --all`, and resume it later"
        return Condition(own.with_for_update(), lambda: JournalError(rule))

    def _execute(self, *statements: sa.Executable, condition: Condition | None = None) -> None:
        def execute_all(connection: sa.Connection) -> None:
            if condition:
                condition.check(connection)
            for statement in statements:
                connection.execute(statement)

        transact(self._engine, execute_all)


def _stored_id(example: str) -> str:
    if len(example) <= LONGEST_ID and database_text(example) == example:
        return example
    return hashlib.sha256(example.encode(errors="surrogatepass")).hexdigest()


def _parts(ids: Sequence[str], size: int = 500) -> Iterable[Sequence[str]]:
    """Databases bound the number of parameters of a statement."""
    return (ids[i : i + size] for i in range(0, len(ids), size))
