"""The calls that wait in batches, as the journal stores them before they are submitted.

A batch's id is stored before anything is waited for, and each call with its request, so that another session can
collect the batch of a killed one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa

from agentopt.core.budget import Usage
from agentopt.models.base import Message, Request, ToolCall
from agentopt.models.journal import IN_BATCH, Journal
from agentopt.models.journal_statements import Write
from agentopt.models.journal_tables import batch_requests, batches, ledger


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that was submitted. Store it: it is all that `collect` needs besides the requests.

    Attributes:
        id: The provider's id.
        model: Catalogue name.
        label: Identifies the batch at its provider, and its requests inside of it.
        ids: The caller's ids of its requests.
    """

    id: str
    model: str
    label: str
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BatchedCall:
    """A call that waits in a batch.

    Attributes:
        entry: Id of its ledger entry, which identifies it in its batch.
        request: The fitted request.
        key: Its cache key.
        identity: `ModelSpec.identity`.
        share: Price of the call, as a share of a direct call's.
        worst: Its worst case, as reserved.
        run: The run that pays for it.
    """

    entry: str
    request: Request
    key: str
    identity: str
    share: float
    worst: Usage
    run: str


@dataclass(frozen=True, slots=True)
class Submission:
    """Calls to one model that were submitted together, and that are not collected yet.

    Attributes:
        id: Label of the submission.
        calls: The calls in the order in which they were submitted.
        batches: The batches whose ids are known.
        is_known: Whether every call is in one of them.
    """

    id: str
    calls: tuple[BatchedCall, ...]
    batches: tuple[Batch, ...]
    is_known: bool

    def of_model(self, name: str) -> Submission:
        """The submission with another catalogue name of its model."""
        calls = tuple(replace(call, request=replace(call.request, model=name)) for call in self.calls)
        return replace(self, calls=calls, batches=tuple(replace(batch, model=name) for batch in self.batches))


class BatchBook:
    """The batches and their calls in the journal.

    Args:
        journal: The journal.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    async def enter(self, submission: str, calls: Sequence[BatchedCall]) -> None:
        """Enter calls that are about to be submitted: in the ledger at their worst case, and with their requests."""
        writes: list[Write] = []
        for place, call in enumerate(calls):
            row = {
                "entry": call.entry,
                "submission": submission,
                "place": place,
                "key": call.key,
                "identity": call.identity,
                "share": call.share,
                "request": encoded(call.request),
            }
            ledger_entry = self._journal.entering(call.entry, call.run, call.request, call.worst, IN_BATCH)
            writes += [ledger_entry, (batch_requests.insert(), row)]
        await self._journal.write(writes)

    async def accept(self, submission: str, batch: Batch, calls: Sequence[BatchedCall]) -> None:
        """Store the id of a batch that its provider accepted, unless it is stored.

        Args:
            submission: Label of the submission.
            batch: The batch.
            calls: All calls of the submission, in order.
        """
        places = [place for place, call in enumerate(calls) if call.entry in set(batch.ids)]
        row = {
            "label": batch.label,
            "submission": submission,
            "batch": batch.id,
            "model": batch.model,
            "run": calls[0].run,
            "calls": len(batch.ids),
            "created": self._journal.clock(),
        }
        of_batch = (
            batch_requests.c.submission == submission,
            batch_requests.c.place.between(places[0], places[-1]),
        )
        labelled = batch_requests.update().where(*of_batch).values(label=batch.label)
        await self._journal.write([(self._journal.statements.kept[batches], row), (labelled, None)])

    async def adopt(self, submission: Submission) -> None:
        """Move the ledger entries of a submission to this session, whose wall time includes that of waiting for it."""
        entries = sa.select(batch_requests.c.entry).where(batch_requests.c.submission == submission.id)
        moved = {"session": self._journal.session, "opened": self._journal.clock()}
        await self._journal.write([(ledger.update().where(ledger.c.id.in_(entries)).values(moved), None)])

    def submissions(self) -> list[Submission]:
        """Return what was submitted and not collected yet, by any run."""
        of_ledger = (ledger.c[name] for name in ("run", *asdict(Usage())))
        joined = batch_requests.join(ledger, ledger.c.id == batch_requests.c.entry)
        query = (
            sa.select(batch_requests, *of_ledger)
            .select_from(joined)
            .order_by(batch_requests.c.submission, batch_requests.c.place)
        )
        found: dict[str, list[sa.Row[Any]]] = {}
        for row in self._journal.rows(query):
            found.setdefault(row.submission, []).append(row)
        return [self._submission(id_, rows) for id_, rows in found.items()]

    def _submission(self, id_: str, rows: Sequence[sa.Row[Any]]) -> Submission:
        by_label: dict[str | None, list[str]] = {}
        for row in rows:
            by_label.setdefault(row.label, []).append(row.entry)
        accepted = self._journal.rows(sa.select(batches).where(batches.c.submission == id_))
        known = [Batch(b.batch, b.model, b.label, tuple(by_label.get(b.label, ()))) for b in accepted]
        return Submission(id_, tuple(map(_call, rows)), tuple(known), None not in by_label)


def done(entry: str) -> Write:
    """Return the write that removes a call whose outcome is recorded."""
    return batch_requests.delete().where(batch_requests.c.entry == entry), None


def encoded(request: Request) -> str:
    """Return a request as JSON from which `decoded` makes an equal one."""
    return json.dumps({**asdict(request), "left_out": sorted(request.left_out)})


def decoded(text: str) -> Request:
    """Return the request that `encoded` wrote."""
    fields = json.loads(text)
    messages = tuple(_message(**message) for message in fields.pop("messages"))
    left_out = frozenset(fields.pop("left_out"))
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    return Request(messages=messages, left_out=left_out, **plain)


def _message(parts: list[str], tool_calls: list[Mapping[str, str]], **fields: Any) -> Message:
    return Message(parts=tuple(parts), tool_calls=tuple(ToolCall(**call) for call in tool_calls), **fields)


def _call(row: sa.Row[Any]) -> BatchedCall:
    worst = Usage(row.calls, row.prompt_tokens, row.completion_tokens, row.usd)
    return BatchedCall(row.entry, decoded(row.request), row.key, row.identity, row.share, worst, row.run)
