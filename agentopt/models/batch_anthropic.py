"""The batch interface of Anthropic: message batches, executed within 24 hours."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import IO, Any

import httpx

from agentopt.models.batch_http import BatchHttp
from agentopt.models.batch_provider import (
    BatchState,
    BatchStatus,
    Entry,
    Lookup,
    Raw,
    as_body,
    count,
    id_of,
    identified,
    in_path,
)

STATUS_OF_ERROR: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Type of an error -> the HTTP status that a direct call has."""
BETA = "anthropic-beta"
"""Header that names the features in use; a batch needs those of all its requests."""
PIECE = 1 << 20
"""Bytes of the file that are sent at once."""


class AnthropicBatches:
    """Message batches of Anthropic. They have no labels, and are found by their requests.

    Args:
        direct: The HTTP request of a direct call, to `.../v1/messages`.
        timeout: Seconds without a byte after which a call fails.
    """

    most_requests = 100_000
    most_bytes = 256_000_000
    parts = (b'{"requests": [', b",\n", b"]}")

    def __init__(self, direct: httpx.Request, timeout: float) -> None:
        self._http = BatchHttp(direct, timeout)
        self._base = f"{direct.url.path}/batches"

    def entry(self, custom_id: str, direct: httpx.Request) -> Entry:
        """Convert the HTTP request of a direct call."""
        head = json.dumps({"custom_id": custom_id})[:-1].encode()
        headers = {BETA: direct.headers[BETA]} if BETA in direct.headers else {}
        return Entry(head + b', "params": ' + direct.content + b"}", headers)

    async def upload(self, file: IO[bytes]) -> str:
        return ""

    async def create(self, file: IO[bytes], file_id: str, headers: Mapping[str, str], label: str) -> str:
        size = file.seek(0, 2)
        file.seek(0)
        sized = {**headers, "Content-Type": "application/json", "Content-Length": str(size)}
        return id_of(await self._http.call("POST", self._http.url(self._base), content=_pieces(file), headers=sized))

    async def find(self, label: str, custom_ids: frozenset[str]) -> Lookup:
        """Look for the batch with these requests. They are known by its results, so when it has ended."""
        is_open = False
        async with aclosing(self._http.pages(self._http.url(self._base), "after_id")) as batches:
            async for batch in batches:
                status = _status_of(batch)
                if status.state == "lost" or status.total != len(custom_ids):
                    continue
                if status.state == "waiting":
                    is_open = True
                elif await self._has_one_of(id_of(batch), status, custom_ids):
                    return Lookup(id_of(batch))
        return Lookup(is_open=is_open)

    async def status(self, batch_id: str) -> BatchStatus:
        return _status_of(await self._http.call("GET", self._url(batch_id)))

    async def results(self, batch_id: str, status: BatchStatus) -> AsyncGenerator[Raw, None]:
        # Not the address in `results_url`: the key is sent to no host that a response names.
        async with aclosing(self._http.lines(self._url(batch_id, "/results"))) as lines:
            async for line in lines:
                if raw := _raw(line):
                    yield raw

    async def cancel(self, batch_id: str) -> None:
        await self._http.call("POST", self._url(batch_id, "/cancel"))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _has_one_of(self, batch_id: str, status: BatchStatus, custom_ids: frozenset[str]) -> bool:
        async with aclosing(self.results(batch_id, status)) as results:
            async for raw in results:
                return raw.custom_id in custom_ids
        return False

    def _url(self, batch_id: str, end: str = "") -> httpx.URL:
        return self._http.url(f"{self._base}/{in_path(batch_id)}{end}")


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    while piece := file.read(PIECE):
        yield piece


def _status_of(batch: Mapping[str, Any]) -> BatchStatus:
    counts = batch.get("request_counts")
    found = {name: count(number) for name, number in counts.items()} if isinstance(counts, dict) else {}
    total = sum(found.values())
    state: BatchState = "ended" if batch.get("processing_status") == "ended" else "waiting"
    return BatchStatus("lost" if batch.get("archived_at") else state, total - found.get("processing", 0), total)


def _raw(line: bytes) -> Raw | None:
    """Read one line; None if it cannot be assigned to a request."""
    if (answer := identified(line)) is None:
        return None
    custom_id, result = answer["custom_id"], answer.get("result")
    result = result if isinstance(result, dict) else {}
    match result.get("type"):
        case "succeeded":
            return Raw(custom_id, "answered", 200, as_body(result.get("message")))
        case "expired":
            return Raw(custom_id, "expired")
        case "canceled":
            return Raw(custom_id, "cancelled")
        case _:
            return Raw(custom_id, "answered", _status(result.get("error")), as_body(result.get("error")))


def _status(error: Any) -> int:
    inner = error.get("error") if isinstance(error, dict) else None
    # Some errors come without the envelope that direct calls have.
    kind = (inner if isinstance(inner, dict) else error if isinstance(error, dict) else {}).get("type")
    return STATUS_OF_ERROR.get(str(kind), 500)
