"""The batch interface of OpenAI and of endpoints compatible with it: files of JSON lines, executed within 24 hours."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
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
    objects,
)

STATES: Mapping[str, BatchState] = {
    "completed": "ended",
    "expired": "expired",
    "cancelled": "cancelled",
    "failed": "refused",
}
"""The provider's state -> ours; any other one is waiting."""
LABEL = "agentopt"
"""Key of a batch's label in its metadata."""
QUEUE_FULL = ("token_limit_exceeded", "rate_limit_exceeded")
"""Codes of a batch that was refused because of the batches that wait before it."""


class OpenAIBatches:
    """Batches at an OpenAI-compatible endpoint.

    Args:
        direct: The HTTP request of a direct call, such as to `.../v1/chat/completions`.
        timeout: Seconds without a byte after which a call fails.
    """

    most_requests = 50_000
    most_bytes = 200_000_000
    parts = (b"", b"\n", b"\n")

    def __init__(self, direct: httpx.Request, timeout: float) -> None:
        self._http = BatchHttp(direct, timeout)
        path = direct.url.path
        end = next(end for end in ("/chat/completions", "/completions", "/responses") if path.endswith(end))
        self._base, self._endpoint = path.removesuffix(end), f"/v1{end}"

    def entry(self, custom_id: str, direct: httpx.Request) -> Entry:
        """Convert the HTTP request of a direct call."""
        head = json.dumps({"custom_id": custom_id, "method": "POST", "url": self._endpoint})[:-1]
        return Entry(head.encode() + b', "body": ' + direct.content + b"}")

    async def upload(self, file: IO[bytes]) -> str:
        file.seek(0)
        url = self._http.url(f"{self._base}/files")
        content = {"file": ("batch.jsonl", file, "application/jsonl")}
        return id_of(await self._http.call("POST", url, data={"purpose": "batch"}, files=content))

    async def create(self, file: IO[bytes], file_id: str, headers: Mapping[str, str], label: str) -> str:
        body = {"input_file_id": file_id, "endpoint": self._endpoint, "completion_window": "24h"}
        url = self._http.url(f"{self._base}/batches")
        return id_of(await self._http.call("POST", url, json={**body, "metadata": {LABEL: label}}, headers=headers))

    async def find(self, label: str, custom_ids: frozenset[str]) -> Lookup:
        async with aclosing(self._http.pages(self._http.url(f"{self._base}/batches"), "after")) as batches:
            async for batch in batches:
                if isinstance(batch.get("metadata"), dict) and batch["metadata"].get(LABEL) == label:
                    return Lookup(id_of(batch))
        return Lookup()

    async def status(self, batch_id: str) -> BatchStatus:
        batch = await self._http.call("GET", self._url(batch_id))
        counts = batch.get("request_counts")
        counts = counts if isinstance(counts, dict) else {}
        files = (batch.get(name) for name in ("output_file_id", "error_file_id"))
        return BatchStatus(
            STATES.get(str(batch.get("status")), "waiting"),
            count(counts.get("completed")) + count(counts.get("failed")),
            count(counts.get("total")),
            tuple(file for file in files if isinstance(file, str) and file),
            _refusal(batch.get("errors")),
        )

    async def results(self, batch_id: str, status: BatchStatus) -> AsyncGenerator[Raw, None]:
        for file in status.files:
            url = self._http.url(f"{self._base}/files/{in_path(file)}/content")
            async with aclosing(self._http.lines(url)) as lines:
                async for line in lines:
                    if raw := _raw(line):
                        yield raw

    async def cancel(self, batch_id: str) -> None:
        await self._http.call("POST", self._url(batch_id, "/cancel"))

    async def aclose(self) -> None:
        await self._http.aclose()

    def _url(self, batch_id: str, end: str = "") -> httpx.URL:
        return self._http.url(f"{self._base}/batches/{in_path(batch_id)}{end}")


def _refusal(errors: Any) -> dict[str, Any]:
    """The first error of a batch that was refused, whose code is a status if the batch may be submitted again."""
    first = next(objects(errors), {}) if isinstance(errors, dict) else {}
    return {**first, "code": "429"} if first.get("code") in QUEUE_FULL else first


def _raw(line: bytes) -> Raw | None:
    """Read one line; None if it cannot be assigned to a request."""
    if (result := identified(line)) is None:
        return None
    custom_id, response, error = result["custom_id"], result.get("response"), result.get("error")
    if isinstance(response, dict):
        return Raw(custom_id, "answered", count(response.get("status_code")) or 200, as_body(response.get("body")))
    match error.get("code") if isinstance(error, dict) else None:
        case "batch_expired":
            return Raw(custom_id, "expired")
        case "batch_cancelled":
            return Raw(custom_id, "cancelled")
        case _:
            return Raw(custom_id, "answered", 200, as_body({"error": error}))
