"""The loopback endpoint in front of the model: one URL per run of an arm, with a count and a cap of its calls.

A request for n choices counts as n calls. Beyond the cap every call is refused with status 403, which clients do not
retry. Responses are never cached; a request without a seed gets a new one, so that a repeated call is a new sample.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self

from aiohttp import web

from agentopt.core.errors import ApiError, PermanentModelError, TransientModelError
from agentopt.core.task import Task
from agentopt.models.base import ChatModel, Request
from agentopt.models.openai_completion import Completion
from agentopt.models.openai_format import ChatCall, call_in, no_such_path, read_body
from benchmarks.peers.protocol import CAP_REACHED
from benchmarks.peers.scoring import score_text

MOST_TOKENS = 1500
"""Most tokens of one choice, and the default: small models may never stop."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Meter:
    """The calls of one run of an arm."""

    base_url: str
    model: str
    """Catalogue name of the model that answers, whatever name a call has."""
    cap: int
    requests: int = 0
    calls: int = 0
    """Choices of the requests that were admitted."""
    refused: int = 0
    """Requests beyond the cap."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    full: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first request is refused."""
    full_at: float | None = None
    """When that was, on the monotonic clock: what an arm does afterwards is retries."""

    def admit(self, n: int) -> None:
        """Count a request for `n` choices, or refuse it with an `ApiError`."""
        if self.calls + n > self.cap:
            self.refused += 1
            self.full_at = self.full_at or time.monotonic()
            self.full.set()
            message = f"the cap of {self.cap} model calls is reached: {self.calls} were made, {n} more requested"
            raise ApiError(403, message, type="insufficient_quota", code=CAP_REACHED)
        self.requests += 1
        self.calls += n


class Endpoint:
    """Serves as an async context manager on a free port of 127.0.0.1.

    Args:
        chat: Makes the calls.
        task: Scores answers to its train and validation examples.
    """

    def __init__(self, chat: ChatModel, task: Task) -> None:
        self._chat, self._task = chat, task
        self._examples = {e.id: e for split in ("train", "validation") for e in task.splits[split]}
        self._meters: dict[str, Meter] = {}

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2**24, middlewares=[_errors_as_json])
        app.router.add_post("/{run}/v1/chat/completions", self._complete)
        app.router.add_post("/{run}/v1/score", self._score)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def admit(self, model: str, cap: int) -> Meter:
        """Open a URL at which `cap` calls of `model` can be made."""
        run = secrets.token_urlsafe(12)
        self._meters[run] = Meter(f"http://127.0.0.1:{self._port}/{run}/v1", model, cap)
        return self._meters[run]

    def _meter(self, request: web.Request) -> Meter:
        meter = self._meters.get(request.match_info["run"])
        if meter is None:
            raise no_such_path(request.path)
        return meter

    async def _complete(self, request: web.Request) -> web.Response:
        meter, body = self._meter(request), read_body(await request.read())
        call = call_in(body)
        if call.stream:
            raise ApiError(400, "streaming is not offered", param="stream", code="unsupported_parameter")
        meter.admit(call.n)
        seed = body["seed"] if isinstance(body.get("seed"), int) else meter.calls
        response = await self._chat.generate(_request(call, meter.model, seed))
        meter.prompt_tokens += response.prompt_tokens
        meter.completion_tokens += response.completion_tokens
        answered = Completion(call.model, response.choices, response.prompt_tokens, response.completion_tokens)
        return web.json_response(answered.body())

    async def _score(self, request: web.Request) -> web.Response:
        self._meter(request)
        body = read_body(await request.read())
        example = self._examples.get(body.get("id", ""))
        if example is None:
            raise ApiError(404, f"no train or validation example has the id {body.get('id')!r}", param="id")
        score = await score_text(self._task, example, str(body.get("output", "")))
        return web.json_response({"score": score.value, "feedback": score.feedback})


def _request(call: ChatCall, model: str, seed: int) -> Request:
    return Request(
        model=model,
        messages=call.messages,
        max_tokens=min(call.max_tokens or MOST_TOKENS, MOST_TOKENS),
        temperature=call.temperature,
        top_p=call.top_p,
        stop=call.stop,
        json_schema=call.json_schema,
        seed=seed,
        n=call.n,
    )


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        refusal = error
    except PermanentModelError as error:  # such as a prompt beyond the context length; 400 is not retried
        refusal = ApiError(400, str(error), code="model_failed")
    except TransientModelError as error:
        refusal = ApiError(503, str(error), type="api_error", code="model_failed")
    except web.HTTPException as error:
        refusal = no_such_path(request.path) if error.status == 404 else ApiError(error.status, error.reason)
    return web.json_response(refusal.body, status=refusal.status, headers=refusal.headers)
