"""Groups model calls that can wait into batches of their providers, and delivers each response when its batch ends.

A group is submitted when no call arrived for a while and no call is being answered directly, whose caller may make the
next one. The journal has every call and the id of its batch before anything is waited for: a killed session's batches
are collected by the next one.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentopt.core.budget import Budget, Reservation, Usage
from agentopt.core.errors import ModelError, TransientModelError
from agentopt.core.events import BatchWaiting, ModelNotice, Observer
from agentopt.models.base import Response
from agentopt.models.batch_calls import Batch, BatchBook, BatchedCall, Submission, done
from agentopt.models.catalog import ModelSpec
from agentopt.models.charging import charge, charge_failure, discounted
from agentopt.models.journal import Journal
from agentopt.models.journal_records import Sent

if TYPE_CHECKING:
    from agentopt.models.batch import BatchTransport
    from agentopt.models.batch_provider import BatchStatus

QUIET = 2.0
"""Seconds without a new call after which a group is submitted."""
LONGEST_GROUPING = 600.0
"""Seconds after which a group is submitted though calls are still being answered directly."""
MOST_CALLS, MOST_BYTES = 10_000, 100_000_000
"""Most calls of a batch, and most bytes of their prompts. Each group is one batch within the limits of providers."""
UNREACHABLE_WAIT = 60.0
"""Seconds before a provider that could not be reached is called again."""

OpenTransport = Callable[[Mapping[str, ModelSpec], Callable[["Batch", "BatchStatus"], None]], "BatchTransport"]
"""Makes the transport of batches, given the models and what receives each status of a batch."""


def open_transport(specs: Mapping[str, ModelSpec], on_status: Callable[[Batch, BatchStatus], None]) -> BatchTransport:
    """Return the transport to the providers of the catalogue. Imports their HTTP client."""
    from agentopt.models.batch import BatchTransport

    return BatchTransport(specs, on_status=on_status)


@dataclass(eq=False, slots=True)
class Waiting:
    """A call whose response is awaited.

    Attributes:
        call: The call.
        reservation: What is reserved for it; None if another run pays for it.
        end: Its usage or its failure, once it is known.
        is_open: Whether it failed without an outcome: its batch can still be collected.
    """

    call: BatchedCall
    reservation: Reservation | None
    end: asyncio.Future[Usage | Exception] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    is_open: bool = False


@dataclass(eq=False, slots=True)
class _Group:
    """Calls to one model that are not submitted yet, and the bytes of their prompts."""

    calls: list[Waiting] = field(default_factory=list)
    size: int = 0


class BatchLane:
    """The batches of one session.

    Args:
        specs: Catalogue name -> entry, for every model of the run.
        journal: Stores the calls, the batches and the responses.
        budget: Settles what the calls cost.
        run: Identifier of the run in the ledger.
        transport: Makes the transport of batches.
        observer: Receives a `BatchWaiting` when a batch was submitted, and whenever more of it is done.
        quiet: Seconds without a new call after which a group is submitted.
        sleep: Waits for a number of seconds.

    Attributes:
        being_answered: Direct calls in flight, and batches that are being read. While there are any, a group may get
            further calls, from the callers that they are for.
    """

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        journal: Journal,
        budget: Budget,
        run: str,
        *,
        transport: OpenTransport = open_transport,
        observer: Observer = lambda _: None,
        quiet: float = QUIET,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.being_answered = 0
        self._specs, self._journal, self._budget, self._run = specs, journal, budget, run
        self._open_transport, self._observer = transport, observer
        self._quiet, self._sleep = quiet, sleep
        self._book = BatchBook(journal)
        self._opened: BatchTransport | None = None
        self._groups: dict[str, _Group] = {}
        self._earlier: dict[str, list[Waiting]] = {}
        self._of_others: dict[str, Submission] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._done: dict[str, int] = {}

    def add(self, call: BatchedCall, reservation: Reservation) -> Waiting:
        """Send a call with the next batch of its model. Its `end` is set when its outcome is recorded and settled.

        Args:
            call: The call; `entry` is the id of a new ledger entry.
            reservation: Its worst case.
        """
        waiting = Waiting(call, reservation)
        model = call.request.model
        group = self._groups.get(model)
        if group is None:
            group = self._groups[model] = _Group()
            self._start(self._submit_when_quiet(model, group), group.calls)
        group.calls.append(waiting)
        group.size += call.worst.prompt_tokens  # at least the bytes of the prompt
        if len(group.calls) >= MOST_CALLS or group.size >= MOST_BYTES:
            del self._groups[model]
            self._start(self._submit(uuid.uuid4().hex, group.calls), group.calls)
        return waiting

    def give_up(self, waiting: Waiting) -> None:
        """Settle a call that is not waited for any more, unless it has ended.

        One that was submitted counts at its worst case, and stays in the journal to be collected.

        Args:
            waiting: The call, as `add` returned it.
        """
        if waiting.end.done():
            return
        group = self._groups.get(waiting.call.request.model)
        if group and waiting in group.calls:
            group.calls.remove(waiting)
            self._settle(waiting, Usage())
        else:
            self._settle(waiting, waiting.call.worst)

    async def resume(self) -> None:
        """Collect what earlier sessions of the run submitted. The batches of other runs are collected when needed."""
        for submission in self._book.submissions():
            first = submission.calls[0]
            spec = self._specs.get(first.request.model)
            if spec is None or spec.identity != first.identity:
                # The entry may have another name now. A batch of unknown id is sought by the name in its label.
                renamed = (name for name, spec in self._specs.items() if spec.identity == first.identity)
                if not submission.is_known or (name := next(renamed, None)) is None:
                    continue
                submission = submission.of_model(name)
            if first.run == self._run:
                await self._adopt(submission)
            elif submission.is_known and not self._journal.is_fresh:
                self._of_others.update((call.key, submission) for call in submission.calls)

    @property
    def has_earlier(self) -> bool:
        """Whether there are calls of earlier sessions, or of other processes, to be collected."""
        return bool(self._of_others or self._earlier)

    async def collected(self, key: str) -> bool:
        """Wait for the calls of earlier sessions that have a cache key.

        Args:
            key: The cache key.

        Returns:
            Whether there were any; their responses are then in the journal, unless they failed.

        Raises:
            ModelError: Their batch cannot be collected now.
        """
        if submission := self._of_others.get(key):
            await self._adopt(submission)
        if not (earlier := self._earlier.get(key)):
            return False
        for waiting in earlier:
            end = await asyncio.shield(waiting.end)
            if waiting.is_open and waiting.reservation and isinstance(end, Exception):
                raise end  # sent again, it would be paid for twice
        self._earlier.pop(key, None)
        return True

    async def aclose(self) -> None:
        """Stop waiting. What was submitted stays in the journal, for the next session."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._opened:
            await self._opened.aclose()

    @property
    def _transport(self) -> BatchTransport:
        if self._opened is None:
            self._opened = self._open_transport(self._specs, self._report)
        return self._opened

    async def _submit_when_quiet(self, model: str, group: _Group) -> None:
        number, waited = 0, 0.0
        while waited < LONGEST_GROUPING and (len(group.calls) > number or self.being_answered):
            number = len(group.calls)
            await self._sleep(self._quiet)
            waited += self._quiet
        if self._groups.get(model) is group:
            del self._groups[model]
            await self._submit(uuid.uuid4().hex, group.calls)

    async def _adopt(self, submission: Submission) -> None:
        """Collect the batch of another session."""
        adopted = []
        for call in submission.calls:
            self._of_others.pop(call.key, None)
            is_own = call.run == self._run
            reservation = self._budget.reopen(call.worst, call.request.purpose) if is_own else None
            adopted.append(Waiting(call, reservation))
            self._earlier.setdefault(call.key, []).append(adopted[-1])
        # This session counts them before the sum of the earlier ones, from which they are moved, leaves them out.
        await self._budget.publish()
        await self._book.adopt(submission)
        await self._budget.publish(recount=True)
        if not submission.is_known:
            self._start(self._submit(submission.id, adopted, is_resumed=True), adopted)
        for batch in submission.batches:
            self._start(self._collect(batch, adopted), adopted)

    async def _submit(self, submission: str, group: Sequence[Waiting], *, is_resumed: bool = False) -> None:
        calls = [waiting.call for waiting in group]
        if not calls:
            return
        if not is_resumed:
            await self._book.enter(submission, calls)
        requests = {call.entry: call.request for call in calls}
        submitted = self._transport.submit(requests, label=submission, is_resumed=is_resumed)
        refused: list[tuple[Waiting, Response | ModelError]] = []
        try:
            async with aclosing(submitted) as results:
                async for result in results:
                    if isinstance(result, Batch):
                        await self._book.accept(submission, result, calls)
                        self._start(self._collect(result, group), group)
                    else:
                        refused.append((_of(result.id, group), result.result))
        finally:
            await self._finish(refused)

    async def _collect(self, batch: Batch, group: Sequence[Waiting]) -> None:
        """Wait for a batch, also while its provider cannot be reached, and record the outcomes."""
        self._emit(batch, 0)
        by_entry = {waiting.call.entry: waiting for waiting in group}
        left = {entry: by_entry[entry] for entry in batch.ids}
        while left:
            try:
                await self._read(batch, left)
            except TransientModelError as error:
                detail = f"its batches cannot be reached ({error.kind}); tried again every {UNREACHABLE_WAIT:g} s"
                self._observer(ModelNotice(batch.model, "waiting", detail, UNREACHABLE_WAIT))
                await self._sleep(UNREACHABLE_WAIT)

    async def _read(self, batch: Batch, left: dict[str, Waiting]) -> None:
        """Read the results of a batch when it ends; the calls that have one are removed from `left`."""
        requests = {entry: waiting.call.request for entry, waiting in left.items()}
        is_read = False
        try:
            async with aclosing(self._transport.collect(batch, requests)) as outcomes:
                async for outcome in outcomes:
                    self.being_answered += not is_read
                    is_read = True
                    await self._finish([(left.pop(outcome.id), outcome.result)])
        finally:
            self.being_answered -= is_read

    async def _finish(self, outcomes: Sequence[tuple[Waiting, Response | ModelError]]) -> None:
        """Record and settle outcomes, then pass them to the callers: one that fails may end the run and the others."""
        passed = [(waiting, await self._recorded(waiting, result)) for waiting, result in outcomes]
        for waiting, outcome in passed:
            if not waiting.end.done():
                waiting.end.set_result(outcome)

    async def _recorded(self, waiting: Waiting, result: Response | ModelError) -> Usage | ModelError:
        """Record and settle an outcome; returns what the caller gets."""
        call = waiting.call
        spec = discounted(self._specs[call.request.model], call.share)
        if isinstance(result, Response):
            usage = charge(result, call.worst, spec, is_capped=self._budget.is_capped)
            sent = Sent(call.request, result, usage, call.run)
            await self._journal.record(call.entry, call.key, call.identity, sent, also=[done(call.entry)])
        else:
            usage = charge_failure(result, call.worst, spec)
            await self._journal.record_failure(call.entry, usage, result.kind, also=[done(call.entry)])
        self._settle(waiting, usage)
        return usage if isinstance(result, Response) else result

    def _settle(self, waiting: Waiting, usage: Usage) -> None:
        if waiting.reservation and not waiting.reservation.settled:
            self._budget.settle(waiting.reservation, usage)

    def _start(self, work: Coroutine[Any, Any, None], group: Sequence[Waiting]) -> None:
        """Run `work` in a task; if it fails, so do the calls of the group that have no outcome."""

        async def guarded() -> None:
            try:
                await work
            except Exception as error:  # noqa: BLE001 - whatever it is, the callers must not wait for ever
                for waiting in group:
                    if not waiting.end.done():
                        self._settle(waiting, waiting.call.worst)
                        waiting.is_open = True
                        waiting.end.set_result(error)

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _report(self, batch: Batch, status: BatchStatus) -> None:
        if status.state != "waiting" or status.done != self._done.get(batch.id):
            self._emit(batch, status.done, has_ended=status.state != "waiting")

    def _emit(self, batch: Batch, done: int, *, has_ended: bool = False) -> None:
        self._done[batch.id] = done
        self._observer(BatchWaiting(batch.model, batch.id, len(batch.ids), done, has_ended))


def _of(entry: str, group: Sequence[Waiting]) -> Waiting:
    return next(waiting for waiting in group if waiting.call.entry == entry)
