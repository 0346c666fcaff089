"""The model that everyone in a run talks to: journal first, then budget, limits and retries around one attempt.

Order of one call: look in the journal; for what is missing, have the model ready, wait for a place under its limits,
reserve the worst case, enter it in the ledger, send, and commit the answer before handing it on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from agentopt.core.budget import Budget, Usage
from agentopt.core.errors import (
    AgentoptError,
    BudgetExceeded,
    JournalError,
    ModelError,
    RunStoppingError,
    TransientModelError,
)
from agentopt.models.base import ChatModel, Choice, Preparable, Request, Response
from agentopt.models.catalog import ModelSpec
from agentopt.models.journal import Journal
from agentopt.models.rate_limit import RateLimiter

LONGEST_BACKOFF = 30.0
"""Seconds between two attempts, unless the provider asks for more."""


def worst_case(request: Request, spec: ModelSpec) -> Usage:
    """The most that one call may take.

    A token of a byte-level vocabulary covers at least one byte, so the prompt's bytes bound its tokens; chat
    templates add a few tokens per message and at most a short default system prompt.
    """
    schema = len((request.json_schema or "").encode(errors="replace"))
    prompt_bytes = sum(len(m.content.encode(errors="replace")) + 8 for m in request.messages) + schema
    prompt, completion = prompt_bytes + 48, request.n * request.max_tokens
    return Usage(1, prompt, completion, spec.price.usd(prompt, completion))


class ModelClient:
    """A `ChatModel` over `provider` for one run: nothing is asked twice, no cap is passed, nothing paid is lost.

    `provider` makes single attempts. `specs` maps every catalogue name in use to its `ModelSpec`. A caller that
    is cancelled does not cancel a call that was sent: its answer still reaches the journal.
    """

    def __init__(
        self,
        provider: ChatModel,
        specs: Mapping[str, ModelSpec],
        journal: Journal,
        budget: Budget,
        run: str,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.budget = budget
        self._provider, self._specs, self._journal, self._run = provider, specs, journal, run
        self._sleep = sleep
        self._limiters: dict[str, RateLimiter] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[Response]] = set()
        self._closing = asyncio.Event()

    def spec(self, model: str) -> ModelSpec:
        return self._specs[model]

    async def generate(self, request: Request) -> Response:
        """All `request.n` choices, from the journal where it has them.

        Raises `ModelError` when the attempts are spent, `BudgetExceeded` when a cap would be passed.
        """
        key = request.key(self._specs[request.model].identity)
        if known := self._known(key, request):
            return known
        task = asyncio.create_task(self._ask(key, request))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Start nothing more, and wait for what was sent."""
        self._closing.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _forget(self, task: asyncio.Task[Response]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have been cancelled; then nobody else looks

    def _known(self, key: str, request: Request) -> Response | None:
        found = self._journal.find(key, request.first_repeat, request.n)
        if len(found) < request.n:
            return None
        choices: list[Choice] = [found[repeat][0] for repeat in sorted(found)]
        return Response(tuple(choices), found[request.first_repeat][1])

    async def _ask(self, key: str, request: Request) -> Response:
        # Two askers of one question: the second waits, then finds the answer in the journal.
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            while (response := self._known(key, request)) is None:
                await self._ask_for_missing(key, request)
            return response

    async def _ask_for_missing(self, key: str, request: Request) -> None:
        found = self._journal.find(key, request.first_repeat, request.n)
        wanted = [r for r in range(request.first_repeat, request.first_repeat + request.n) if r not in found]
        chunks = _consecutive(wanted, self._specs[request.model].max_choices)
        calls = [asyncio.create_task(self._attempts(request.for_repeats(first, n))) for first, n in chunks]
        # All of them are waited for even when one fails: an answer that is under way is being paid for.
        results = await asyncio.gather(*calls, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            # A cap ends the run, whatever else went wrong beside it.
            raise next((f for f in failures if isinstance(f, BudgetExceeded)), failures[0])

    async def _attempts(self, request: Request) -> None:
        spec = self._specs[request.model]
        retrying = AsyncRetrying(
            stop=stop_after_attempt(spec.max_attempts),
            retry=retry_if_exception_type(TransientModelError),
            wait=_waits(spec.backoff_seconds),
            sleep=self._pause,
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                await self._attempt(request, spec)

    async def _attempt(self, request: Request, spec: ModelSpec) -> None:
        if isinstance(self._provider, Preparable):
            # Nothing is paid for yet, so the end of the run does not wait for it.
            async with self._in_time():
                await self._unless_closing(self._provider.prepare(request.model))
        async with self._limiter(spec).slot():
            self._check_open()
            worst = worst_case(request, spec)
            reservation = await self.budget.reserve(worst, request.purpose)
            actual = worst
            try:
                self._check_open()
                actual = await self._send(request, spec, worst)
            except AgentoptError as error:
                actual = _taken(error, worst)
                raise
            finally:
                self.budget.settle(reservation, actual)

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise RunStoppingError

    async def _send(self, request: Request, spec: ModelSpec, worst: Usage) -> Usage:
        entry = await self._journal.open(self._run, request, worst)
        try:
            async with self._in_time():
                response = await self._provider.generate(request)
        except AgentoptError as error:
            await self._journal.record_failure(entry, _taken(error, worst), _kind(error))
            if isinstance(error, TransientModelError) and error.retry_after:
                self._limiter(spec).pause(error.retry_after)
            raise
        prompt, completion = response.prompt_tokens, response.completion_tokens
        usage = Usage(1, prompt, completion, spec.price.usd(prompt, completion))
        await self._journal.record(entry, spec.identity, request, response, usage)
        return usage

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        """Raise `BudgetExceeded` where the block is not done when the run's time is up."""
        try:
            async with asyncio.timeout(self.budget.seconds_left) as cap:
                yield
        except TimeoutError as error:
            if not cap.expired():
                raise  # the provider's own, which breaks the promise of `ChatModel`
            raise self.budget.out_of_time() from error

    async def _pause(self, seconds: float) -> None:
        """Sleep between attempts, or for a turn; not when the run stops meanwhile, or its time does not suffice."""
        self.budget.check_seconds(seconds)
        await self._unless_closing(self._sleep(seconds))

    async def _unless_closing(self, work: Awaitable[None]) -> None:
        """Wait for `work`; when the run stops meanwhile, cancel it and raise `RunStoppingError`."""
        waits = [asyncio.ensure_future(work), asyncio.ensure_future(self._closing.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            self._check_open()
            await waits[0]
        finally:
            for wait in waits:
                wait.cancel()

    def _limiter(self, spec: ModelSpec) -> RateLimiter:
        if spec.name not in self._limiters:
            self._limiters[spec.name] = RateLimiter(spec.concurrency, spec.requests_per_minute, sleep=self._pause)
        return self._limiters[spec.name]


def _taken(error: AgentoptError, worst: Usage) -> Usage:
    """What a call that ended in `error` is counted at."""
    if isinstance(error, BudgetExceeded | JournalError):
        return worst  # its time was up, or its answer could not be kept
    if isinstance(error, RunStoppingError) or not isinstance(error, ModelError):
        return Usage()  # it was never sent
    return worst if error.billed else Usage(calls=1)


def _kind(error: AgentoptError) -> str:
    """The word that a failure is counted by."""
    if isinstance(error, ModelError):
        return error.kind
    return "time was up" if isinstance(error, BudgetExceeded) else "not sent"


def _waits(first: float) -> Callable[[RetryCallState], float]:
    """Exponential backoff with jitter, or as long as the provider asked for, whichever is longer."""
    backoff = wait_exponential_jitter(multiplier=first, max=LONGEST_BACKOFF, jitter=first)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, TransientModelError) and error.retry_after else 0.0
        return max(asked, backoff(state))

    return wait


def _consecutive(repeats: list[int], most: int) -> list[tuple[int, int]]:
    """Runs of consecutive repeat indices as (first, count), none longer than `most`."""
    runs: list[tuple[int, int]] = []
    for repeat in repeats:
        if runs and sum(runs[-1]) == repeat and runs[-1][1] < most:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((repeat, 1))
    return runs
