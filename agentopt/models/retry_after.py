"""The wait that a provider requests (`Retry-After`): how it is read, and when it is too long."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

from agentopt.core.errors import PermanentModelError, TransientModelError
from agentopt.models.catalog import ModelSpec


def retry_after(headers: Mapping[str, str], *, now: Callable[[], float] = time.time) -> float | None:
    """Read how long the provider requests to wait.

    Args:
        headers: With `retry-after-ms`, or `Retry-After` in seconds or as an HTTP date.
        now: Seconds since 1970.

    Returns:
        Seconds; 0 for a date in the past, None if there is no readable header.
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    if value is None or (seconds := _number(value)) is not None:
        return seconds if value is not None else None
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now())
    except (ValueError, OverflowError):
        return None


def too_long(error: TransientModelError, spec: ModelSpec) -> PermanentModelError | None:
    """The failure of a call whose provider requests a wait above `max_wait_seconds` of the entry; None if it is not.

    A shorter one pauses all calls to the model (`RateLimiter.pause`), and is the least before the next attempt
    (`agentopt.models.retries`).

    Args:
        error: The failed attempt.
        spec: The catalogue entry of the model.
    """
    wait = error.retry_after or 0.0
    if wait <= spec.max_wait_seconds:
        return None
    return PermanentModelError(
        f"{error}; the provider requests to wait {wait:g} s, more than max_wait_seconds "
        f"({spec.max_wait_seconds:g}) of the catalogue entry",
        kind=error.kind,
        scope="model",
        provider_message=error.provider_message,
    )


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"\s*\d+(\.\d*)?\s*", text) else None
