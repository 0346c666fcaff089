"""Every response ever paid for, on disk before it is used; and the ledger of what each run spent.

Two promises live here. A response is committed, together with the ledger entry that pays for it, before anyone
sees it, so a killed run that is started again pays for nothing twice. And a call is entered in the ledger at its
worst case before it is sent, so a cap holds across a crash: what was in flight then counts as spent.

The journal is shared by all runs; the ledger is kept by run. Any SQLAlchemy URL will do; the default is SQLite in
the user's cache folder, in WAL mode, which two processes may use at once.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from agentopt.core.budget import Usage
from agentopt.core.database import create_tables, open_engine
from agentopt.core.errors import JournalError
from agentopt.models.base import Choice, Request, Response

_tables = sa.MetaData()
_requests = sa.Table(
    "requests",
    _tables,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("identity", sa.Text, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
)
_responses = sa.Table(
    "responses",
    _tables,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("repeat", sa.Integer, primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("finish_reason", sa.String(32), nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
)
_ledger = sa.Table(
    "ledger",
    _tables,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("run", sa.Text, nullable=False, index=True),
    sa.Column("session", sa.String(32), nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("purpose", sa.String(16), nullable=False),
    sa.Column("calls", sa.Integer, nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("usd", sa.Float, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("opened", sa.Float, nullable=False),
    sa.Column("closed", sa.Float),
)
IN_FLIGHT = "in flight"
_Write = tuple[sa.Executable, dict[str, object] | None]
_Pending = tuple[list[_Write], asyncio.Future[None]]
"""What is to be committed together, and who waits for it."""


@dataclass(frozen=True, slots=True)
class Spend:
    """What the ledger says of one run: usage by purpose, failed attempts by kind, wall seconds of its sessions.

    Calls that are in flight now count among the failed until they are settled, as those do that a crash cut off.
    """

    by_purpose: dict[str, Usage]
    failures: dict[str, int]
    seconds: float


class Journal:
    """Responses by (request key, repeat index), and the ledger. Use from one event loop; close it at the end.

    `url` is a SQLAlchemy URL, or a path for SQLite. `clock` gives seconds since the epoch.
    """

    def __init__(self, url: str | Path, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = open_engine(url)
        create_tables(self._engine, _tables)
        self._insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        self._reader = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._pending: list[_Pending] = []
        self._flushing: asyncio.Task[None] | None = None
        self._clock = clock
        self._session = uuid.uuid4().hex

    def find(self, key: str, first_repeat: int, n: int) -> dict[int, tuple[Choice, int]]:
        """Repeat index -> (choice, prompt tokens), for those of the `n` repeats that are known."""
        rows = self._reader.execute(_FIND, {"key": key, "first": first_repeat, "last": first_repeat + n - 1})
        return {row[0]: (Choice(row[1], row[2], row[3]), row[4]) for row in rows}

    async def open(self, run: str, request: Request, worst: Usage) -> str:
        """Enter a call that is about to be sent, at its worst case. Returns the entry's id."""
        entry = {
            **asdict(worst),
            "id": uuid.uuid4().hex,
            "run": run,
            "session": self._session,
            "model": request.model,
            "purpose": request.purpose,
            "outcome": IN_FLIGHT,
            "opened": self._clock(),
        }
        await self._write([(_ledger.insert(), entry)])
        return str(entry["id"])

    async def record(self, entry: str, identity: str, request: Request, response: Response, usage: Usage) -> None:
        """Keep the response and settle its ledger entry, in one transaction. Repeats already known stay."""
        key, now = request.key(identity), self._clock()
        asked = {"key": key, "identity": identity, "request": _readable(request)}
        answers = [
            {
                "key": key,
                "repeat": request.first_repeat + i,
                "prompt_tokens": response.prompt_tokens,
                "seconds": response.seconds,
                "created": now,
                **asdict(choice),
                # Half an emoji, cut off by max_tokens, is no text that a database takes.
                "text": choice.text.encode(errors="replace").decode(),
            }
            for i, choice in enumerate(response.choices)
        ]
        rows = [(_requests, asked), *((_responses, answer) for answer in answers)]
        writes: list[_Write] = [(self._insert(table).on_conflict_do_nothing(), row) for table, row in rows]
        await self._write([*writes, self._settle(entry, usage, "ok")])

    async def record_failure(self, entry: str, usage: Usage, outcome: str) -> None:
        """Settle the entry of a call that gave no response; `outcome` is a short kind such as `HTTP 429`."""
        await self._write([self._settle(entry, usage, outcome)])

    def spend(self, run: str) -> Spend:
        """What `run` spent so far. Calls that a crash left in flight count at their worst case."""
        c = _ledger.c
        sums = [sa.func.sum(column) for column in (c.calls, c.prompt_tokens, c.completion_tokens, c.usd)]
        of_run = c.run == run
        by_purpose = self._reader.execute(sa.select(c.purpose, *sums).where(of_run).group_by(c.purpose))
        failed = self._reader.execute(
            sa.select(c.outcome, sa.func.count()).where(of_run, c.outcome != "ok").group_by(c.outcome)
        )
        spans = sa.select(sa.func.max(sa.func.coalesce(c.closed, c.opened)) - sa.func.min(c.opened))
        seconds = self._reader.execute(spans.where(of_run).group_by(c.session)).scalars()
        return Spend(
            {row[0]: Usage(*row[1:]) for row in by_purpose},
            {"cut off by a crash" if row[0] == IN_FLIGHT else row[0]: row[1] for row in failed},
            sum(seconds),
        )

    def seconds_per_call(self, identity: str) -> float | None:
        """Mean time that responses of this model took; None when there are none."""
        join = _responses.join(_requests, _responses.c.key == _requests.c.key)
        mean = sa.select(sa.func.avg(_responses.c.seconds)).select_from(join)
        found = self._reader.execute(mean.where(_requests.c.identity == identity)).scalar()
        return None if found is None else float(found)

    async def aclose(self) -> None:
        """Finish every write and let go of the database."""
        if self._flushing:
            await self._flushing
        self.close()

    def close(self) -> None:
        """Let go of the database; for use outside of an event loop, where nothing was written."""
        self._writer.shutdown()
        self._reader.close()
        self._engine.dispose()

    def _settle(self, entry: str, usage: Usage, outcome: str) -> _Write:
        values = {**asdict(usage), "outcome": outcome, "closed": self._clock(), "entry": entry}
        return _SETTLE, values

    async def _write(self, writes: list[_Write]) -> None:
        """Commit, together with whatever else asks meanwhile: one disk flush serves all who wait for it."""
        done = asyncio.get_running_loop().create_future()
        self._pending.append((writes, done))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush())
        await asyncio.shield(done)

    async def _flush(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            failure = await self._failure_of(batch)
            if failure is None or len(batch) == 1 or isinstance(failure.__cause__, sa.exc.OperationalError):
                _tell(batch, failure)
                continue
            # The database is well, but refuses a row: that takes no other call's answer with it.
            for one in batch:
                _tell([one], await self._failure_of([one]))

    async def _failure_of(self, batch: list[_Pending]) -> JournalError | None:
        """Commit the batch; why it could not be, where it could not."""
        writes = [write for of_one, _ in batch for write in of_one]
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._commit, writes)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait for this commit must hear of it
            failure = JournalError(f"the journal cannot be written: {error}\n  remedy: check its disk and its URL")
            failure.__cause__ = error
            return failure
        return None

    def _commit(self, writes: list[_Write]) -> None:
        with self._engine.begin() as connection:
            for statement, values in writes:
                connection.execute(statement, values)


def _tell(batch: list[_Pending], failure: JournalError | None) -> None:
    """Let those who wait for the batch go on."""
    for _, done in batch:
        if done.done():
            continue
        if failure:
            done.set_exception(failure)
        else:
            done.set_result(None)


def _readable(request: Request) -> str:
    """The request as JSON, for people and tools that look into the journal."""
    shown = asdict(request)
    for not_asked in ("first_repeat", "n", "purpose"):
        del shown[not_asked]
    return json.dumps(shown)


_FIND = sa.select(
    _responses.c.repeat,
    _responses.c.text,
    _responses.c.completion_tokens,
    _responses.c.finish_reason,
    _responses.c.prompt_tokens,
).where(
    _responses.c.key == sa.bindparam("key"),
    _responses.c.repeat.between(sa.bindparam("first"), sa.bindparam("last")),
)
_SETTLE = (
    _ledger.update()
    .where(_ledger.c.id == sa.bindparam("entry"))
    .values({name: sa.bindparam(name) for name in (*asdict(Usage()), "outcome", "closed")})
)
