"""Owns what a failed call to a hosted model means: worth another attempt or not, paid for or not, how long to wait.

Clients wrap one another's exceptions (litellm around openai around httpx around aiohttp) and lose facts on the way:
litellm gives a refused connection the status 500 and an Anthropic 529 too. So the facts are read from the innermost
exceptions, and the outer ones are only asked where nothing inside tells.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime

import aiohttp
import httpx

from agentopt.core.errors import MalformedResponseError, ModelError, PermanentModelError, TransientModelError
from agentopt.models.redaction import redact

TRANSIENT_STATUSES = frozenset({408, 409, 425, 429})
"""Of the statuses below 500; all from 500 on are transient too."""

LONGEST_MESSAGE = 300
"""Characters of the provider's message that are passed on."""

NEVER_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    httpx.ConnectError,
    httpx.PoolTimeout,
    ConnectionRefusedError,
    socket.gaierror,
)
BAD_ADDRESS = (httpx.UnsupportedProtocol, httpx.InvalidURL, aiohttp.InvalidURL)
BROKEN = (httpx.HTTPError, aiohttp.ClientError, TimeoutError, ConnectionError)
TIMED_OUT = (TimeoutError, httpx.TimeoutException)

REMEDIES = {
    401: "; remedy: check the API key",
    403: "; remedy: check what the API key may use",
    404: "; remedy: check the model's name and its base_url in the catalogue",
}
CONTEXT_OVERFLOW = re.compile(r"context.{0,10}(length|window|size)|exceeds? the available context", re.I | re.S)
NO_CREDIT = re.compile("insufficient_quota|credit balance is too low", re.I)


def links(error: BaseException, outside: BaseException | None = None) -> Iterator[BaseException]:
    """`error` and what it was raised from, outermost first, up to `outside`, which was being handled before."""
    link: BaseException | None = error
    while link is not None and link is not outside:
        yield link
        link = link.__cause__ or link.__context__


def model_error(
    error: Exception, *, who: str, secrets: tuple[str, ...] = (), outside: BaseException | None = None
) -> ModelError | None:
    """What `error` means for the call, or None where it is no failed call but a defect.

    `who` opens the message; `secrets` are struck out of it. `outside` is the exception that was being handled
    when the call began: no part of this failure.
    """
    chain = list(links(error, outside))

    def message(text: str) -> str:
        return readable(f"{who}: {text}", secrets)

    if response := _response(chain):
        return _from_response(response, message)
    if found := _innermost(chain, BAD_ADDRESS):
        return PermanentModelError(message(f"not an address that can be called: {found}"), kind="bad address")
    if found := _innermost(chain, NEVER_SENT):
        return TransientModelError(message(f"no connection ({found})"), kind="no connection")
    if found := _innermost(chain, (json.JSONDecodeError, MalformedResponseError)):
        text = message(f"the answer is not a completion ({found})")
        return TransientModelError(text, billed=True, kind="malformed body")
    if found := _innermost(chain, BROKEN):
        return _broken(found, message)
    return _from_client_library(error, message)


def retry_after(headers: Mapping[str, str], *, now: Callable[[], float] = time.time) -> float | None:
    """Seconds the provider asks to wait: `retry-after-ms`, or `Retry-After` in seconds or as an HTTP date.

    `now` gives seconds since 1970. None where nothing readable was asked for; a date that is past is 0.
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    asked = headers.get("retry-after")
    if asked is None or (seconds := _number(asked)) is not None:
        return seconds if asked is not None else None
    try:
        return max(0.0, parsedate_to_datetime(asked).timestamp() - now())
    except ValueError:
        return None


def readable(text: str, secrets: tuple[str, ...]) -> str:
    """One line without secrets, cut to a length that fits a terminal and a log."""
    # litellm puts a whole traceback into some messages.
    text = " ".join(redact(text, secrets).split("Traceback (most recent call last)")[0].split())
    return text if len(text) <= LONGEST_MESSAGE else f"{text[: LONGEST_MESSAGE - 3]}..."


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch(r"\s*\d+(\.\d*)?\s*", text) else None


def _innermost(chain: list[BaseException], kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    return next((link for link in reversed(chain) if isinstance(link, kinds)), None)


def _response(chain: list[BaseException]) -> httpx.Response | None:
    """The HTTP error response that came over the wire. litellm's own exceptions carry invented ones."""
    for link in chain:
        if isinstance(link, httpx.HTTPStatusError):
            return link.response
    return None


def _from_response(response: httpx.Response, message: Callable[[str], str]) -> ModelError:
    status, said = response.status_code, _provider_message(response)
    kind = f"HTTP {status}"
    if _is_transient(status, said):
        return TransientModelError(message(f"{kind}: {said}"), kind=kind, retry_after=retry_after(response.headers))
    return PermanentModelError(message(f"{kind}: {said}") + REMEDIES.get(status, ""), kind=kind)


def _broken(found: BaseException, message: Callable[[str], str]) -> ModelError:
    if isinstance(found, TIMED_OUT):
        text = message("no answer within the model's timeout_seconds")
        return TransientModelError(text, billed=True, kind="timeout")
    text = message(f"the connection broke ({found or type(found).__name__})")
    return TransientModelError(text, billed=True, kind="connection dropped")


def _is_transient(status: int, said: str) -> bool:
    # Some servers answer an overlong prompt with a 500, and an empty account with a 429: neither heals by waiting.
    heals = not NO_CREDIT.search(said) and not (status >= 500 and CONTEXT_OVERFLOW.search(said))
    return heals and (status in TRANSIENT_STATUSES or status >= 500)


def _provider_message(response: httpx.Response) -> str:
    try:
        body = response.text
    except httpx.ResponseNotRead:
        return response.reason_phrase
    try:
        error = json.loads(body)["error"]
        parts = (error.get("message"), error.get("code")) if isinstance(error, dict) else (error,)
        return " ".join(str(part) for part in parts if part)
    except (ValueError, KeyError, TypeError):
        return body or response.reason_phrase


def _from_client_library(error: Exception, message: Callable[[str], str]) -> ModelError | None:
    """Where nothing inside tells: what openai or litellm made of it, such as a key that is not set."""
    if type(error).__module__.partition(".")[0] not in ("openai", "litellm"):
        return None
    status = getattr(error, "status_code", None)
    text = message(f"{type(error).__name__}: {error}")
    if isinstance(status, int) and not _is_transient(status, str(error)):
        return PermanentModelError(text)
    # Nothing broke on the wire and no status came over it, so what came was an answer it could not read.
    return TransientModelError(text, billed=True, kind="malformed body")
