"""Stores every response that was paid for, on disk before it is used; and the ledger of what each run spent.

Two guarantees: a response is committed, together with the ledger entry that pays for it, before its caller receives
it, so that a killed run pays for nothing twice after it is resumed. And a call is entered in the ledger at its worst
case before it is sent, so that a cap holds across a crash: calls in flight then count as spent.

The journal is shared by all runs; the ledger has entries by run. Any SQLAlchemy URL can be used; the default is SQLite
in the user's cache folder, in WAL mode, which several processes can use concurrently.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from agentopt.core.budget import Usage
from agentopt.core.database import create_tables, open_engine
from agentopt.models.base import Choice, Request, Response, ToolCall
from agentopt.models.catalog import ModelSpec
from agentopt.models.commit_queue import CommitQueue, Write
from agentopt.models.journal_records import Sent, Spend
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
from agentopt.models.thoughts import split_thought

IN_FLIGHT = "in flight"
IN_BATCH = "in a batch"
"""Outcome of a call that waits in a batch. After a crash it still waits there, and the next session collects it."""

REMEMBERED = 7 * 24 * 3600.0
"""How long other runs leave out a parameter that a run found an endpoint to refuse, in seconds after its last call."""

Refusals = dict[tuple[str, str], frozenset[str]]
"""(Catalogue name, identity) of a model -> the parameters that its endpoint refuses."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored response.

    Attributes:
        choice: The answer.
        prompt_tokens: Tokens of the prompt.
        cached_tokens: Those of `prompt_tokens` that the provider read from its cache.
        created: When it was stored, in seconds since 1970.
        seconds: Duration of its call.
    """

    choice: Choice
    prompt_tokens: int
    cached_tokens: int
    created: float
    seconds: float


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
        insert: The `insert` of the database's dialect, which has `on_conflict_do_nothing`.
        is_fresh: Whether the responses of earlier sessions are ignored.
    """

    def __init__(self, url: str | Path, *, clock: Callable[[], float] = time.time, fresh: bool = False) -> None:
        self._engine = open_engine(url)
        create_tables(self._engine, TABLES)
        self.insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        self._reader = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._commits = CommitQueue(self._engine)
        self.clock, self.opened = clock, clock()
        self.session = uuid.uuid4().hex
        self.is_fresh = fresh
        self._hidden: set[tuple[str, int]] = set()

    def find(self, key: str, first_repeat: int, n: int) -> dict[int, Stored]:
        """Find stored responses.

        Responses that another session rejected and that were not requested again since are left out.

        Args:
            key: Cache key; see `Request.key`.
            first_repeat: First repeat index.
            n: Number of repeat indices.

        Returns:
            Repeat index -> response, for those that are stored.
        """
        rows = self._reader.execute(FIND, {"key": key, "first": first_repeat, "last": first_repeat + n - 1})
        found: dict[int, Stored] = {}
        for row in rows:
            place = (key, row.repeat)
            is_rejected = row.rejected_by not in (None, self.session) and not row.retried
            if place not in self._hidden and (is_rejected or (self.is_fresh and row.created < self.opened)):
                self._hidden.add(place)
            if place not in self._hidden:
                found[row.repeat] = _stored(row)
        return found

    async def open(self, run: str, request: Request, worst: Usage) -> str:
        """Enter a call that is about to be sent, at its worst case.

        Args:
            run: Identifier of the run.
            request: The request.
            worst: Its worst case.

        Returns:
            The id of the ledger entry.
        """
        entry = uuid.uuid4().hex
        await self.write([self.entering(entry, run, request, worst)])
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
            **asdict(worst),
            "id": entry,
            "run": run,
            "session": self.session,
            "model": request.model,
            "purpose": request.purpose,
            "outcome": outcome,
            "opened": self.clock(),
        }
        return ledger.insert(), values

    async def record(self, entry: str, key: str, identity: str, sent: Sent, also: Sequence[Write] = ()) -> None:
        """Store a response and settle its ledger entry, in one transaction. Repeats already stored are kept.

        Args:
            entry: Id of the ledger entry.
            key: Cache key of the request.
            identity: `ModelSpec.identity`.
            sent: The request, its response and what it cost.
            also: Writes of the same transaction.
        """
        row: dict[str, object] = {"key": key, "identity": identity, "request": _as_json(sent.request)}
        writes: list[Write] = [(self.insert(requests).on_conflict_do_nothing(), row)]
        if sent.run is not None:
            writes.append((self.insert(run_keys).on_conflict_do_nothing(), {"run": sent.run, "key": key}))
        for repeat, choice in enumerate(sent.response.choices, sent.request.first_repeat):
            writes += self._store(key, repeat, choice, sent.response)
        await self.write([*writes, self._settle(entry, sent.usage, "ok"), *also])

    async def record_failure(self, entry: str, usage: Usage, outcome: str, also: Sequence[Write] = ()) -> None:
        """Settle the entry of a call without a response; `outcome` is a short kind such as `HTTP 429`.

        Args:
            entry: Id of the ledger entry.
            usage: What the call is charged.
            outcome: A short kind, such as `HTTP 429`.
            also: Writes of the same transaction.
        """
        await self.write([self._settle(entry, usage, outcome), *also])

    async def reject(self, key: str, first_repeat: int, n: int) -> None:
        """Mark stored responses as unusable: the next session requests them again, once."""
        rows = [
            {"key": key, "repeat": repeat, "session": self.session, "retried": False}
            for repeat in range(first_repeat, first_repeat + n)
        ]
        await self.write([(self.insert(rejections).on_conflict_do_nothing(), row) for row in rows])

    def rows(self, statement: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        """Return the rows of a query.

        Args:
            statement: The query.
        """
        return self._reader.execute(statement).fetchall()

    async def record_refusal(self, run: str, spec: ModelSpec, parameter: str) -> None:
        """Store that an endpoint refuses a parameter, for the later sessions of the run.

        Args:
            run: Identifier of the run.
            spec: The catalogue entry of the model.
            parameter: As `UnsupportedParameterError.parameter`.
        """
        row: dict[str, object] = {"run": run, "model": spec.name, "identity": spec.identity, "parameter": parameter}
        await self.write([(self.insert(refused_parameters).on_conflict_do_nothing(), row)])

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
        for row in self._reader.execute(sa.select(c.model, c.identity, c.parameter).where(condition)):
            found[row.model, row.identity] = found.get((row.model, row.identity), frozenset()) | {row.parameter}
        return found

    def spend(self, run: str) -> Spend:
        """Return what `run` spent so far. Calls in flight, or in a batch, count at their worst case."""
        c = ledger.c
        sums = [sa.func.sum(column) for column in (c.calls, c.prompt_tokens, c.completion_tokens, c.usd)]
        of_run = c.run == run
        by_purpose = self._reader.execute(sa.select(c.purpose, *sums).where(of_run).group_by(c.purpose))
        failed = self._reader.execute(
            sa.select(c.outcome, sa.func.count()).where(of_run, c.outcome.not_in(("ok", IN_BATCH))).group_by(c.outcome)
        )
        spans = sa.select(sa.func.min(c.opened), sa.func.max(sa.func.coalesce(c.closed, c.opened)))
        sessions = self._reader.execute(spans.where(of_run).group_by(c.session))
        return Spend(
            {row[0]: Usage(*row[1:]) for row in by_purpose},
            {"cut off by a crash" if row[0] == IN_FLIGHT else row[0]: row[1] for row in failed},
            _covered((start, end) for start, end in sessions),
        )

    def spend_by_model(self, run: str) -> dict[tuple[str, str], Usage]:
        """Return (purpose, catalogue name) -> what `run` spent so far, as in `spend`."""
        c = ledger.c
        sums = [sa.func.sum(column) for column in (c.calls, c.prompt_tokens, c.completion_tokens, c.usd)]
        rows = self._reader.execute(
            sa.select(c.purpose, c.model, *sums).where(c.run == run).group_by(c.purpose, c.model)
        )
        return {(row[0], row[1]): Usage(*row[2:]) for row in rows}

    def seconds_per_call(self, identity: str) -> float | None:
        """Return the mean duration of the calls of a model; None if there are none.

        Responses that took no time are not counted: they are of a scripted model or were recorded elsewhere.
        """
        join = responses.join(requests, responses.c.key == requests.c.key)
        mean = sa.select(sa.func.avg(responses.c.seconds)).select_from(join)
        found = self._reader.execute(mean.where(requests.c.identity == identity, responses.c.seconds > 0)).scalar()
        return None if found is None else float(found)

    def timed_calls(self, identity: str) -> int:
        """Return the number of calls of a model that `seconds_per_call` is the mean of."""
        join = responses.join(requests, responses.c.key == requests.c.key)
        count = sa.select(sa.func.count()).select_from(join)
        return int(
            self._reader.execute(count.where(requests.c.identity == identity, responses.c.seconds > 0)).scalar_one()
        )

    async def aclose(self) -> None:
        """Flush pending writes and close the database."""
        await self._commits.flush()
        self.close()

    def close(self) -> None:
        """Close the database. For use outside of an event loop, if nothing was written."""
        self._commits.close()
        self._reader.close()
        self._engine.dispose()

    def _store(self, key: str, repeat: int, choice: Choice, response: Response) -> list[Write]:
        place: dict[str, object] = {"key": key, "repeat": repeat}
        row = {
            "text": _storable(choice.text),
            "finish_reason": choice.finish_reason[:32],
            "prompt_tokens": response.prompt_tokens,
            "completion_tokens": choice.completion_tokens,
            "seconds": response.seconds,
            "created": self.clock(),
        }
        detail = {
            "thought": _storable(choice.thought),
            "tool_calls": _storable(json.dumps([asdict(call) for call in choice.tool_calls])),
            "cached_tokens": response.cached_tokens,
            "reasoning_tokens": choice.reasoning_tokens,
        }
        # A text that mentions a thought's tag must not be split again when it is read.
        has_details = choice.thought or choice.tool_calls or response.cached_tokens or choice.reasoning_tokens
        tables = [(responses, row), *([(details, detail)] if has_details or "think" in choice.text.lower() else [])]
        if (key, repeat) not in self._hidden:
            return [(self.insert(table).on_conflict_do_nothing(), {**place, **values}) for table, values in tables]
        self._hidden.discard((key, repeat))
        retried = rejections.update().where(rejections.c.key == key, rejections.c.repeat == repeat).values(retried=True)
        removed = details.delete().where(details.c.key == key, details.c.repeat == repeat)
        return [
            (removed, None),
            *(
                (
                    self.insert(table).on_conflict_do_update(index_elements=["key", "repeat"], set_=values),
                    place | values,
                )
                for table, values in tables
            ),
            (retried, None),
        ]

    async def write(self, writes: list[Write]) -> None:
        """Commit writes in one transaction; see `CommitQueue.write`.

        Args:
            writes: The writes.

        Raises:
            JournalError: They cannot be committed.
        """
        await self._commits.write(writes)

    def _settle(self, entry: str, usage: Usage, outcome: str) -> Write:
        values = {**asdict(usage), "outcome": outcome, "closed": self.clock(), "entry": entry}
        return _SETTLE, values


def _stored(row: sa.Row[Any]) -> Stored:
    if row.thought is None:  # of version 0.1.0, or without thoughts
        thought, text = split_thought(row.text)
        choice = Choice(text, row.completion_tokens, row.finish_reason, thought)
        return Stored(choice, row.prompt_tokens, 0, row.created, row.seconds)
    calls = tuple(ToolCall(**call) for call in json.loads(row.tool_calls))
    reasoning = row.reasoning_tokens
    choice = Choice(row.text, row.completion_tokens, row.finish_reason, row.thought, calls, reasoning)
    return Stored(choice, row.prompt_tokens, row.cached_tokens, row.created, row.seconds)


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds that the spans cover: sessions of several processes may overlap."""
    seconds, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        seconds += max(0.0, end - max(start, until))
        until = max(until, end)
    return seconds


def _storable(text: str) -> str:
    """Replace what a database cannot store: lone surrogates, and the null character."""
    return text.encode(errors="replace").decode().replace("\0", "\ufffd")


def _as_json(request: Request) -> str:
    """The request as JSON, for people and tools that inspect the journal."""
    shown = {key: value for key, value in asdict(request).items() if key not in ("first_repeat", "n", "purpose")}
    return json.dumps({**shown, "left_out": sorted(request.left_out)})


FIND = (
    sa.select(
        responses,
        details.c.thought,
        details.c.tool_calls,
        details.c.cached_tokens,
        details.c.reasoning_tokens,
        rejections.c.session.label("rejected_by"),
        rejections.c.retried,
    )
    .select_from(
        responses.outerjoin(
            details, sa.and_(details.c.key == responses.c.key, details.c.repeat == responses.c.repeat)
        ).outerjoin(rejections, sa.and_(rejections.c.key == responses.c.key, rejections.c.repeat == responses.c.repeat))
    )
    .where(
        responses.c.key == sa.bindparam("key"),
        responses.c.repeat.between(sa.bindparam("first"), sa.bindparam("last")),
    )
)
_SETTLE = (
    ledger.update()
    .where(ledger.c.id == sa.bindparam("entry"))
    .values({name: sa.bindparam(name) for name in (*asdict(Usage()), "outcome", "closed")})
)
