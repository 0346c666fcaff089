"""Sends many requests as batches of their providers, which answer within a day at a lower price.

`submit` returns batches that the caller stores before it waits; `collect` returns their results, also in another
process. Requests and responses are those of direct calls (`batch_wire`). Budget and journal belong to the caller.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import IO, TypeVar

import httpx

from agentopt.core.errors import MalformedResponseError, ModelError, PermanentModelError, TransientModelError
from agentopt.models.base import Request, Response
from agentopt.models.batch_anthropic import AnthropicBatches
from agentopt.models.batch_openai import OpenAIBatches
from agentopt.models.batch_provider import BatchProvider, BatchStatus, Entry, Raw
from agentopt.models.batch_wire import WiredModel
from agentopt.models.catalog import ModelSpec
from agentopt.models.response_body import error_text

PRICE_FACTOR = 0.5
"""Price of a batched call, as a part of the direct call's; that of OpenAI and Anthropic."""
FIRST_POLL, POLL_GROWTH, LONGEST_POLL = 2.0, 1.5, 60.0
"""Seconds between two polls: the first, the factor, and the most."""
LONGEST_WAIT = 48 * 3600.0
"""Seconds after which a batch is not waited for any more. Providers end a batch after 24 hours."""
LONGEST_BACKOFF = 30.0
"""Most seconds between two attempts, unless the provider requests more."""
IN_MEMORY = 8 << 20
"""Bytes of a batch's file up to which it is not written to disk."""
FAILED_CALL = (httpx.HTTPError, httpx.InvalidURL, MalformedResponseError)

ENDS: Mapping[str, tuple[str, bool]] = {
    "expired": ("it was not executed within the batch's time", False),
    "cancelled": ("its batch was cancelled before it was executed", False),
    "lost": ("the provider does not have its batch any more", True),
    "overdue": (f"its batch did not end within {LONGEST_WAIT / 3600:g} hours", True),
    "missing": ("its batch ended without a result for it", True),
}
"""Why a request of a batch has no response, and whether it may have been billed."""

_T = TypeVar("_T")


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
class Outcome:
    """What became of one request.

    Attributes:
        id: The caller's id of the request.
        result: The response, or why there is none.
    """

    id: str
    result: Response | ModelError


@dataclass(frozen=True, slots=True)
class _Lane:
    """One model's batches."""

    model: WiredModel
    provider: BatchProvider


Connect = Callable[[ModelSpec], WiredModel]


