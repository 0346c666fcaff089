"""The web application: routes, authentication, limits and errors."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from agentopt.core.candidate import Candidate
from agentopt.core.errors import AgentoptError, ApiError, BudgetExceeded
from agentopt.deploy.serve.access import Access
from agentopt.deploy.serve.handler import ChatHandler
from agentopt.deploy.serve.in_flight import InFlight
from agentopt.deploy.serve.limits import ServerLimits
from agentopt.deploy.serve.metrics import CONTENT_TYPE, Metrics
from agentopt.deploy.serve.openapi import openapi_document
from agentopt.deploy.serve.request_budget import HEADER, model_of, with_budget
from agentopt.models.api_errors import readable
from agentopt.models.openai_completion import STREAM_HEADERS, Completion, model_body, models_body
from agentopt.models.openai_format import (
    NO_RETRY,
    ChatCall,
    from_failure,
    model_in,
    no_such_path,
    read_body,
    too_large,
    wrong_method,
)
from agentopt.workflow.chat_api import CHAT, RESPONSES, ChatApi
from agentopt.workflow.live_events import live_events

_log = logging.getLogger(__name__)

CANDIDATE = "x-agentopt-candidate"
"""The header with the key of the candidate that gave an answer."""

DISCARDED = 64 * 2**20
"""Most bytes beyond the limit that are still read, so that the sender of a large body receives the error."""


class Application:
    """The request handlers of one server.

    Args:
        handler: Answers chat calls.
        access: Authenticates requests.
        metrics: The counters.
        limits: The limits.
        problem: Returns why the newest candidate is not used, or an empty text.

    Attributes:
        is_draining: Whether the server accepts no more connections.
        in_flight: The calls that are being answered.
    """

    def __init__(
        self,
        handler: ChatHandler,
        access: Access,
        metrics: Metrics,
        limits: ServerLimits,
        problem: Callable[[], str] = lambda: "",
    ) -> None:
        self._handler, self._access, self._metrics, self._limits = handler, access, metrics, limits
        self._problem, self.is_draining, self._is_capped = problem, False, False
        self.in_flight = InFlight(limits, metrics.in_flight.set)
        self._started = int(time.time())

    def asgi(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/responses", self._responses, methods=["POST"]),
            Route("/v1/models", self._models),
            Route("/v1/models/{model:path}", self._model),
            Route("/metrics", self._counts),
            Route("/healthz", self._health),
            Route("/readyz", self._ready),
            Route("/openapi.json", self._openapi),
        ]
        return Starlette(routes=routes, exception_handlers=HANDLERS)

    async def _chat(self, request: Request) -> Response:
        return await self._answered(request, CHAT)

    async def _responses(self, request: Request) -> Response:
        return await self._answered(request, RESPONSES)

    async def _answered(self, request: Request, api: ChatApi) -> Response:
        with ExitStack() as ending:
            outcome = ending.enter_context(self._measured())
            key = self._check(request)
            body = read_body(await self._body(request))
            # From here on: a body that arrives slowly holds no place.
            ending.enter_context(self.in_flight.place(key))
            outcome.model = model_of(model_in(body))
            call, budget = with_budget(api.read(body), request.headers.get(HEADER))
            candidate = self._handler.candidate_for(call, budget)
            headers = {CANDIDATE: candidate.key}
            if not call.stream:
                completion = await self._answer(call, candidate, request)
                outcome.status = 200
                return JSONResponse(api.body(call, completion), headers=headers)
            answer = partial(self._answer, call, candidate, request)
            is_live, failed = self._handler.is_live(call), partial(_note_failure, outcome)
            events = live_events(api.stream(call), answer, is_live=is_live, on_failure=failed)
            # The first event, so that a call that fails before it receives a status.
            first = await anext(events)
            outcome.status = 200
            return _EventResponse(first, events, ending.pop_all(), {**STREAM_HEADERS, **headers})

    @contextmanager
    def _measured(self) -> Iterator[_Outcome]:
        """Count one call and its duration, and log a failure."""
        outcome, started = _Outcome(), time.monotonic()
        try:
            yield outcome
        except ApiError as refusal:
            _note_failure(outcome, refusal)
            raise
        except Exception:
            outcome.status = 500  # also after the first events of a stream
            raise
        finally:
            # Only known models become labels: a client can send any text.
            known = outcome.model if outcome.model in self._handler.models else "unknown"
            self._metrics.requests.labels(known, str(outcome.status)).inc()
            self._metrics.request_seconds.labels(known).observe(time.monotonic() - started)

    async def _answer(self, call: ChatCall, candidate: Candidate, request: Request) -> Completion:
        try:
            async with asyncio.timeout(self._limits.seconds):
                completion = await self.in_flight.run(self._handler.answer(call, candidate), _departure(request))
            self._is_capped = False
            return completion
        except TimeoutError as error:
            message = f"no answer within {self._limits.seconds:g} s; the calls that were sent are billed"
            raise ApiError(504, message, type="api_error", code="timeout", headers=NO_RETRY) from error
        except ApiError:
            raise
        except AgentoptError as error:
            self._is_capped |= isinstance(error, BudgetExceeded)
            raise from_failure(error) from error

    async def _body(self, request: Request) -> bytes:
        most, kept, size = self._limits.body_bytes, bytearray(), 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for part in request.stream():
                    size += len(part)
                    if size <= most:
                        kept += part
                    elif size > most + DISCARDED:
                        break
        except (TimeoutError, ClientDisconnect) as error:
            message = f"the request body is incomplete after {self._limits.body_seconds:g} s"
            raise ApiError(408, message, code="incomplete_body", headers={"Connection": "close"}) from error
        if size > most:
            raise too_large(most)
        return bytes(kept)

    async def _models(self, request: Request) -> Response:
        self._check(request)
        return JSONResponse(models_body(self._handler.models, created=self._started))

    async def _model(self, request: Request) -> Response:
        self._check(request)
        name = request.path_params["model"]
        if name not in self._handler.models:
            raise self._handler.no_such_model(name)
        return JSONResponse(model_body(name, created=self._started))

    async def _counts(self, request: Request) -> Response:
        self._check(request)
        return Response(self._metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _health(self, request: Request) -> Response:
        body = {"status": "ok", "candidate": self._handler.current().key}
        # A probe needs no key; messages that name files of this machine require one.
        with suppress(ApiError):
            self._check(request)
            body |= {"problem": problem} if (problem := self._problem()) else {}
        return JSONResponse(body)

    async def _ready(self, request: Request) -> Response:
        """Whether calls can be answered now, for load balancers; `/healthz` only shows that the server lives."""
        reasons = {
            "draining": self.is_draining,
            "no_api_key": not self._access.has_keys,
            "cap_reached": self._is_capped,
        }
        if reason := next((reason for reason, holds in reasons.items() if holds), ""):
            return JSONResponse({"status": "unavailable", "reason": reason}, 503)
        return JSONResponse({"status": "ready"})

    async def _openapi(self, request: Request) -> Response:
        self._check(request)
        return JSONResponse(openapi_document(self._handler.models))

    def _check(self, request: Request) -> str:
        headers = request.headers
        return self._access.check(*(headers.get(name, "") for name in ("authorization", "host", "origin")))


@dataclass(slots=True)
class _Outcome:
    """What is counted of one call."""

    model: str = ""
    status: int = 500


class _EventResponse(StreamingResponse):
    """Server-sent events; `ending` is closed after the last one, or when the client disconnects."""

    def __init__(
        self, first: bytes, events: AsyncGenerator[bytes], ending: ExitStack, headers: Mapping[str, str]
    ) -> None:
        super().__init__(_with_first(first, events), headers=headers)
        self._events, self._ending = events, ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._ending:
            try:
                await super().__call__(scope, receive, send)
            finally:
                await self._events.aclose()


async def _with_first(first: bytes, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for event in events:
        yield event


async def _departure(request: Request) -> None:
    """Return when the client has left. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)


def _note_failure(outcome: _Outcome, refusal: ApiError) -> None:
    outcome.status = refusal.status
    _log.warning("%s", _failed_call(refusal, outcome.model))


def _failed_call(refusal: ApiError, model: str) -> str:
    """One line for the log, without contents of the request or of a response."""
    # These messages quote a response, or keys of the request.
    quotes = refusal.code == "unparsable_answer" or refusal.param == "messages"
    reason = " in ".join(filter(None, [refusal.code, refusal.param])) if quotes else refusal.message
    line = f"call failed: status {refusal.status}, model {model or 'unknown'}: {reason}"
    return readable("".join(c if c.isprintable() else " " for c in line), ())


async def _refuse_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"]  # not from the URL, which contains the client's Host header
    if error.status_code == 405:
        return await _refuse(request, wrong_method(request.method, path, (error.headers or {})["Allow"].split(", ")))
    return await _refuse(request, no_such_path(path))


async def _fail(_: Request, __: Exception) -> Response:
    """An internal error. Details are in the server's log."""
    return JSONResponse(ApiError(500, "the server failed", type="server_error", headers=NO_RETRY).body, 500, NO_RETRY)


HANDLERS = {ApiError: _refuse, HTTPException: _refuse_path, Exception: _fail}
