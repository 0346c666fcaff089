"""The run's model client: response cache, budget, rate limits and retries around each attempt.

Steps of one call: fit the request to its endpoint; look it up in the journal; for what is missing, prepare the model,
wait for a slot, reserve the worst case, enter it in the ledger, send, and commit the response before returning it.
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from weakref import WeakValueDictionary

from agentopt.core.budget import Budget, Reservation, Usage
from agentopt.core.errors import (
    AgentoptError,
    BudgetExceeded,
    PermanentModelError,
    RunStoppingError,
    TransientModelError,
    UnsupportedParameterError,
)
from agentopt.core.events import ModelNotice, NoticeTopic, Observer, Stopping
from agentopt.models import request_fitting
from agentopt.models.base import ChatModel, Preparable, Request, Response
from agentopt.models.batch_calls import BatchedCall
from agentopt.models.batch_lane import BatchLane
from agentopt.models.call_spans import call_span, paid
from agentopt.models.catalog import ModelSpec
from agentopt.models.charging import Overruns, charge, charge_failure, discounted, worst_case
from agentopt.models.client_call import Awaited, Call
from agentopt.models.closing import Closing
from agentopt.models.endpoint_findings import EndpointFindings
from agentopt.models.journal import Journal
from agentopt.models.journal_records import CacheUse, Sent
from agentopt.models.journal_rows import Stored, response_of
from agentopt.models.rate_limit import Slot
from agentopt.models.retries import THROTTLED, kind_of, wait_after
from agentopt.models.retry_after import too_long
from agentopt.models.shared_rate import Limiters, SharedRates

NOTICED_WAIT = 5.0
"""Waits that a provider requests are reported from this many seconds on."""
FATAL_SECONDS = 60.0
"""After a failure that every call to the model would meet, none is sent for this long."""
BATCHED = ("samples", "fusion")
"""Purposes of the calls that may wait for a batch. Agents, judges and writers of prompts are waited for."""


class ModelClient:
    """A `ChatModel` over `provider` for one run: nothing is paid for twice, and no cap is exceeded.

    A caller that is cancelled does not cancel a call that was sent: its response is still stored. Nothing more is sent
    for it: no further samples, and no further attempts.

    Args:
        provider: Makes single attempts.
        specs: Catalogue name -> entry, for every model in use.
        journal: Stores the responses and the ledger.
        budget: Caps and spending.
        run: Identifier of the run in the ledger.
        observer: Receives a `ModelNotice` for each finding about a model.
        sleep: Waits for a number of seconds.
        clock: Monotonic time in seconds.
        lane: Sends the calls that may wait in batches; without it, all are made directly.
        refused: Model -> the parameters that an earlier run found its endpoint to refuse.
        rates: The calls per minute of all processes; those of this one are limited alone unless given.

    Attributes:
        unpriced: The models without a price that were called.
    """

    def __init__(
        self,
        provider: ChatModel,
        specs: Mapping[str, ModelSpec],
        journal: Journal,
        budget: Budget,
        run: str,
        *,
        observer: Observer = lambda _: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        lane: BatchLane | None = None,
        refused: Mapping[str, frozenset[str]] | None = None,
        rates: SharedRates | None = None,
    ) -> None:
        self.budget, self._lane = budget, lane
        self._provider, self._specs, self._journal, self._run = provider, specs, journal, run
        self._observer, self._sleep, self._clock = observer, sleep, clock
        self._limiter = Limiters(rates, self._pause)
        self._findings = EndpointFindings(
            journal, run, refused or {}, lambda spec, finding: self._notify(spec, "parameter", finding)
        )
        self._fatal: dict[str, tuple[float, PermanentModelError]] = {}
        self._overruns = Overruns()
        self._reused, self._reused_times = set[int](), (math.inf, -math.inf)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Response]] = set()
        self._closing, self._in_flight = Closing(), 0
        self._preparable = provider if isinstance(provider, Preparable) else None
        self._prepared: set[str] = set()
        self.unpriced: set[str] = set()

    @property
    def cache_use(self) -> CacheUse:
        """The responses of earlier sessions that this one used, each counted once."""
        if not self._reused:
            return CacheUse()
        return CacheUse(len(self._reused), *self._reused_times)

    def spec(self, model: str) -> ModelSpec:
        """Return the catalogue entry of a model."""
        return self._specs[model]

    def refused(self, model: str) -> frozenset[str]:
        """Return what the endpoint was found to refuse, as `refusal` and `choice_limit` of `request_fitting` name it.

        Those of earlier sessions of the run, and those that other runs found lately, are included.
        """
        return self._findings.refused(self._specs[model])

    async def generate(self, request: Request, *, is_batched: bool = False) -> Response:
        """Return all `request.n` choices, from the journal as far as they are stored.

        Args:
            request: The request.
            is_batched: Whether it may wait for a batch, if its model has a batch interface. A call whose batch fails
                is repeated directly.

        Raises:
            ModelError: The attempts are spent, or the request would fail again.
            BudgetExceeded: A cap would be exceeded.
        """
        with call_span(request, self._specs[request.model], self._run) as span:
            call = self._fitted(request, is_batched)
            lock, found = await self._looked_up(call)
            span.is_cached = len(found) == request.n
            if span.is_cached:
                lock.release()
                span.response = self._response(call, found)
            else:
                awaited: Awaited = asyncio.get_running_loop().create_future()
                task = asyncio.create_task(self._complete(request, replace(call, awaited=awaited), found, lock))
                self._tasks.add(task)
                task.add_done_callback(self._forget)
                try:
                    span.response = await asyncio.shield(task)
                finally:
                    awaited.cancel()
            return span.response

    async def reject(self, request: Request) -> None:
        """Mark the responses to `request` as unusable: the next session requests them again, once."""
        await self._journal.reject(self._fitted(request).key, request.first_repeat, request.n)

    async def aclose(self) -> None:
        """Send nothing more, and wait for the calls that were sent; the next session collects what is in batches."""
        self._closing.begin()
        current = asyncio.current_task()
        if self._in_flight and current and current.cancelling():
            self._observer(Stopping(self._in_flight))
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._lane:
            await self._lane.aclose()

    def _forget(self, task: asyncio.Task[Response]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as retrieved: the caller may have been cancelled

    def _fitted(self, request: Request, is_batched: bool = False, awaited: Awaited | None = None) -> Call:
        spec = self._specs[request.model]
        is_batched = is_batched and spec.batch is not None and request.purpose in BATCHED
        fitted = request_fitting.fit(request, spec, self.refused(spec.name))
        return Call(fitted, spec, fitted.key(spec.identity, request_fitting.shape(fitted, spec)), is_batched, awaited)

    async def _looked_up(self, call: Call) -> tuple[asyncio.Lock, dict[int, Stored]]:
        """Wait for a call with the same key in flight, and look the call up. Returns the key's lock, acquired."""
        lock = self._locks.setdefault(call.key, asyncio.Lock())
        await lock.acquire()
        try:
            return lock, await self._look_up(call)
        except BaseException:
            lock.release()
            raise

    async def _look_up(self, call: Call) -> dict[int, Stored]:
        return await self._journal.look_up(call.key, call.request.first_repeat, call.request.n)

    def _response(self, call: Call, found: Mapping[int, Stored]) -> Response:
        for repeat, stored in found.items():
            if stored.created < self._journal.opened:
                self._reused.add(hash((call.key, repeat)))  # a million keys themselves would take 300 MB
                oldest, newest = self._reused_times
                self._reused_times = min(oldest, stored.created), max(newest, stored.created)
        requests = -(-len(found) // self._most_choices(call))
        return replace(response_of(found, self._journal.opened), requests=requests)

    def _most_choices(self, call: Call) -> int:
        return request_fitting.most_choices(call.request, call.spec, self.refused(call.spec.name))

    async def _complete(self, request: Request, call: Call, found: dict[int, Stored], lock: asyncio.Lock) -> Response:
        """Send what is missing, again without each parameter that is found to be refused. Releases the key's lock."""
        while True:
            try:
                self._findings.report_earlier(call.spec)
                return await self._complete_fitted(call, found)
            except UnsupportedParameterError as error:
                if error.parameter in call.request.left_out or error.parameter == "tools":
                    raise
                name = request_fitting.refusal(error.parameter, call.request.reasoning_effort)
                await self._findings.add(call.spec, name)
            finally:
                lock.release()
            call = self._fitted(request, call.is_batched, call.awaited)
            lock, found = await self._looked_up(call)

    async def _complete_fitted(self, call: Call, found: dict[int, Stored]) -> Response:
        while len(found) < call.request.n:
            is_collected = False
            if self._lane and self._lane.has_earlier:
                async with self.budget.in_time():
                    is_collected = await self._closing.unless(self._lane.collected(call.key))
            sent = None if is_collected else await self._send_missing(call, found)
            found = await self._look_up(call) if sent is None else found | sent
        return self._response(call, found)

    async def _send_missing(self, call: Call, found: Mapping[int, Stored]) -> dict[int, Stored] | None:
        """Send what is missing. Returns the responses; None if only a look-up knows them."""
        missing = call.missing(found)
        chunks = request_fitting.consecutive(missing, self._most_choices(call))
        if chunks == [(call.request.first_repeat, call.request.n)]:
            results: list[dict[int, Stored] | BaseException | None] = [await self._attempts(call)]
        else:
            # All of them are awaited even if one fails: a call in flight is being paid for.
            parts = [replace(call, request=call.request.for_repeats(*chunk)) for chunk in chunks]
            results = await asyncio.gather(*map(self._attempts, parts), return_exceptions=True)
        if failures := [result for result in results if isinstance(result, BaseException)]:
            # A cap ends the run, whatever else failed at the same time.
            raise next((f for f in failures if isinstance(f, BudgetExceeded)), failures[0])
        sent = [result for result in results if isinstance(result, dict)]
        if len(sent) == len(chunks):
            return {repeat: stored for part in sent for repeat, stored in part.items()}
        async with self.budget.in_time():  # another process requests it, or did
            await self._closing.unless(self._journal.flights.wait([(call.key, r) for r in missing]))
        return None

    async def _attempts(self, call: Call) -> dict[int, Stored] | None:
        if not call.spec.is_priced:
            self.unpriced.add(call.spec.name)
        number = 0
        while True:
            number += 1
            try:
                if self._lane and call.is_batched and number == 1:
                    return await self._attempt_in_batch(self._lane, call)
                return await self._attempt(call)
            except TransientModelError as error:
                if number >= call.spec.max_attempts:
                    raise
                wait = wait_after(number, error, call.spec)
            await self._pause(wait)

    async def _attempt_in_batch(self, lane: BatchLane, call: Call) -> dict[int, Stored] | None:
        request, spec = call.request, call.spec
        share = spec.batch.price if spec.batch else 1.0
        worst = self._overruns.raised(spec.name, worst_case(request, discounted(spec, share)))
        self._check_sendable(call)
        reservation = await self.budget.reserve(worst, request.purpose)
        batched = BatchedCall(uuid.uuid4().hex, request, call.key, spec.identity, share, worst, self._run)
        waiting = lane.add(batched, reservation)
        try:
            async with self.budget.in_time():
                end = await self._closing.unless(asyncio.shield(waiting.end))
        finally:
            lane.give_up(waiting)
        if isinstance(end, Usage):
            paid(end)
            self._note_overrun(spec, end, worst_case(request, spec))
            return None
        is_parameter = isinstance(end, UnsupportedParameterError)
        if isinstance(end, PermanentModelError) and end.scope == "model" and not is_parameter:
            self._stop(spec, end)
        raise end

    async def _attempt(self, call: Call) -> dict[int, Stored] | None:
        request, spec = call.request, call.spec
        worst = self._overruns.raised(spec.name, worst_case(request, spec))
        if self._preparable and request.model not in self._prepared:
            # A cap without room for the call ends the run before a library or a file is loaded for it.
            self.budget.settle(await self.budget.reserve(worst, request.purpose), Usage())
            # Nothing is paid for yet, so the end of the run does not wait for it.
            async with self.budget.in_time():
                await self._closing.unless(self._preparable.prepare(request.model))
            self._prepared.add(request.model)
        async with self._limiter(spec).slot(worst.prompt_tokens / 4 + worst.completion_tokens) as slot:
            self._check_sendable(call)
            reservation = await self.budget.reserve(worst, request.purpose)
            actual = worst
            try:
                self._check_sendable(call)
                with self._direct():
                    actual, found = await self._send(call, reservation, slot)
                return found
            except AgentoptError as error:
                actual = charge_failure(error, worst, spec)
                raise
            finally:
                slot.tokens = actual.tokens
                self.budget.settle(reservation, actual)
                paid(actual)

    def _check_sendable(self, call: Call) -> None:
        spec = call.spec
        if self._closing.is_closing or (call.awaited and call.awaited.done()):
            raise RunStoppingError
        since, error = self._fatal.get(spec.name, (0.0, None))
        if error and self._clock() - since < FATAL_SECONDS:
            raise PermanentModelError(
                str(error), kind=error.kind, scope=error.scope, provider_message=error.provider_message, sent=False
            )

    async def _send(self, call: Call, reservation: Reservation, slot: Slot) -> tuple[Usage, dict[int, Stored] | None]:
        request, spec, worst = call.request, call.spec, reservation.worst
        entry = await self._journal.open(self._run, request, worst, call.key)
        if entry is None:
            return Usage(), None
        try:
            self.budget.check_held(reservation)
            async with self.budget.in_time():
                response = await self._provider.generate(request)
        except AgentoptError as error:
            await self._journal.record_failure(entry, charge_failure(error, worst, spec), kind_of(error))
            self._learn(error, spec, slot)
            raise
        except BaseException:
            await self._journal.abandon(entry)
            raise
        self._limiter(spec).succeeded()
        usage = charge(response, worst, spec, is_capped=self.budget.is_capped)
        found = await self._journal.record(entry, call.key, spec.identity, Sent(request, response, usage, self._run))
        await self._findings.answered(spec, request, len(response.choices))
        self._note_overrun(spec, usage, worst_case(request, spec))
        return usage, found

    def _note_overrun(self, spec: ModelSpec, usage: Usage, worst: Usage) -> None:
        if over := self._overruns.observe(spec.name, usage, worst):
            self._notify(spec, "usage", f"reported {over}; later calls reserve more")

    def _learn(self, error: AgentoptError, spec: ModelSpec, slot: Slot) -> None:
        """Adapt to a failure: slow down, pause, or send nothing more. Raises if the requested wait is too long."""
        if isinstance(error, TransientModelError):
            if error.kind in THROTTLED:
                self._limiter(spec).throttled(slot)
            self._wait_as_requested(error, spec)
        elif isinstance(error, UnsupportedParameterError):
            return  # the call is repeated without it
        elif isinstance(error, PermanentModelError) and error.scope == "model":
            self._stop(spec, error)

    def _wait_as_requested(self, error: TransientModelError, spec: ModelSpec) -> None:
        if failure := too_long(error, spec):
            self._stop(spec, failure)
            raise failure from None
        wait = error.retry_after or 0.0
        if wait >= NOTICED_WAIT and not self._limiter(spec).is_paused:  # once for a burst of calls
            self._notify(spec, "waiting", f"the provider requests to wait {wait:g} s ({error.kind})", wait)
        self._limiter(spec).pause(wait)

    def _stop(self, spec: ModelSpec, error: PermanentModelError) -> None:
        since, _ = self._fatal.get(spec.name, (-FATAL_SECONDS, None))
        if self._clock() - since >= FATAL_SECONDS:
            self._notify(spec, "stopped", f"no further call is sent ({error.kind})")
        self._fatal[spec.name] = (self._clock(), error)

    def _notify(self, spec: ModelSpec, topic: NoticeTopic, detail: str, seconds: float | None = None) -> None:
        self._observer(ModelNotice(spec.name, topic, detail, seconds))

    async def _pause(self, seconds: float) -> None:
        """Sleep between attempts, or for a turn; not if the run stops meanwhile, or its time does not suffice."""
        self.budget.check_seconds(seconds)
        await self._closing.unless(self._sleep(seconds))

    @contextmanager
    def _direct(self) -> Iterator[None]:
        """Count a call that is answered directly: its caller may make a call that is batched."""
        self._in_flight += 1
        if self._lane:
            self._lane.being_answered += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            if self._lane:
                self._lane.being_answered -= 1
