"""A call as the model client makes it: the request in the form in which it is sent, and what the client knows of it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from agentopt.models.base import Request
from agentopt.models.catalog import ModelSpec

Awaited = asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class Call:
    """A fitted request.

    Attributes:
        request: The request.
        spec: The catalogue entry of its model.
        key: Its cache key.
        is_batched: Whether it may wait for a batch.
        awaited: Ends when its caller no longer waits for it.
    """

    request: Request
    spec: ModelSpec
    key: str
    is_batched: bool = False
    awaited: Awaited | None = None

    def missing(self, found: Collection[int]) -> list[int]:
        """Return the repeat indices that are not among those found."""
        first = self.request.first_repeat
        return [repeat for repeat in range(first, first + self.request.n) if repeat not in found]
