"""HTTP calls of a batch interface: no redirects, bounded bodies, results read line by line."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import httpx

from agentopt.core.errors import MalformedResponseError
from agentopt.models.batch_provider import id_of, objects
from agentopt.models.bounded_stream import LARGEST_BODY
from agentopt.models.json_bytes import parse_json
from agentopt.models.openai_route import CONNECT_SECONDS, LOOPBACK

OF_ONE_CALL = (
    *("host", "content-length", "content-type", "accept-encoding", "connection", "transfer-encoding"),
    *("user-agent", "anthropic-beta"),
)
"""Headers of a direct call that are not those of its batch."""
PAGES = 10
"""Most pages of a list of batches that are read, with 100 batches each."""
LARGEST_LINE = LARGEST_BODY
"""Most bytes of one result."""


class BatchHttp:
    """The HTTP client of one model's batches, with the address, query and headers of a direct call.

    Args:
        direct: The HTTP request of a direct call.
        timeout: Seconds without a byte after which a call fails.
    """

    def __init__(self, direct: httpx.Request, timeout: float) -> None:
        self._direct = direct.url
        headers = {name: value for name, value in direct.headers.items() if name not in OF_ONE_CALL}
        self._client = httpx.AsyncClient(
            headers={**headers, "User-Agent": "agentopt", "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout)),
            # A redirect would send the key and the prompts to another host.
            follow_redirects=False,
            trust_env=direct.url.host not in LOOPBACK,
        )

    def url(self, path: str) -> httpx.URL:
        """Return an address at the host of a direct call, with its query."""
        return self._direct.copy_with(path=path)

    async def call(self, method: str, url: httpx.URL, **options: Any) -> dict[str, Any]:
        """Make one call, and return the JSON object it is answered with.

        Args:
            method: HTTP method.
            url: See `url`.
            options: `content`, `files`, `data`, `json` or `headers` of httpx.

        Raises:
            httpx.HTTPError: The call was refused, or the connection failed.
            MalformedResponseError: The body is not a JSON object, or too large.
        """
        async with self._client.stream(method, url, **options) as response:
            await self._check(response)
            answer = parse_json(await _read(response))
        if not isinstance(answer, dict):
            raise MalformedResponseError(f"expected a JSON object, but got {type(answer).__name__}")
        return answer

    async def pages(self, url: httpx.URL, cursor: str) -> AsyncGenerator[dict[str, Any], None]:
        """Return the objects of a list, newest first, page by page.

        Args:
            url: Address of the list.
            cursor: Name of the parameter that holds the id of the last object of the page before.

        Raises:
            httpx.HTTPError: A call was refused, or the connection failed.
        """
        query = {"limit": "100"}
        for _ in range(PAGES):
            page = await self.call("GET", url.copy_merge_params(query))
            found = list(objects(page))
            for one in found:
                yield one
            if not found or not page.get("has_more"):
                return
            query[cursor] = id_of(found[-1])

    async def lines(self, url: httpx.URL) -> AsyncGenerator[bytes, None]:
        """Stream the lines of a file. A line of more than `LARGEST_LINE` bytes is left out.

        Raises:
            httpx.HTTPError: The call was refused, or the connection failed.
        """
        async with self._client.stream("GET", url) as response:
            await self._check(response)
            line, is_too_long = bytearray(), False
            async for part in response.aiter_raw():
                *ends, rest = part.split(b"\n")
                for end in ends:
                    if (line or end) and not is_too_long and len(line) + len(end) <= LARGEST_LINE:
                        yield bytes(line) + end
                    line, is_too_long = bytearray(), False
                is_too_long = is_too_long or len(line) + len(rest) > LARGEST_LINE
                line = bytearray() if is_too_long else line + rest
            if line:
                yield bytes(line)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _check(self, response: httpx.Response) -> None:
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            raise MalformedResponseError(f"the body has the encoding {encoding}, but none was requested")
        if not response.is_success:
            headers = {k: v for k, v in response.headers.items() if k not in ("content-length", "transfer-encoding")}
            body = (await _read(response, is_refusal=True))[:LARGEST_BODY]
            read = httpx.Response(response.status_code, headers=headers, content=body, request=response.request)
            raise httpx.HTTPStatusError(f"HTTP {response.status_code}", request=response.request, response=read)


async def _read(response: httpx.Response, *, is_refusal: bool = False) -> bytes:
    received = bytearray()
    async for part in response.aiter_raw():
        received += part
        if len(received) > LARGEST_BODY:
            if is_refusal:
                break
            raise MalformedResponseError(f"the body is larger than {LARGEST_BODY >> 20} MiB")
    return bytes(received)
