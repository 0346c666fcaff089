"""The HTTP server behind OPENAI_BASE_URL while programs run, on a loopback port.

Each program run has its own URL, which identifies its calls. This module is transport only; `program_run` answers the
calls. It uses aiohttp, which agentopt needs anyway, so a task with a program needs no extra, and runs in the event loop
of the evaluation.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial

from aiohttp import web

from agentopt.core.errors import ApiError
from agentopt.models.openai_completion import STREAM_HEADERS, model_body, models_body
from agentopt.models.openai_format import (
    no_such_model,
    no_such_path,
    read_body,
    too_large,
    wrong_key,
    wrong_method,
)
from agentopt.workflow.chat_api import CHAT, RESPONSES, ChatApi
from agentopt.workflow.live_events import live_events
from agentopt.workflow.program.program_run import ProgramRun

MAX_BODY_BYTES = 64 * 2**20
"""Largest body of a call."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gateway:
    """Serves from `start` to `stop`. A program run is served from `admit` to `dismiss`.

    Args:
        max_bytes: Largest body of a call.

    Attributes:
        key: The API key that calls must send.
    """

    def __init__(self, *, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._max_bytes = max_bytes
        self.key = secrets.token_urlsafe(24)
        self._runs: dict[str, ProgramRun] = {}
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def start(self) -> None:
        """Listen on a free loopback port."""
        app = web.Application(client_max_size=self._max_bytes, middlewares=[self._guard])
        app.router.add_post("/{run}/v1/chat/completions", self._chat)
        app.router.add_post("/{run}/v1/responses", self._responses)
        app.router.add_get("/{run}/v1/models", self._models)
        app.router.add_get("/{run}/v1/models/{model:.+}", self._model)
        # A call that a program abandoned is cancelled: responses that were requested reach the journal anyway, and
        # nothing more is sent for it.
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.0, handle_signals=False, handler_cancellation=True
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the server and its connections."""
        if self._runner:
            await self._runner.cleanup()

    def address(self) -> str:
        """Return a new base URL, at which no run is served yet."""
        return f"http://127.0.0.1:{self._port}/{secrets.token_urlsafe(12)}/v1"

    def admit(self, run: ProgramRun, base_url: str) -> None:
        """Serve a run at a URL that `address` returned."""
        self._runs[base_url.split("/")[-2]] = run

    def dismiss(self, base_url: str) -> None:
        """Stop serving at this URL; later calls receive status 404."""
        self._runs.pop(base_url.split("/")[-2], None)

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Check the key, and send every error in the OpenAI format."""
        try:
            self._check_key(request.headers.get("Authorization", ""))
            return await handler(request)
        except ApiError as error:
            refusal = error
        except web.HTTPRequestEntityTooLarge:
            refusal = too_large(self._max_bytes)
        except web.HTTPMethodNotAllowed as error:
            refusal = wrong_method(request.method, request.path, error.allowed_methods)
        except web.HTTPNotFound:
            refusal = no_such_path(request.path)
        if run := self._runs.get(request.match_info.get("run", "")):
            run.refused = refusal.message
        return web.json_response(refusal.body, status=refusal.status, headers=refusal.headers)

    def _check_key(self, header: str) -> None:
        scheme, _, key = header.partition(" ")
        if scheme.lower() != "bearer" or not secrets.compare_digest(
            key.strip().encode(errors="surrogateescape"), self.key.encode()
        ):
            raise wrong_key()

    def _run(self, request: web.Request) -> ProgramRun:
        run = self._runs.get(request.match_info["run"])
        if run is None:
            raise ApiError(404, "the run of the program that had this URL is over", code="run_is_over")
        return run

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answered(request, CHAT)

    async def _responses(self, request: web.Request) -> web.StreamResponse:
        return await self._answered(request, RESPONSES)

    async def _answered(self, request: web.Request, api: ChatApi) -> web.StreamResponse:
        run = self._run(request)
        call = api.read(read_body(await request.read()))
        if not call.stream:
            return web.json_response(api.body(call, await run.answer(call)))
        async with aclosing(live_events(api.stream(call), partial(run.answer, call), is_live=call.n == 1)) as events:
            # The first event, so that a call that fails before it receives a status.
            first = await anext(events)
            response = web.StreamResponse(headers=STREAM_HEADERS)
            await response.prepare(request)
            await response.write(first)
            async for event in events:
                await response.write(event)
            await response.write_eof()
            return response

    async def _models(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(models_body(self._run(request).models))

    async def _model(self, request: web.Request) -> web.StreamResponse:
        name, known = request.match_info["model"], self._run(request).models
        if name not in known:
            raise no_such_model(name, known)
        return web.json_response(model_body(name))
