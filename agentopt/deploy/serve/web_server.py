"""uvicorn's server with bounds for strangers: on the number of connections, and on the time that a client may take.

Connections are accepted here instead of by asyncio, which accepts until no descriptor is left, and does not count those
in a TLS handshake.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from agentopt.deploy.serve.limits import ServerLimits, most_connections
from agentopt.deploy.serve.open_connections import OpenConnections

KEEP_ALIVE_SECONDS = 75
"""Idle time of connections: longer than that of clients, so that none is closed during a request."""

RETRY_ACCEPT_SECONDS = 0.05
"""Pause after a connection that could not be accepted, such as without a descriptor left."""

UNREAD_SECONDS = 30.0
"""Most seconds for which a client may leave an answer unread whose beginning fills the buffers."""

LATE = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Connection(H11Protocol):
    """One connection, which is closed if its client takes too long.

    Args:
        config: uvicorn's configuration.
        state: uvicorn's state of the server.
        connections: Counts connections.
        limits: The limits.

    Attributes:
        opening: Makes the connection, with its TLS handshake.
    """

    opening: asyncio.Task[None]

    def __init__(
        self, config: uvicorn.Config, state: ServerState, connections: OpenConnections, limits: ServerLimits
    ) -> None:
        super().__init__(config, state, {})
        self._connections, self._phase = connections, ""
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._seconds = {
            "first byte": limits.first_byte_seconds,
            "head": limits.head_seconds,
            # The application refuses a late body itself; this closes connections whose body it does not read.
            "body": limits.body_seconds + 1,
            "idle": KEEP_ALIVE_SECONDS + 1,
            "closing": limits.first_byte_seconds,
        }

    def drop(self) -> None:
        """Close the connection at once."""
        if self.transport is None:
            self.opening.cancel()
        else:
            self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Wait for the first byte."""
        super().connection_made(transport)
        self._enter("first byte")

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        super().data_received(data)
        self._track()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._track()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        super().connection_lost(exc)
        self._connections.leave(self)
        for timer in (self._timer, self._unread, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        """Wait for the client to read."""
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Write on."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def _track(self) -> None:
        phase = self._current()
        if phase != self._phase:
            self._enter(phase)

    def _current(self) -> str:
        if self.conn.their_state is h11.SEND_BODY:
            return "body"
        if self.cycle is not None and not self.cycle.response_complete:
            return "answer"
        if self.conn.our_state is not h11.IDLE:
            return "closing"
        return "head" if self.conn.trailing_data[0] else "idle"

    def _enter(self, phase: str) -> None:
        self._phase = phase
        if self._timer is not None:
            self._timer.cancel()
        if phase == "answer":
            self._connections.works(self)
            return
        self._connections.waits(self)
        self._timer = self.loop.call_later(self._seconds[phase], self._late)

    def _late(self) -> None:
        if self._phase == "head":
            self.transport.write(LATE)
            self.transport.close()
            self._enter("closing")
        else:
            self.transport.abort()


class WebServer(uvicorn.Server):
    """uvicorn's server, which accepts at most `limits.connections`, and ends on a signal without raising it again.

    Args:
        app: The ASGI application.
        limits: The limits.
        tls: uvicorn's settings of TLS, such as `ssl_certfile`; empty for plain HTTP.
        on_drain: Called when the server accepts no more.
        on_deadline: Called when the time to complete calls is up.
    """

    def __init__(
        self,
        app: Any,
        limits: ServerLimits,
        tls: dict[str, Any],
        *,
        on_drain: Callable[[], None],
        on_deadline: Callable[[], None],
    ) -> None:
        config = uvicorn.Config(
            app,
            http=Connection,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            # The deadline has ended the calls before; what is left is a client that does not read its answer.
            timeout_graceful_shutdown=int(limits.drain_seconds) + 2,
            **tls,
        )
        super().__init__(config)
        self._limits, self._connections = limits, OpenConnections(most_connections(limits))
        self._on_drain, self._on_deadline = on_drain, on_deadline

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections."""
        await self.lifespan.startup()
        self.servers: list[asyncio.base_events.Server] = []
        self._accepting = [asyncio.create_task(self._accept(listener)) for listener in sockets or []]
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and complete the calls in flight until the deadline."""
        for task in self._accepting:
            task.cancel()
        self._on_drain()
        deadline = asyncio.get_running_loop().call_later(self._limits.drain_seconds, self._on_deadline)
        try:
            await super().shutdown(sockets)
        finally:
            deadline.cancel()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals, without raising them again at the end, so that the session can be closed."""
        before = {sign: signal.signal(sign, self.handle_exit) for sign in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sign, handler in before.items():
                signal.signal(sign, handler)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError:  # the client has left, or no descriptor is left
                self._connections.make_room()
                await asyncio.sleep(RETRY_ACCEPT_SECONDS)
                continue
            connection = Connection(self.config, self.server_state, self._connections, self._limits)
            if self._connections.enter(connection):
                connection.opening = asyncio.create_task(self._open(connection, client))
            else:
                client.close()
            await asyncio.sleep(0)  # `sock_accept` gives the others no turn while connections are queued

    async def _open(self, connection: Connection, client: socket.socket) -> None:
        seconds = self._limits.first_byte_seconds if self.config.ssl else None
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection, client, ssl=self.config.ssl, ssl_handshake_timeout=seconds
            )
        except OSError:  # the client has left, or its handshake failed or took too long
            self._connections.leave(connection)
            client.close()
