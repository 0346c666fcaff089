"""Calls an OpenAI-compatible endpoint, one attempt per call.

Requests are sent by aiohttp: httpx takes several times its processor time per request. If the environment has a proxy,
the HTTP client of the `openai` package sends them, which knows the variables of proxies.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.request import getproxies

import aiohttp
import httpx

from agentopt.core.errors import MalformedResponseError
from agentopt.models.bounded_stream import LARGEST_BODY
from agentopt.models.catalog import ModelSpec
from agentopt.models.event_stream import EventReader, text_in
from agentopt.models.json_bytes import parse_json
from agentopt.models.response_body import ReadBody, read_body, read_completion
from agentopt.models.responses_api import as_completion, responses_body

CONNECT_SECONDS = 10.0
KEPT_SECONDS = 30.0
"""How long an idle connection is kept."""
PART_BYTES = 1 << 14
"""Bytes of a compressed body that are decompressed at once."""
PROXIES = {"all", "http", "https"}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
NO_KEY = "no-key"
"""Sent if the entry names no key: some servers require the header, and ignore its value."""


@dataclass(frozen=True, slots=True)
class _Received:
    """A whole response; the body is decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes


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
        base, _, query = (spec.base_url or "").partition("?")
        self._is_responses = spec.api == "responses"
        path = "responses" if self._is_responses else "chat/completions" if spec.chat_template else "completions"
        parameters = httpx.QueryParams([*httpx.QueryParams(query).multi_items(), *spec.query.items()])
        self._url = httpx.URL(f"{base.rstrip('/')}/{path}", params=parameters or None)
        self._address = str(self._url)
        key = api_key or NO_KEY
        bearer = spec.api_key_header.lower() == "authorization"
        # Of httpx, which refuses a key that is not ASCII; those of the entry replace ours.
        self._headers = httpx.Headers(
            {
                "Content-Type": "application/json",
                "Accept": "application/json",
                "Accept-Encoding": "gzip, deflate",
                "User-Agent": "agentopt",
                spec.api_key_header: f"Bearer {key}" if bearer else key,
            }
        )
        self._headers.update(spec.extra_headers)
        self._connect_seconds = min(CONNECT_SECONDS, spec.timeout_seconds)
        self._session: aiohttp.ClientSession | None = None
        self._client: httpx.AsyncClient | None = None
        if transport:
            self._client = httpx.AsyncClient(transport=transport, trust_env=False)
        # A proxy from the environment cannot reach servers on this machine.
        elif self._url.host not in LOOPBACK and getproxies().keys() & PROXIES:
            self._client = self._proxied(spec.timeout_seconds)

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
            aiohttp.ClientError: The connection failed.
            MalformedResponseError: The body is not a completion.
        """
        sent = responses_body(body) if self._is_responses else body
        content = json.dumps(sent, ensure_ascii=False, separators=(",", ":")).encode()
        received = await (
            self._send_by(self._client, content, on_text) if self._client else self._send(content, on_text)
        )
        if not 200 <= received.status < 300:
            raise self._refusal(received)
        if self._is_responses:
            return read_completion(as_completion(parse_json(received.body)), most=most)
        return read_body(received.body, most=most, content_type=received.headers.get("content-type", ""))

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client:
            await self._client.aclose()
        if self._session:
            await self._session.close()

    def _proxied(self, timeout_seconds: float) -> httpx.AsyncClient:
        import openai  # takes a second, and most environments have no proxy

        return openai.DefaultAioHttpClient(
            timeout=httpx.Timeout(timeout_seconds, connect=self._connect_seconds),
            # To aiohttp, 0 is no limit: the rate limiter bounds the calls in flight.
            limits=httpx.Limits(max_connections=0, keepalive_expiry=KEPT_SECONDS),
            # A redirect would send the key and the prompt to another host.
            follow_redirects=False,
        )

    async def _send_by(
        self, client: httpx.AsyncClient, content: bytes, on_text: Callable[[str], None] | None
    ) -> _Received:
        request = client.build_request("POST", self._url, content=content, headers=self._headers)
        response = await client.send(request, stream=True)
        try:
            return await _received(response, on_text)
        finally:
            await response.aclose()

    async def _send(self, content: bytes, on_text: Callable[[str], None] | None) -> _Received:
        if self._session is None:
            self._session = self._direct()
        # No redirect, for the reason above. Compressed bodies are left to httpx, in parts whose sizes are known.
        async with self._session.post(self._address, data=content, allow_redirects=False) as response:
            if "Content-Encoding" in response.headers:
                plain = httpx.Response(response.status, headers=response.raw_headers, stream=_Parts(response.content))
                return await _received(plain, on_text)
            if on_text is None and response.content_length is not None and response.content_length <= LARGEST_BODY:
                return _Received(response.status, response.headers, await response.read())
            chunks = response.content.iter_any()
            return _Received(response.status, response.headers, await _read(chunks, response.ok, on_text))

    def _direct(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                # The certificates that httpx, and so the client of `openai`, verifies servers by.
                ssl=httpx.create_ssl_context() if self._url.scheme == "https" else True,
                limit=0,  # no limit: the rate limiter bounds the calls in flight
                keepalive_timeout=KEPT_SECONDS,
            ),
            headers=self._headers,
            auto_decompress=False,
            # The time of the whole call is bounded by `HostedModel`.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_seconds),
        )

    def _refusal(self, received: _Received) -> Exception:
        headers = [
            # As bytes: httpx takes only ASCII text, and a proxy may send anything.
            (name.encode(errors="surrogateescape"), value.encode(errors="surrogateescape"))
            for name, value in received.headers.items()
            if name.lower() not in ("content-encoding", "content-length", "transfer-encoding")
        ]
        request = httpx.Request("POST", self._url)
        read = httpx.Response(received.status, headers=headers, content=received.body, request=request)
        return httpx.HTTPStatusError(f"HTTP {received.status}", request=request, response=read)


class _Parts(httpx.AsyncByteStream):
    """A body as aiohttp receives it."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._content.iter_chunked(PART_BYTES):
            yield part


async def _received(response: httpx.Response, on_text: Callable[[str], None] | None) -> _Received:
    body = await _read(response.aiter_bytes(), response.is_success, on_text)
    return _Received(response.status_code, response.headers, body)


async def _read(chunks: AsyncIterator[bytes], is_success: bool, on_text: Callable[[str], None] | None) -> bytes:
    """Read a body of at most `LARGEST_BODY`; of a longer one of an error, as much."""
    received, events = bytearray(), EventReader()
    async for chunk in chunks:
        received += chunk
        for data in events.feed(chunk) if on_text and is_success else ():
            if on_text and (text := text_in(data)):
                on_text(text)
        if len(received) > LARGEST_BODY:
            if not is_success:
                break
            raise MalformedResponseError(f"the body is larger than {LARGEST_BODY >> 20} MiB")
    return bytes(received)


def prepare_openai() -> None:
    """Import what the first call to a host would: the certificates. Blocks."""
    httpx.create_ssl_context()