class BatchTransport:
    """Sends requests as batches, and collects their results.

    Args:
        specs: Catalogue name -> entry, for every model that is called.
        connect: Makes the requests and reads the responses of an entry.
        on_status: Called with each status of a batch that `collect` waits for.
        sleep: Waits for a number of seconds.
        clock: Monotonic time in seconds.
    """

    def __init__(
        self,
        specs: Mapping[str, ModelSpec],
        *,
        connect: Connect = WiredModel,
        on_status: Callable[[Batch, BatchStatus], None] = lambda *_: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._specs, self._connect, self._on_status = specs, connect, on_status
        self._sleep, self._clock = sleep, clock
        self._lanes: dict[str, _Lane] = {}

    async def submit(
        self, requests: Mapping[str, Request], *, label: str, is_resumed: bool = False
    ) -> AsyncIterator[Batch | Outcome]:
        """Submit requests: one batch for each model, or several if the provider's limits require it.

        Args:
            requests: The caller's id -> fitted request.
            label: Identifies this submission; another one has another label.
            is_resumed: Whether a killed process may have submitted them, with the same label and requests. Its batches
                are then looked up, which Anthropic's interface does not permit: what it received is sent again.

        Yields:
            Each batch as soon as the provider has it, and the failure of each request that is in none.

        Raises:
            CatalogError: A model has no batch interface.
        """
        by_model: dict[str, dict[str, Request]] = {}
        for id_, request in requests.items():
            by_model.setdefault(request.model, {})[id_] = request
        for name in by_model:
            await self._lane(name)  # an error of the catalogue precedes the first batch
        for name, group in by_model.items():
            async with aclosing(self._submit_group(name, group, label, is_resumed)) as results:
                async for result in results:
                    yield result

    async def collect(self, batch: Batch, requests: Mapping[str, Request]) -> AsyncIterator[Outcome]:
        """Wait until a batch ends, then read its results.

        Args:
            batch: The batch, of this process or of another one.
            requests: The caller's id -> request, as submitted; ids without a request are left out.

        Yields:
            The outcome of each request, once.

        Raises:
            ModelError: The provider cannot be reached, or refuses the key. The batch can be collected later.
        """
        lane = await self._lane(batch.model)
        status, end = await self._ended(batch, lane)
        left = {_custom_id(batch.label, id_): id_ for id_ in batch.ids if id_ in requests}
        if end in ("ended", "expired", "cancelled"):
            async with aclosing(self._results(batch, lane, status)) as results:
                async for raw in results:
                    if (id_ := left.pop(raw.custom_id, None)) is not None:
                        yield Outcome(id_, await _result(lane, requests[id_], raw))
        for id_ in left.values():
            refused = end == "refused"
            yield Outcome(
                id_, _refusal(lane, status) if refused else _without(lane, "missing" if end == "ended" else end)
            )

    async def cancel(self, batch: Batch) -> None:
        """Request that no further request of the batch is executed. `collect` returns what was.

        Raises:
            ModelError: The provider cannot be reached, or does not have the batch.
        """
        lane = await self._lane(batch.model)
        await self._attempts(lane, lambda: lane.provider.cancel(batch.id))

    async def aclose(self) -> None:
        """Close the connections. Safe to call twice."""
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            await lane.provider.aclose()
            await lane.model.aclose()

    async def _lane(self, name: str) -> _Lane:
        if name not in self._lanes:
            spec = self._specs[name]
            model = self._connect(spec)
            kind = AnthropicBatches if spec.litellm else OpenAIBatches
            self._lanes[name] = _Lane(model, kind(await model.probe(), spec.timeout_seconds))
        return self._lanes[name]

    async def _submit_group(
        self, name: str, requests: Mapping[str, Request], label: str, is_resumed: bool
    ) -> AsyncIterator[Batch | Outcome]:
        lane = await self._lane(name)
        file = _BatchFile(lane.provider, f"{label}-{name}-0")
        for id_, request in requests.items():
            try:
                direct = await lane.model.request_of(request)
            except ModelError as error:
                yield Outcome(id_, error)
                continue
            entry = lane.provider.entry(_custom_id(file.label, id_), direct)
            if not file.has_room(entry):
                async for result in self._send(name, lane, file, is_resumed):
                    yield result
                file = _BatchFile(lane.provider, file.next_label)
                entry = lane.provider.entry(_custom_id(file.label, id_), direct)
            file.add(id_, entry)
        async for result in self._send(name, lane, file, is_resumed):
            yield result

    async def _send(self, name: str, lane: _Lane, file: _BatchFile, is_resumed: bool) -> AsyncIterator[Batch | Outcome]:
        """Submit one file, unless it is empty or its batch exists."""
        if not file.ids:
            return
        try:
            found = await self._attempts(lane, lambda: lane.provider.find(file.label)) if is_resumed else None
            batch_id = found or await self._create(lane, file)
        except ModelError as error:
            error.sent = error.billed  # a batch that was not created executes nothing
            for id_ in file.ids:
                yield Outcome(id_, error)
            return
        finally:
            file.close()
        yield Batch(batch_id, name, file.label, tuple(file.ids))

    async def _create(self, lane: _Lane, file: _BatchFile) -> str:
        content = file.ended()
        try:
            file_id = await self._attempts(lane, lambda: lane.provider.upload(content))
        except ModelError as error:
            error.billed = False  # a file alone costs nothing
            raise

        async def create_or_find() -> str:
            try:
                return await lane.provider.create(content, file_id, file.headers, file.label)
            except FAILED_CALL as error:
                failure = lane.model.failure(error)
                if failure is None or not _is_open(failure):
                    raise
                if found := await self._find_created(lane, file.label, failure):
                    return found
                raise

        return await self._attempts(lane, create_or_find)

    async def _find_created(self, lane: _Lane, label: str, failure: ModelError) -> str | None:
        """Look for a batch whose creation has an unknown outcome. Raise `failure` if it cannot be known."""
        if not lane.provider.has_labels:
            # Not repeated: the batch may exist, and would be paid for twice.
            raise PermanentModelError(str(failure), kind=failure.kind, billed=True) from None
        return await self._attempts(lane, lambda: lane.provider.find(label))

    async def _ended(self, batch: Batch, lane: _Lane) -> tuple[BatchStatus, str]:
        """Poll until the batch ends; the status, and its state or `overdue`."""
        until, pause = self._clock() + LONGEST_WAIT, FIRST_POLL
        while True:
            status = await self._unless_lost(lane, lambda: lane.provider.status(batch.id))
            self._on_status(batch, status)
            if status.state != "waiting":
                return status, status.state
            if self._clock() >= until:
                return status, "overdue"
            await self._sleep(pause)
            pause = min(pause * POLL_GROWTH, LONGEST_POLL)

    async def _unless_lost(self, lane: _Lane, call: Callable[[], Awaitable[BatchStatus]]) -> BatchStatus:
        try:
            return await self._attempts(lane, call)
        except PermanentModelError as error:
            if error.kind not in ("HTTP 404", "HTTP 410"):
                raise
            return BatchStatus("lost")

    async def _results(self, batch: Batch, lane: _Lane, status: BatchStatus) -> AsyncIterator[Raw]:
        """Stream the results, from the start again after a failure; none if the provider does not have them."""
        for attempt in range(1, lane.model.spec.max_attempts + 1):
            try:
                async with aclosing(lane.provider.results(batch.id, status)) as results:
                    async for raw in results:
                        yield raw
                return
            except FAILED_CALL as error:
                failure = lane.model.failure(error)
                if failure is None:
                    raise
                if failure.kind in ("HTTP 404", "HTTP 410"):
                    return
                await self._before_next(lane, failure, attempt)

    async def _attempts(self, lane: _Lane, call: Callable[[], Awaitable[_T]]) -> _T:
        outside, attempt = sys.exception(), 0
        while True:
            attempt += 1
            try:
                return await call()
            except FAILED_CALL as error:
                failure = lane.model.failure(error, outside)
                if failure is None:
                    raise
                await self._before_next(lane, failure, attempt)

    async def _before_next(self, lane: _Lane, failure: ModelError, attempt: int) -> None:
        """Wait for the next attempt; raise `failure` if there is none."""
        spec = lane.model.spec
        if not isinstance(failure, TransientModelError) or attempt >= spec.max_attempts:
            # Not `from`: a traceback would show the provider's own words, which may repeat the key.
            raise failure from None
        backoff = min(spec.backoff_seconds * 2 ** (attempt - 1), LONGEST_BACKOFF)
        await self._sleep(max(backoff, failure.retry_after or 0.0))


class _BatchFile:
    """The file of a batch while it is written.

    Attributes:
        label: The batch's label, which ends with the number of the batch.
        ids: The caller's ids of its requests.
        headers: Headers that its entries need; values of several entries are joined by commas.
    """

    def __init__(self, provider: BatchProvider, label: str) -> None:
        self.label, self.ids, self.headers = label, list[str](), dict[str, str]()
        self._provider = provider
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - closed by `close`
        self._size = 0

    @property
    def next_label(self) -> str:
        """The label of the model's next batch."""
        head, _, number = self.label.rpartition("-")
        return f"{head}-{int(number) + 1}"

    def has_room(self, entry: Entry) -> bool:
        """Whether the entry fits; the first one always does."""
        is_small = self._size + len(entry.content) + 64 <= self._provider.most_bytes
        return not self.ids or (is_small and len(self.ids) < self._provider.most_requests)

    def add(self, id_: str, entry: Entry) -> None:
        begin, between, _ = self._provider.parts
        content = (between if self.ids else begin) + entry.content
        self._file.write(content)
        self._size += len(content)
        self.ids.append(id_)
        for name, value in entry.headers.items():
            known = self.headers.get(name, "").split(",")
            new = [part for part in value.split(",") if part not in known]
            self.headers[name] = ",".join([*filter(None, known), *new])

    def ended(self) -> IO[bytes]:
        self._file.write(self._provider.parts[2])
        return self._file

    def close(self) -> None:
        self._file.close()


def discounted(spec: ModelSpec, factor: float = PRICE_FACTOR) -> ModelSpec:
    """Return the entry with the prices of batched calls, for `worst_case` and `charge`.

    Args:
        spec: The catalogue entry.
        factor: Price of a batched call, as a part of the direct call's.
    """
    names = [name for name in type(spec).model_fields if name.startswith("usd_per_")]
    prices = {name: getattr(spec, name) for name in names}
    return spec.model_copy(update={name: usd * factor for name, usd in prices.items() if usd is not None})


def _custom_id(label: str, id_: str) -> str:
    """The request's id at the provider, which accepts at most 64 letters and digits."""
    return hashlib.sha256(f"{label}\n{id_}".encode()).hexdigest()[:32]


def _is_open(failure: ModelError) -> bool:
    """Whether it is unknown if the call had an effect. With the statuses 503 and 529, a provider refuses it."""
    return failure.billed or failure.kind in ("HTTP 500", "HTTP 502", "HTTP 504")


async def _result(lane: _Lane, request: Request, raw: Raw) -> Response | ModelError:
    if raw.end != "answered":
        return _without(lane, raw.end)
    try:
        return await lane.model.response_of(request, raw.status, raw.body)
    except ModelError as error:
        return error


def _without(lane: _Lane, end: str) -> TransientModelError:
    """The failure of a request that has no result."""
    text, billed = ENDS[end]
    return TransientModelError(f"{lane.model.spec.name}: {text}", kind=f"batch {end}", billed=billed, sent=billed)


def _refusal(lane: _Lane, status: BatchStatus) -> ModelError:
    """The failure of a request whose batch was refused: nothing of it was executed."""
    words = error_text(status.error) if status.error else "no reason given"
    malformed = MalformedResponseError(f"the batch was refused: {words}")
    malformed.error = status.error
    failure = lane.model.failure(malformed)
    assert failure is not None, "a MalformedResponseError is a failed call"
    failure.billed = failure.sent = False
    return failure
