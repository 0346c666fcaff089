"""Calls an OpenAI-compatible endpoint, one attempt per call, with the HTTP client of the `openai` package."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agentopt.core.errors import MalformedResponseError
from agentopt.models.bounded_stream import LARGEST_BODY
from agentopt.models.catalog import ModelSpec
from agentopt.models.event_stream import EventReader, text_in
from agentopt.models.json_bytes import parse_json
from agentopt.models.response_body import ReadBody, read_body, read_completion
from agentopt.models.responses_api import as_completion, responses_body

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 10.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
NO_KEY = "no-key"
"""Sent if the entry names no key: some servers require the header, and ignore its value."""


class OpenAIRoute:
    """An OpenAI-compatible endpoint.

    Args:
        spec: A catalogue entry with `base_url`.
        api_key: The key, if the endpoint needs one.
        transport: Sends the requests; the network unless given.
    """

    def __init__(
        self, spec: ModelSpec, api_key: str | None, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        import httpx
        import openai

        timeout = httpx.Timeout(spec.timeout_seconds, connect=min(CONNECT_SECONDS, spec.timeout_seconds))
        base, _, query = (spec.base_url or "").partition("?")
        self._httpx = httpx
        self._is_responses = spec.api == "responses"
        path = "responses" if self._is_responses else "chat/completions" if spec.chat_template else "completions"
        self._url = f"{base.rstrip('/')}/{path}"
        self._query = httpx.QueryParams([*httpx.QueryParams(query).multi_items(), *spec.query.items()])
        key = api_key or NO_KEY
        bearer = spec.api_key_header.lower() == "authorization"
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": "agentopt",
            spec.api_key_header: f"Bearer {key}" if bearer else key,
            **spec.extra_headers,
        }
        if transport:
            self._client = httpx.AsyncClient(transport=transport, trust_env=False)
            return
        # The client of `openai` rather than httpx's own: its aiohttp transport sends more requests per second.
        self._client = openai.DefaultAioHttpClient(
            timeout=timeout,
            # To aiohttp, 0 is no limit: the rate limiter bounds the calls in flight.
            limits=httpx.Limits(max_connections=0, keepalive_expiry=30),
            # A redirect would send the key and the prompt to another host.
            follow_redirects=False,
            # A proxy from the environment cannot reach servers on this machine.
            trust_env=httpx.URL(base).host not in LOOPBACK,
        )

    async def complete(
        self, body: dict[str, Any], *, most: int, on_text: Callable[[str], None] | None = None
    ) -> ReadBody:
        """Send one request.

        Args:
            body: The request in the OpenAI format.
            most: Most choices to read.
            on_text: Receives the parts of the first choice's text as they arrive, if the response is a stream.

        Raises:
            httpx.HTTPError: The endpoint refused the request, or the connection failed.
            MalformedResponseError: The body is not a completion.
        """
        sent = responses_body(body) if self._is_responses else body
        content = json.dumps(sent, ensure_ascii=False, separators=(",", ":")).encode()
        request = self._client.build_request(
            "POST", self._url, params=self._query, content=content, headers=self._headers
        )
        response = await self._client.send(request, stream=True)
        try:
            received = await self._read(response, on_text if response.is_success else None)
        finally:
            await response.aclose()
        if not response.is_success:
            raise self._refusal(request, response, received)
        if self._is_responses:
            return read_completion(as_completion(parse_json(received)), most=most)
        return read_body(received, most=most, content_type=response.headers.get("content-type", ""))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _read(self, response: Any, on_text: Callable[[str], None] | None) -> bytes:
        received, events = bytearray(), EventReader()
        async for chunk in response.aiter_bytes():
            received += chunk
            for data in events.feed(chunk) if on_text else ():
                if on_text and (text := text_in(data)):
                    on_text(text)
            if len(received) > LARGEST_BODY:
                if not response.is_success:
                    break
                raise MalformedResponseError(f"the body is larger than {LARGEST_BODY >> 20} MiB")
        return bytes(received)

    def _refusal(self, request: Any, response: Any, received: bytes) -> Exception:
        headers = {
            name: value
            for name, value in response.headers.items()
            if name.lower() not in ("content-encoding", "content-length", "transfer-encoding")
        }
        read = self._httpx.Response(response.status_code, headers=headers, content=received, request=request)
        return self._httpx.HTTPStatusError(f"HTTP {response.status_code}", request=request, response=read)
