"""Stores every response that was paid for, on disk before it is used; and the ledger of what each run spent.

Two guarantees: a response is committed, together with the ledger entry that pays for it, before its caller receives
it, so that a killed run pays for nothing twice after it is resumed. And a call is entered in the ledger at its worst
case before it is sent, so that a cap holds across a crash: calls in flight then count as spent.

The journal is shared by all runs; the ledger has entries by run. Any SQLAlchemy URL can be used; the default is SQLite
in the user's cache folder, in WAL mode, which several processes can use concurrently.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from agentopt.core.budget import Usage
from agentopt.core.database import Reader, create_tables, open_engine
from agentopt.core.errors import JournalError
from agentopt.models.base import Purpose, Request
from agentopt.models.catalog import ModelSpec
from agentopt.models.commit_queue import CommitQueue
from agentopt.models.journal_presence import Presence
from agentopt.models.journal_records import Sent, Spend
from agentopt.models.journal_rows import FIND, PACE, Pace, Stored, as_json, choice_values, read_choice, storable
from agentopt.models.journal_statements import Statements, Write
from agentopt.models.journal_tables import (
    TABLES,
    details,
    ledger,
    refused_parameters,
    rejections,
    requests,
    responses,
    run_keys,
)
from agentopt.models.single_flight import Flights, Place

IN_FLIGHT = "in flight"
IN_BATCH = "in a batch"
"""Outcome of a call that waits in a batch. After a crash it still waits there, and the next session collects it."""

REMEMBERED = 7 * 24 * 3600.0
"""How long other runs leave out a parameter that a run found an endpoint to refuse, in seconds after its last call."""

Refusals = dict[tuple[str, str], frozenset[str]]
"""(Catalogue name, identity) of a model -> the parameters that its endpoint refuses."""

READERS = 4
"""Threads that look responses up in a database server."""


class Journal:
    """Responses by (cache key, repeat index), and the ledger. Use from one event loop; close it at the end.

    Args:
        url: A SQLAlchemy URL, or a path for SQLite.
        clock: Seconds since 1970.
        fresh: Ignore the responses of earlier sessions; new ones replace them.

    Attributes:
        session: Identifier of this session in the ledger.
        opened: When it began, in seconds since 1970.
        clock: Seconds since 1970.
        statements: The writes, in the dialect of the database.
        flights: The responses that this process and others are requesting.
        is_fresh: Whether the responses of earlier sessions are ignored.
    """

    def __init__(self, url: str | Path, *, clock: Callable[[], float] = time.time, fresh: bool = False) -> None:
        self._engine = open_engine(url)
        create_tables(self._engine, TABLES)
        self.statements = Statements(self._engine)
        self._reader = Reader(self._engine)
        is_file = self._engine.dialect.name == "sqlite"
        self._threads = None if is_file else ThreadPoolExecutor(READERS, thread_name_prefix="journal-reader")
        self._presence = Presence(self._engine) if is_file else None
        self.clock, self.opened = clock, clock()
        self.session = uuid.uuid4().hex
        self._entries = itertools.count()
        self.flights = Flights(self._engine, self.session, self.query, self._is_usable)
        self._commits = CommitQueue(self._engine, self.flights)
        self._claimed: dict[str, Sequence[Place]] = {}
        self.is_fresh = fresh
        self._hidden: set[Place] = set()

    def find(self, key: str, first_repeat: int, n: int) -> dict[int, Stored]:
        """Find stored responses, in the thread that calls it.

        Responses that another session rejected and that were not requested again since are left out.

        Args:
            key: Cache key; see `Request.key`.
            first_repeat: First repeat index.
            n: Number of repeat indices.

        Returns:
            Repeat index -> response, for those that are stored.
        """
        return self._usable(self._reader.rows(FIND, {"key": key, "first": first_repeat, "last": first_repeat + n - 1}))

    async def look_up(self, key: str, first_repeat: int, n: int) -> dict[int, Stored]:
        """Find stored responses, as `find` does, without blocking the event loop if the database is a server.

        Args:
            key: Cache key; see `Request.key`.
            first_repeat: First repeat index.
            n: Number of repeat indices.
        """
        if self._presence and not self._presence.has(key):
            return {}
        return self._usable(await self.query(FIND, {"key": key, "first": first_repeat, "last": first_repeat + n - 1}))

    async def query(
        self, statement: sa.Executable, values: Mapping[str, object] | None = None
    ) -> Sequence[sa.Row[Any]]:
        """Return the rows of a query, without blocking the event loop if the database is a server.

        Args:
            statement: The query.
            values: Its parameters.
        """
        if self._threads is None:
            return self._reader.rows(statement, values)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._reader.rows, statement, values)

    async def open(self, run: str, request: Request, worst: Usage, key: str | None = None) -> str | None:
        """Enter a call that is about to be sent, at its worst case.

        Args:
            run: Identifier of the run.
            request: The request.
            worst: Its worst case.
            key: Cache key of the request; with it, its responses are claimed for this process.

        Returns:
            The id of the ledger entry; None if another process is requesting one of the responses, or has stored it.
        """
        # No random number for each: reading the system's source of them takes as long as an index's look-up.
        entry = f"{self.session[:20]}{next(self._entries):012x}"
        entering = [self.entering(entry, run, request, worst)]
        if key is None:
            await self.write(entering)
            return entry
        claims = [(key, repeat) for repeat in range(request.first_repeat, request.first_repeat + request.n)]
        if not await self._commits.write(entering, claims=claims):
            return None
        self._claimed[entry] = claims
        self.flights.hold(claims)
        return entry

    def entering(self, entry: str, run: str, request: Request, worst: Usage, outcome: str = IN_FLIGHT) -> Write:
        """Return the write that enters a call, see `open`.

        Args:
            entry: A new id.
            run: Identifier of the run.
            request: The request.
            worst: Its worst case.
            outcome: Its outcome so far.
        """
        values = {
            "id": entry,
            **worst.columns(),
            "run": run,
            "session": self.session,
            "model": request.model,
            "purpose": request.purpose,
            "outcome": outcome,
            "opened": self.clock(),
        }
        return self.statements.kept[ledger], values

    async def record(
        self, entry: str, key: str, identity: str, sent: Sent, also: Sequence[Write] = ()
    ) -> dict[int, Stored] | None:
        """Store a response and settle its ledger entry, in one transaction. Repeats already stored are kept.

        Args:
            entry: Id of the ledger entry.
            key: Cache key of the request.
            identity: `ModelSpec.identity`.
            sent: The request, its response and what it cost.
            also: Writes of the same transaction.

        Returns:
            Repeat index -> response, as a look-up would return them now. None if some may have been stored before, so
            that only a look-up knows.
        """
        kept, response, now = self.statements.kept, storable(sent.response), self.clock()
        row: dict[str, object] = {"key": key, "identity": identity, "request": as_json(sent.request)}
        writes: list[Write] = [(kept[requests], row)]
        if sent.run is not None:
            writes.append((kept[run_keys], {"run": sent.run, "key": key}))
        found = {}
        for repeat, choice in enumerate(response.choices, sent.request.first_repeat):
            values, more = choice_values(choice, response, now)
            writes += self._store({"key": key, "repeat": repeat}, values, more)
            found[repeat] = Stored(choice, response.prompt_tokens, response.cached_tokens, now, response.seconds)
        is_new = await self._end(entry, [*writes, self._settle(entry, sent.usage, "ok"), *also], len(response.choices))
        return found if is_new else None

    async def record_failure(self, entry: str, usage: Usage, outcome: str, also: Sequence[Write] = ()) -> None:
        """Settle the entry of a call without a response; `outcome` is a short kind such as `HTTP 429`.

        Args:
            entry: Id of the ledger entry.
            usage: What the call is charged.
            outcome: A short kind, such as `HTTP 429`.
            also: Writes of the same transaction.
        """
        await self._end(entry, [self._settle(entry, usage, outcome), *also])

    async def abandon(self, entry: str) -> None:
        """Let other processes request the responses of a call that neither `record` nor `record_failure` ended."""
        if entry in self._claimed:
            await self._end(entry, [])

    async def reject(self, key: str, first_repeat: int, n: int) -> None:
        """Mark stored responses as unusable: the next session requests them again, once."""
        rows: list[dict[str, object]] = [
            {"key": key, "repeat": repeat, "session": self.session, "retried": False}
            for repeat in range(first_repeat, first_repeat + n)
        ]
        await self.write([(self.statements.kept[rejections], row) for row in rows])

    def rows(self, statement: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        """Return the rows of a query.

        Args:
            statement: The query.
        """
        return self._reader.rows(statement)

    async def record_refusal(self, run: str, spec: ModelSpec, parameter: str) -> None:
        """Store that an endpoint refuses a parameter, for the later sessions of the run.

        Args:
            run: Identifier of the run.
            spec: The catalogue entry of the model.
            parameter: As `request_fitting.refusal` returned it.
        """
        row: dict[str, object] = {"run": run, "model": spec.name, "identity": spec.identity, "parameter": parameter}
        await self.write([(self.statements.kept[refused_parameters], row)])

    def refused(self, run: str) -> Refusals:
        """Return the parameters that the run found the endpoints of its models to refuse."""
        return self._refused(refused_parameters.c.run == run)

    def refused_lately(self, run: str) -> Refusals:
        """Return what other runs found that called the model in the last `REMEMBERED` seconds; nothing if `is_fresh`.

        The findings have no time of their own, so that the table of existing journals does not change.
        """
        found, call = refused_parameters.c, ledger.c
        is_recent = sa.exists().where(
            call.run == found.run, call.model == found.model, call.opened >= self.opened - REMEMBERED
        )
        return {} if self.is_fresh else self._refused((found.run != run) & is_recent)

    def _refused(self, condition: sa.ColumnElement[bool]) -> Refusals:
        c = refused_parameters.c
        found: Refusals = {}
        for row in self._reader.rows(sa.select(c.model, c.identity, c.parameter).where(condition)):
            found[row.model, row.identity] = found.get((row.model, row.identity), frozenset()) | {row.parameter}
        return found

    def spend(self, run: str | None) -> Spend:
        """Return what `run`, or every run, spent so far. Calls in flight, or in a batch, count at their worst case."""
        c = ledger.c
        sums = [sa.func.sum(column) for column in (c.calls, c.prompt_tokens, c.completion_tokens, c.usd)]
        of_run = sa.true() if run is None else c.run == run
        by_purpose = self._reader.rows(sa.select(c.purpose, *sums).where(of_run).group_by(c.purpose))
        failed = self._reader.rows(
            sa.select(c.outcome, sa.func.count()).where(of_run, c.outcome.not_in(("ok", IN_BATCH))).group_by(c.outcome)
        )
        spans = sa.select(sa.func.min(c.opened), sa.func.max(sa.func.coalesce(c.closed, c.opened)))
        sessions = self._reader.rows(spans.where(of_run).group_by(c.session))
        return Spend(
            {row[0]: Usage(*row[1:]) for row in by_purpose},
            {"cut off, counted at the worst case" if row[0] == IN_FLIGHT else row[0]: row[1] for row in failed},
            _covered((start, end) for start, end in sessions),
        )

    def spend_by_model(self, run: str) -> dict[tuple[str, str], Usage]:
        """Return (purpose, catalogue name) -> what `run` spent so far, as in `spend`."""
        c = ledger.c
        sums = [sa.func.sum(column) for column in (c.calls, c.prompt_tokens, c.completion_tokens, c.usd)]
        rows = self._reader.rows(sa.select(c.purpose, c.model, *sums).where(c.run == run).group_by(c.purpose, c.model))
        return {(row[0], row[1]): Usage(*row[2:]) for row in rows}

    def mean_call(self, model: str, purpose: Purpose) -> tuple[float, float] | None:
        """Return the mean prompt and completion tokens of a model's answered calls; None if there are none.

        Args:
            model: Its catalogue name.
            purpose: What the calls were for.
        """
        c = ledger.c
        means = [sa.func.sum(column) * 1.0 / sa.func.sum(c.calls) for column in (c.prompt_tokens, c.completion_tokens)]
        answered = (c.model == model, c.purpose == purpose, c.outcome == "ok", c.calls > 0)
        ((prompt, completion),) = self._reader.rows(sa.select(*means).where(*answered))
        return None if prompt is None else (float(prompt), float(completion))

    def pace(self, identity: str) -> Pace:
        """Return how long the calls of a model took.

        It is that of at most `journal_rows.SAMPLE` requests, in the order of their keys, which are hashes.
        """
        ((mean, timed, untimed),) = self._reader.rows(PACE, {"identity": identity})
        return Pace(None if mean is None else float(mean), int(timed), int(untimed))

    async def aclose(self) -> None:
        """Flush pending writes and close the database, also if this is cancelled."""
        try:
            with suppress(JournalError):  # the claims end by themselves
                for entry in list(self._claimed):
                    await self.abandon(entry)
            await self._commits.flush()
        finally:
            await asyncio.shield(asyncio.to_thread(self.close))

    def close(self) -> None:
        """Close the database. For use outside of an event loop, if nothing was written."""
        self._commits.close()
        self.flights.close()
        if self._threads:
            self._threads.shutdown()
        if self._presence:
            self._presence.close()
        self._reader.close()
        self._engine.dispose()

    def _store(self, place: dict[str, object], values: dict[str, object], more: dict[str, object]) -> list[Write]:
        """The writes that store a choice: in the place of one that is hidden, unless it is stored already otherwise."""
        at, statements = (str(place["key"]), int(str(place["repeat"]))), self.statements
        tables = [(responses, values), *([(details, more)] if more else [])]
        if at not in self._hidden:
            return [(statements.kept[table], {**place, **row}) for table, row in tables]
        self._hidden.discard(at)
        of_place: dict[str, object] = {"of_key": at[0], "of_repeat": at[1]}
        writes: list[Write] = [(statements.replaced[table], {**place, **row}) for table, row in tables]
        writes += [] if more else [(statements.remove_details, of_place)]
        return [*writes, (statements.retried, of_place)]

    async def write(self, writes: list[Write]) -> None:
        """Commit writes in one transaction; see `CommitQueue.write`.

        Args:
            writes: The writes.

        Raises:
            JournalError: They cannot be committed.
        """
        await self._commits.write(writes)

    async def _end(self, entry: str, writes: Sequence[Write], responses: int = 0) -> bool:
        """Commit the end of a call, and release what was claimed for it. Returns whether all responses are new."""
        claims = self._claimed.pop(entry, ())
        self.flights.drop(claims)
        try:
            return await self._commits.write(writes, releases=claims, responses=responses)
        except JournalError:
            if claims:  # a row was refused: others need not wait for it
                with suppress(JournalError):
                    await self._commits.write([], releases=claims)
            raise

    def _usable(self, rows: Sequence[sa.Row[Any]]) -> dict[int, Stored]:
        return {row.repeat: read_choice(row) for row in rows if self._is_usable(row)}

    def _is_usable(self, row: sa.Row[Any]) -> bool:
        """Whether a stored response is not to be requested again. One that is remains hidden until it is replaced."""
        place = (row.key, row.repeat)
        is_rejected = row.rejected_by not in (None, self.session) and not row.retried
        if place not in self._hidden and (is_rejected or (self.is_fresh and row.created < self.opened)):
            self._hidden.add(place)
        return place not in self._hidden

    def _settle(self, entry: str, usage: Usage, outcome: str) -> Write:
        values = {"entry": entry, **usage.columns(), "outcome": outcome, "closed": self.clock()}
        return self.statements.settle, values


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds that the spans cover: sessions of several processes may overlap."""
    seconds, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        seconds += max(0.0, end - max(start, until))
        until = max(until, end)
    return seconds
