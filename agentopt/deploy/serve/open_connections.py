"""The open connections of a server. If there are too many, the one that has waited longest for its client is closed.

So silent or slow connections, however many, never keep a request out: only calls that are being answered hold a place.
"""

from __future__ import annotations

from typing import Protocol


class OpenConnection(Protocol):
    """A connection."""

    def drop(self) -> None:
        """Close it at once."""


class OpenConnections:
    """Counts connections.

    Args:
        most: Most open connections.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: set[OpenConnection] = set()
        self._waiting: dict[OpenConnection, None] = {}  # in the order of their waits

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: OpenConnection) -> bool:
        """Let a new connection in, which waits for its client; False if all others are being answered."""
        if len(self._open) >= self._most and not self.make_room():
            return False
        self._open.add(connection)
        self._waiting[connection] = None
        return True

    def waits(self, connection: OpenConnection) -> None:
        """Note that a connection waits for its client from now on."""
        self._waiting.pop(connection, None)
        if connection in self._open:
            self._waiting[connection] = None

    def works(self, connection: OpenConnection) -> None:
        """Note that a connection's request is complete, so that it is not closed until it is answered."""
        self._waiting.pop(connection, None)

    def leave(self, connection: OpenConnection) -> None:
        """Forget a connection that is closed."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)

    def make_room(self) -> bool:
        """Close the connection that has waited longest; False if none waits."""
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            return False
        self.leave(oldest)
        oldest.drop()
        return True
