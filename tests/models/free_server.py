"""A loopback server with a free-form handler, for requests and responses that no well-behaved server has."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Self

from aiohttp import web

Answer = tuple[int, Any, dict[str, str]]
"""Status, body (bytes, or a value to be sent as JSON) and headers."""


class FreeServer:
    """Calls `handler(body, index)` for each request, and keeps bodies, headers and paths."""

    def __init__(self, handler: Callable[[dict[str, Any], int], Answer]) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.paths: list[str] = []
        self._handler = handler

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        index = len(self.bodies)
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.paths.append(request.path_qs)
        status, content, headers = self._handler(body, index)
        sent = content if isinstance(content, bytes) else json.dumps(content).encode()
        return web.Response(status=status, body=sent, headers={"Content-Type": "application/json", **headers})


def completion(text: Any = "yes", *, usage: Any = True, finish_reason: str = "stop", **message: Any) -> Answer:
    """A successful response with one choice."""
    body: dict[str, Any] = {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text, **message}}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 5} if usage is True else usage,
    }
    body["choices"][0]["finish_reason"] = finish_reason
    return 200, body, {}


def refusal(status: int, message: str, *, headers: dict[str, str] | None = None, **error: Any) -> Answer:
    """An error response in the OpenAI format."""
    return status, {"error": {"message": message, "type": "invalid_request_error", **error}}, headers or {}
