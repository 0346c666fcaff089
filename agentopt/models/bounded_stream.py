"""Bounds the body of a response while it is received, as hooks of an httpx client that another library calls."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from agentopt.core.errors import MalformedResponseError

LARGEST_BODY = 16 * 2**20
"""Most bytes of a response after decompression."""


class BoundedStream(httpx.AsyncByteStream):
    """A body that raises `MalformedResponseError` when it becomes larger than `LARGEST_BODY` after decompression.

    Args:
        stream: The body as it is received.
        plain: Decompresses a part.
    """

    def __init__(self, stream: Any, plain: Callable[[bytes], bytes]) -> None:
        self._stream, self._plain = stream, plain

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._stream:
            try:
                size += len(self._plain(part))
            except zlib.error as error:
                raise MalformedResponseError(f"the body is not compressed as its header says: {error}") from error
            if size > LARGEST_BODY:
                raise MalformedResponseError(f"the body is larger than {LARGEST_BODY >> 20} MiB")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


async def request_uncompressed(request: httpx.Request) -> None:
    """Request a body without compression, so that its size is known while it is received."""
    request.headers["Accept-Encoding"] = "identity"


async def bound(response: httpx.Response) -> None:
    """Bound the body of a response.

    Raises:
        MalformedResponseError: The body is compressed in a way that was not requested and cannot be measured.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip"):
        raise MalformedResponseError(f"the body has the encoding {encoding}, but none was requested")
    # At most 16 + 15: a gzip header and the largest window.
    plain = zlib.decompressobj(31).decompress if encoding == "gzip" else bytes
    response.stream = BoundedStream(response.stream, plain)


HOOKS: dict[str, list[Callable[..., Any]]] = {"request": [request_uncompressed], "response": [bound]}
"""The event hooks of a client whose responses are bounded."""
