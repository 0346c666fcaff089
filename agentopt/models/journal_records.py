"""What is written to the journal and read from it, as records."""

from __future__ import annotations

from dataclasses import dataclass

from agentopt.core.budget import Usage
from agentopt.models.base import Request, Response


@dataclass(frozen=True, slots=True)
class Spend:
    """What the ledger has of one run.

    Attributes:
        by_purpose: Usage by purpose.
        failures: Failed attempts by kind. Calls that are in flight count as failed until they are settled, like those
            that a crash cut off.
        seconds: Wall time of its sessions.
    """

    by_purpose: dict[str, Usage]
    failures: dict[str, int]
    seconds: float


@dataclass(frozen=True, slots=True)
class Sent:
    """A call that was answered.

    Attributes:
        request: The fitted request.
        response: Its response.
        usage: What it is charged at.
        run: The run that paid for it.
    """

    request: Request
    response: Response
    usage: Usage
    run: str | None = None


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Responses of a session that came from the journal.

    Attributes:
        responses: Number of choices stored by earlier sessions.
        oldest: When the oldest was stored, in seconds since 1970; None if there is none.
        newest: When the newest was stored.
    """

    responses: int = 0
    oldest: float | None = None
    newest: float | None = None
