"""Sends many requests as batches of their providers, which answer within a day at a lower price.

`submit` returns batches that the caller stores before it waits; `collect` returns their results, also in another
process. Requests and responses are those of direct calls (`batch_wire`). Budget and journal belong to the caller.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

import httpx

from agentopt.core.errors import MalformedResponseError, ModelError, PermanentModelError, TransientModelError
from agentopt.models.base import Request, Response
from agentopt.models.batch_anthropic import AnthropicBatches
from agentopt.models.batch_calls import Batch
from agentopt.models.batch_file import BatchFile, custom_id
from agentopt.models.batch_openai import OpenAIBatches
from agentopt.models.batch_provider import BatchProvider, BatchStatus, Raw
from agentopt.models.batch_wire import WiredModel
from agentopt.models.catalog import ModelSpec
from agentopt.models.response_body import error_text
from agentopt.models.retries import LONGEST_BACKOFF

FIRST_POLL, POLL_GROWTH, LONGEST_POLL = 2.0, 1.5, 60.0
"""Seconds between two polls: the first, the factor, and the most."""
LONGEST_WAIT = 48 * 3600.0
"""Seconds after which a batch is not waited for any more. Providers end a batch after 24 hours."""
FAILED_CALL = (httpx.HTTPError, httpx.InvalidURL, MalformedResponseError)

ENDS: Mapping[str, tuple[str, bool]] = {
    "expired": ("it was not executed within the batch's time", False),
    "cancelled": ("its batch was cancelled before it was executed", False),
    "lost": ("the provider does not have its batch any more", True),
    "overdue": (f"its batch did not end within {LONGEST_WAIT / 3600:g} hours", True),
    "ended": ("its batch ended without a result for it", True),
}
"""Why a request of a batch has no response, and whether it may have been billed."""

NO_INTERFACE = ("HTTP 404", "HTTP 405", "HTTP 410", "HTTP 501")
"""Failures of a submission to an endpoint that has no files or no batches."""

_T = TypeVar("_T")


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
        self._connecting = asyncio.Lock()

    async def submit(
        self, requests: Mapping[str, Request], *, label: str, is_resumed: bool = False
    ) -> AsyncGenerator[Batch | Outcome, None]:
        """Submit requests: one batch for each model, or several if the provider's limits require it.

        Args:
            requests: The caller's id -> fitted request.
            label: Identifies this submission; another one has another label.
            is_resumed: Whether a killed process may have submitted them, with the same label and requests. Its batches
                are then looked for and not created again. Anthropic's can only be identified when they have ended, so
                this waits for batches with the same number of requests.

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

    async def collect(self, batch: Batch, requests: Mapping[str, Request]) -> AsyncGenerator[Outcome, None]:
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
        left = {custom_id(batch.label, id_): id_ for id_ in batch.ids if id_ in requests}
        answered: set[str] = set()
        if end in ("ended", "expired", "cancelled"):
            async with aclosing(self._results(batch, lane, status)) as results:
                async for raw in results:
                    answered |= {raw.custom_id} if raw.end == "answered" else set()
                    if (id_ := left.pop(raw.custom_id, None)) is not None:
                        yield Outcome(id_, await _result(lane, requests[id_], raw))
        # Those without a line were not executed only if every finished request has one.
        end = "ended" if end in ("expired", "cancelled") and len(answered) < status.done else end
        for id_ in left.values():
            yield Outcome(id_, _refusal(lane, status) if end == "refused" else _without(lane, end))

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
        async with self._connecting:
            if name not in self._lanes:
                spec = self._specs[name]
                model = self._connect(spec)
                kind = AnthropicBatches if spec.litellm else OpenAIBatches
                self._lanes[name] = _Lane(model, kind(await model.probe(), spec.timeout_seconds))
            return self._lanes[name]

    async def _submit_group(
        self, name: str, requests: Mapping[str, Request], label: str, is_resumed: bool
    ) -> AsyncGenerator[Batch | Outcome, None]:
        lane = await self._lane(name)
        file = BatchFile(lane.provider, f"{label}-{name}-0")
        try:
            for id_, request in requests.items():
                try:
                    direct = await lane.model.request_of(request)
                except ModelError as error:
                    yield Outcome(id_, error)
                    continue
                entry = lane.provider.entry(custom_id(file.label, id_), direct)
                if not file.has_room(entry):
                    for result in await self._send(name, lane, file, is_resumed):
                        yield result
                    file.close()
                    file = BatchFile(lane.provider, file.next_label)
                    entry = lane.provider.entry(custom_id(file.label, id_), direct)
                file.add(id_, entry)
            for result in await self._send(name, lane, file, is_resumed):
                yield result
        finally:
            file.close()

    async def _send(self, name: str, lane: _Lane, file: BatchFile, is_resumed: bool) -> Sequence[Batch | Outcome]:
        """Submit one file, unless it is empty or its batch exists."""
        if not file.ids:
            return ()
        try:
            found = await self._find(lane, file) if is_resumed else None
            batch_id = found or await self._create(lane, file)
        except ModelError as error:
            error.sent = error.billed  # a batch that was not created executes nothing
            failure = _no_interface(lane, error) if error.kind in NO_INTERFACE else error
            return [Outcome(id_, failure) for id_ in file.ids]
        return [Batch(batch_id, name, file.label, tuple(file.ids))]

    async def _create(self, lane: _Lane, file: BatchFile) -> str:
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
                if found := await self._find_created(lane, file):
                    return found
                raise

        return await self._attempts(lane, create_or_find)

    async def _find_created(self, lane: _Lane, file: BatchFile) -> str | None:
        """Look for a batch whose creation has an unknown outcome."""
        try:
            await self._sleep(FIRST_POLL)  # until the provider lists it
            return await self._find(lane, file)
        except ModelError as error:
            error.billed = True
            raise

    async def _find(self, lane: _Lane, file: BatchFile) -> str | None:
        for pause in self._pauses():
            found = await self._attempts(lane, lambda: lane.provider.find(file.label, file.custom_ids))
            if not found.is_open:
                return found.id
            await self._sleep(pause)
        return None

    def _pauses(self) -> Iterator[float]:
        """The seconds between polls, until nothing is waited for any more."""
        until, pause = self._clock() + LONGEST_WAIT, FIRST_POLL
        while self._clock() < until:
            yield pause
            pause = min(pause * POLL_GROWTH, LONGEST_POLL)

    async def _ended(self, batch: Batch, lane: _Lane) -> tuple[BatchStatus, str]:
        """Poll until the batch ends; the status, and its state or `overdue`."""
        for pause in self._pauses():
            status = await self._unless_lost(lane, lambda: lane.provider.status(batch.id))
            self._on_status(batch, status)
            if status.state != "waiting":
                return status, status.state
            await self._sleep(pause)
        return status, "overdue"

    async def _unless_lost(self, lane: _Lane, call: Callable[[], Awaitable[BatchStatus]]) -> BatchStatus:
        try:
            return await self._attempts(lane, call)
        except PermanentModelError as error:
            if error.kind not in ("HTTP 404", "HTTP 410"):
                raise
            return BatchStatus("lost")

    async def _results(self, batch: Batch, lane: _Lane, status: BatchStatus) -> AsyncGenerator[Raw, None]:
        """Stream the results, from the start again after a failure; none if the provider does not have them.

        A file that was still being written, or that a proxy has cut, ends like a whole one. It is therefore read again
        if it has fewer results than the batch has finished requests.
        """
        spec, read = lane.model.spec, set[str]()
        for attempt in range(1, spec.max_attempts + 1):
            try:
                async with aclosing(lane.provider.results(batch.id, status)) as results:
                    async for raw in results:
                        read.add(raw.custom_id)
                        yield raw
                if len(read) >= status.done or attempt == spec.max_attempts:
                    return
                await self._sleep(_backoff(spec, attempt))
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
        spec, wait = lane.model.spec, 0.0
        if isinstance(failure, TransientModelError):
            wait = failure.retry_after or 0.0
        is_repeated = isinstance(failure, TransientModelError) and attempt < spec.max_attempts
        if not is_repeated or wait > spec.max_wait_seconds:
            # Not `from`: a traceback would show the provider's own words, which may repeat the key.
            raise failure from None
        await self._sleep(max(_backoff(spec, attempt), wait))


def _backoff(spec: ModelSpec, attempt: int) -> float:
    """The seconds between an attempt and the next one."""
    return min(spec.backoff_seconds * 2.0 ** (attempt - 1), LONGEST_BACKOFF)


def _is_open(failure: ModelError) -> bool:
    """Whether it is unknown if the call had an effect. With the statuses 503 and 529, a provider refuses it."""
    return failure.billed or failure.kind in ("HTTP 500", "HTTP 502", "HTTP 504")


def _no_interface(lane: _Lane, refusal: ModelError) -> PermanentModelError:
    """The failure of a request to an endpoint that refuses batches as such, whatever is wrong with direct calls."""
    text = (
        f"{lane.model.spec.name}: a batch could not be submitted ({refusal.kind}: {refusal.provider_message}); if the "
        "endpoint has no batch interface, remove `batch` from the catalogue entry, or set batch=false in the run"
    )
    kind, words = refusal.kind, refusal.provider_message
    return PermanentModelError(text, kind=kind, scope="model", provider_message=words, sent=refusal.sent)


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
