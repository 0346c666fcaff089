"""The limits of a server: of its connections, their time-outs, and the calls in flight."""

from __future__ import annotations

import resource
from dataclasses import dataclass

from agentopt.core.errors import UserError


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Limits of one server.

    Attributes:
        body_bytes: Most bytes of a request body.
        in_flight: Most concurrent calls.
        seconds: Most seconds per call.
        per_key: Most concurrent calls with one API key; None for no limit of its own.
        connections: Most open connections; half of the process's descriptors if that is less.
        first_byte_seconds: Most seconds from a connection, or its TLS handshake, to the first byte of a request.
        head_seconds: Most seconds from the first byte of a request to the end of its headers.
        body_seconds: Most seconds from there to the end of its body.
        drain_seconds: Most seconds for which calls in flight are completed after SIGTERM.
    """

    body_bytes: int = 2**20
    in_flight: int = 256
    seconds: float = 300.0
    per_key: int | None = None
    connections: int = 1000
    first_byte_seconds: float = 10.0
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    drain_seconds: float = 300.0


DEFAULT_LIMITS = ServerLimits()


def most_connections(limits: ServerLimits) -> int:
    """Return how many connections may be open: the other half of the descriptors is for model calls and files."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limits.connections if descriptors == resource.RLIM_INFINITY else min(limits.connections, descriptors // 2)


def check_limits(limits: ServerLimits) -> None:
    """Raise `UserError` if calls in flight would leave no connection to a health check."""
    most = most_connections(limits)
    if limits.in_flight >= most:
        rule = f"a server needs more connections than calls in flight, but got {most} connections"
        remedy = "raise --max-connections, and `ulimit -n` to twice of it, or lower --max-in-flight"
        raise UserError(f"{rule} and {limits.in_flight} calls", remedy=remedy)
