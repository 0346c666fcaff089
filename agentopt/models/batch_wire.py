"""Builds the HTTP request of a direct call without sending it, and reads a response that came another way.

A batched request has the body and the headers of a direct call, and its response or refusal is read alike, because both
are made by the same code: the routes of `HostedModel`, over an HTTP transport that records and replays.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from agentopt.core.errors import CatalogError, ModelError
from agentopt.models.base import Message, Request, Response
from agentopt.models.catalog import ModelSpec
from agentopt.models.hosted import HostedModel
from agentopt.models.request_fitting import payload

PLACEHOLDER = (
    b'{"id": "", "type": "message", "role": "assistant", "model": "", "stop_reason": "end_turn", "content": [], '
    b'"usage": {"input_tokens": 0, "output_tokens": 0}, "choices": [{"message": {"content": ""}}]}'
)
"""A completion in the OpenAI and the Anthropic format, with which a recorded call ends."""


class Wire(httpx.AsyncBaseTransport):
    """Sends nothing: keeps the last request, and returns a given response.

    Attributes:
        request: The last request; None before the first one.
        status: HTTP status of the response.
        body: Body of the response, JSON.
    """

    def __init__(self) -> None:
        self.request: httpx.Request | None = None
        self.status, self.body = 200, PLACEHOLDER

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.request = request
        headers = {"Content-Type": "application/json"}
        return httpx.Response(self.status, headers=headers, content=self.body, request=request)


class WiredModel:
    """The requests and responses of direct calls to a model, without the calls.

    Args:
        spec: A catalogue entry with `base_url` alone, or of a model of Anthropic.
        options: Further arguments of `HostedModel`.

    Attributes:
        spec: The entry, which does not stream.

    Raises:
        CatalogError: Requests of the entry cannot be recorded, or the variable of its key is not set.
    """

    def __init__(self, spec: ModelSpec, **options: Any) -> None:
        if not spec.is_batchable:
            raise CatalogError(
                f"a batch needs an entry with base_url alone, or with litellm: anthropic/..., but {spec.name!r} has "
                f"{'weights' if spec.weights else f'litellm: {spec.litellm}'}",
                remedy="choose another model, or call this one directly",
            )
        self._wire, self._lock = Wire(), asyncio.Lock()
        # A batch does not stream, and its duration is not that of the calls in it.
        self.spec = spec.model_copy(update={"stream": False})
        self._model = HostedModel(self.spec, clock=lambda: 0.0, transport=self._wire, is_replayed=True, **options)

    async def request_of(self, request: Request) -> httpx.Request:
        """Return the HTTP request that `generate` would send.

        Raises:
            PermanentModelError: The prompt cannot fit into the context length.
        """
        async with self._lock:
            await self._model.check_context_length(request)
            body = payload(self.spec, request)
            body = {name: value for name, value in body.items() if name not in ("stream", "stream_options")}
            self._wire.status, self._wire.body = 200, PLACEHOLDER
            self._wire.request = None
            await self._model.connected().complete(body, most=1)
            assert self._wire.request is not None, "the route must send through the wire"
            return self._wire.request

    async def response_of(self, request: Request, status: int, body: bytes) -> Response:
        """Read a response as `generate` does.

        Args:
            request: The request.
            status: HTTP status of the response.
            body: Its body.

        Raises:
            ModelError: It is a refusal, or not a completion.
        """
        async with self._lock:
            self._wire.status, self._wire.body = status, body
            return await self._model.generate(request)

    async def probe(self) -> httpx.Request:
        """Return the HTTP request of some direct call: its address and its headers."""
        return await self.request_of(Request(self.spec.name, (Message("user", "?"),), 1))

    def failure(self, error: Exception, outside: BaseException | None = None) -> ModelError | None:
        """Convert the failure of another HTTP call to the endpoint; None if it is a defect.

        Args:
            error: What the client raised.
            outside: The exception that was being handled when the call began.
        """
        return self._model.failure(error, outside=outside)

    async def aclose(self) -> None:
        """Close the connections, none of which sent anything."""
        await self._model.aclose()
