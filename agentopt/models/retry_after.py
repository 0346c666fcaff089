"""The wait that a provider requests (`Retry-After`): how it is read, and when it is too long."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from agentopt.core.errors import PermanentModelError, TransientModelError
from agentopt.models.catalog import ModelSpec

DATES = (1.6e9, 1e11)
"""A number of seconds in this range (2020 or later) is a time since 1970; 1000 times it, one in milliseconds."""
UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
"""Seconds of the units of a duration."""
DURATION_PART = r"(\d{1,9}(?:\.\d{0,9})?) ?(ms|[dhms])(?:econds?|ec|inutes?|ours?|ays?)?(?![a-z])"


def retry_after(
    headers: Mapping[str, str], *, is_rate_limit: bool = False, now: Callable[[], float] = time.time
) -> float | None:
    """Read how long the provider requests to wait.

    Args:
        headers: With `retry-after-ms`, or `Retry-After` in seconds, as a duration such as `1m30s`, or as a date. The
            names are looked up in lower case.
        is_rate_limit: Whether the headers of a limit on the rate, such as `x-ratelimit-reset`, are read if there is
            neither.
        now: Seconds since 1970.

    Returns:
        Seconds; 0 for a date in the past, None if there is no readable header.
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    wait = _wait(headers.get("retry-after", ""), now)
    if wait is None and is_rate_limit:
        resets = [_wait(headers.get(name, ""), now) for name in _reset_headers(headers)]
        wait = max((reset for reset in resets if reset is not None), default=None)
    return wait


def retry_headers(error: Mapping[str, Any]) -> dict[str, str]:
    """Return what an error object has in place of headers: OpenRouter's `metadata.headers`, Google's `retryDelay`."""
    metadata, details = error.get("metadata"), error.get("details")
    given = metadata.get("headers") if isinstance(metadata, Mapping) else None
    found = {str(name).lower(): str(value) for name, value in given.items()} if isinstance(given, Mapping) else {}
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping) and isinstance(detail.get("retryDelay"), str):
            found["retry-after"] = detail["retryDelay"]
    return found


def _reset_headers(headers: Mapping[str, str]) -> Iterator[str]:
    """Names of the headers with the end of a limit that was reached: one of requests or of tokens only if none is left.

    OpenAI's are `x-ratelimit-remaining-tokens` and `x-ratelimit-reset-tokens`, Anthropic's
    `anthropic-ratelimit-tokens-remaining` and `anthropic-ratelimit-tokens-reset`.
    """
    yield from ("x-ratelimit-reset", "x-ratelimit-reset-after", "ratelimit-reset")
    for what in ("requests", "tokens", "input-tokens", "output-tokens"):
        for name in (f"x-ratelimit-{{}}-{what}", f"anthropic-ratelimit-{what}-{{}}"):
            if headers.get(name.format("remaining"), "").strip() == "0":
                yield name.format("reset")


def _wait(value: str, now: Callable[[], float]) -> float | None:
    """Seconds of a header's value: a number, a duration, a date, or a time in seconds or milliseconds since 1970."""
    if (seconds := _number(value)) is not None:
        epoch = next((seconds / unit for unit in (1, 1000) if DATES[0] <= seconds / unit < DATES[1]), None)
        return seconds if epoch is None else max(0.0, epoch - now())
    if (duration := _duration(value)) is not None:
        return duration
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        with suppress(ValueError, OverflowError):
            date = read(value.strip())
            return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now())
    return None


def _duration(text: str) -> float | None:
    """Seconds of a duration such as `1h0m0.5s`, `6ms` or `120 seconds`; None if it is not one."""
    parts = re.findall(DURATION_PART, text)
    if not parts or not re.fullmatch(rf"\s*(?:{DURATION_PART}\s*)+", text):
        return None
    return sum(float(number) * UNITS[unit] for number, unit in parts)


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
    return float(text) if text is not None and re.fullmatch(r"\s*\+?\d+(\.\d*)?\s*", text) else None
