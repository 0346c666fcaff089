"""The interface to a provider's batches, and what they consist of."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, Literal, Protocol
from urllib.parse import quote

import httpx

from agentopt.core.errors import MalformedResponseError
from agentopt.models.json_bytes import parse_json

BatchState = Literal["waiting", "ended", "expired", "cancelled", "refused", "lost"]
"""`waiting`: queued, in progress, or being cancelled. `ended`, `expired`, `cancelled`: its results can be read.
`refused`: the provider did not accept its requests. `lost`: the provider does not have it or its results any more."""


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """What a provider reports of a batch.

    Attributes:
        state: Whether its results can be read.
        done: Requests that are finished, with or without a response.
        total: Requests of the batch.
        files: Ids of the files that hold the results, if there are any.
        error: Why it was refused, as an error object of the provider.
    """

    state: BatchState
    done: int = 0
    total: int = 0
    files: tuple[str, ...] = ()
    error: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """One request as a part of the submitted file.

    Attributes:
        content: The JSON object.
        headers: Headers that the batch needs because of this request.
    """

    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Raw:
    """The result of one request as the provider sent it.

    Attributes:
        custom_id: Identifies the request in its batch.
        end: `answered`: it has a status and a body. `expired`, `cancelled`: it was not executed.
        status: HTTP status, as a direct call would have.
        body: The body, as a direct call would have.
    """

    custom_id: str
    end: Literal["answered", "expired", "cancelled"]
    status: int = 200
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Lookup:
    """The result of looking for a batch.

    Attributes:
        id: The id of the batch; None if it was not found.
        is_open: Whether a batch that has not ended may be the one.
    """

    id: str | None = None
    is_open: bool = False


class BatchProvider(Protocol):
    """The batch interface of one model's provider. One attempt per method, without retries.

    Methods raise `httpx.HTTPError` or `MalformedResponseError` if the call fails.
    """

    most_requests: int
    """Most requests of a batch."""
    most_bytes: int
    """Most bytes of its file."""
    parts: tuple[bytes, bytes, bytes]
    """Begin of the file, what separates its entries, and its end."""

    def entry(self, custom_id: str, direct: httpx.Request) -> Entry:
        """Convert the HTTP request of a direct call."""
        ...

    async def upload(self, file: IO[bytes]) -> str:
        """Store the file of a batch, and return its id; empty for a provider that receives it with the batch."""
        ...

    async def create(self, file: IO[bytes], file_id: str, headers: Mapping[str, str], label: str) -> str:
        """Create a batch.

        Args:
            file: Its file.
            file_id: What `upload` returned.
            headers: Headers that its entries need.
            label: Identifies the batch to `find`.

        Returns:
            The id of the batch.
        """
        ...

    async def find(self, label: str, custom_ids: frozenset[str]) -> Lookup:
        """Look for a batch that was created, but whose id is not known.

        Args:
            label: Its label.
            custom_ids: Those of its requests.
        """
        ...

    async def status(self, batch_id: str) -> BatchStatus:
        """Return the state of a batch."""
        ...

    def results(self, batch_id: str, status: BatchStatus) -> AsyncGenerator[Raw, None]:
        """Stream the results of a batch that ended, in any order."""
        ...

    async def cancel(self, batch_id: str) -> None:
        """Request that no further request of the batch is executed."""
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


def id_of(answer: Mapping[str, Any]) -> str:
    """Return the id in an answer.

    Raises:
        MalformedResponseError: It has none.
    """
    if isinstance(found := answer.get("id"), str) and found:
        return found
    raise MalformedResponseError(f"expected an object with an id, but got {sorted(answer)[:8]}")


def objects(page: Mapping[str, Any], key: str = "data") -> Iterator[dict[str, Any]]:
    """Return the objects of a list in an answer."""
    found = page.get(key)
    return (one for one in found if isinstance(one, dict)) if isinstance(found, list) else iter(())


def in_path(name: str) -> str:
    """Return an id that a provider assigned as one segment of a path."""
    return quote(name, safe="")


def count(value: object) -> int:
    """Return a provider's count; 0 if it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def as_body(value: object) -> bytes:
    """Return a parsed part of a result as the body of a response; empty if it is nested too deeply."""
    try:
        return json.dumps(value).encode()
    except RecursionError:
        return b""


def identified(line: bytes) -> dict[str, Any] | None:
    """Return one line of results, whose `custom_id` is a string; None if it cannot be assigned to a request."""
    try:
        result = parse_json(line)
    except MalformedResponseError:
        return None
    return result if isinstance(result, dict) and isinstance(result.get("custom_id"), str) else None
