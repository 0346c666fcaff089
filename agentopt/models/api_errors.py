"""Classifies a failed call to a hosted model: worth another attempt or not, charged or not, how long to wait.

Clients wrap each other's exceptions (litellm around openai around httpx around aiohttp) and lose facts on the way:
litellm assigns the status 500 to a refused connection and to an Anthropic 529. So the facts are read from the innermost
exceptions, and from the outer ones only if the inner ones have none.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp
import httpx

from agentopt.core.errors import (
    MalformedResponseError,
    ModelError,
    PermanentModelError,
    TransientModelError,
    UnsupportedParameterError,
)
from agentopt.core.unicode_text import well_formed
from agentopt.models.http_refusals import classify, refused_parameter, requested_wait
from agentopt.models.json_bytes import unwrap_error
from agentopt.models.provider_error_codes import Meaning, meaning_of
from agentopt.models.redaction import redact
from agentopt.models.response_body import error_in, error_object, error_text, page_text
from agentopt.models.retry_after import retry_after, retry_headers

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
BAD_REQUEST = (httpx.LocalProtocolError, UnicodeEncodeError)
"""The request could not be written, for example because of a character in a header."""
BROKEN = (httpx.HTTPError, aiohttp.ClientError, TimeoutError, ConnectionError)
TIMED_OUT = (TimeoutError, httpx.TimeoutException)

NO_KEY_SENT = "the entry sends no API key, set api_key_env to the variable of one"
REMEDIES: Mapping[Meaning | None, str] = {
    401: "check the API key",
    402: "add credit to the account",
    403: "check the permissions of the API key",
    404: "check the model's name and its base_url in the catalogue",
    **dict.fromkeys((301, 302, 303, 307, 308), "redirects are not followed, correct base_url"),
}


def links(error: BaseException, outside: BaseException | None = None) -> Iterator[BaseException]:
    """Yield `error` and what it was raised from, outermost first.

    Args:
        error: The exception.
        outside: Where to end: the exception that was being handled before.
    """
    link: BaseException | None = error
    while link is not None and link is not outside:
        yield link
        link = link.__cause__ or link.__context__


def model_error(
    error: Exception,
    *,
    who: str,
    body: Mapping[str, Any] | None = None,
    secrets: tuple[str, ...] = (),
    has_key: bool = True,
    outside: BaseException | None = None,
) -> ModelError | None:
    """Convert the failure of a call.

    Args:
        error: What the client raised.
        who: Names the model; starts the message.
        body: The body that was sent, for the parameter that a refusal names.
        secrets: Redacted from the message.
        has_key: Whether a key was sent, for the remedy.
        outside: The exception that was being handled when the call began: not part of this failure.

    Returns:
        The failure; None if the exception is not a failed call but a defect.
    """
    chain = list(links(error, outside))
    describe = _Describe(who, secrets, has_key)
    if response := _response(chain):
        return _from_response(response, body or {}, describe)
    if isinstance(malformed := _innermost(chain, (MalformedResponseError,)), MalformedResponseError):
        return _from_body(malformed, body or {}, describe)
    if found := _innermost(chain, (*BAD_ADDRESS, *BAD_REQUEST)):
        what = "not an address that can be called" if isinstance(found, BAD_ADDRESS) else "the request cannot be sent"
        kind = "bad address" if isinstance(found, BAD_ADDRESS) else "bad request"
        return PermanentModelError(describe(f"{what}: {found}"), kind=kind, scope="model", sent=False)
    if found := _innermost(chain, NEVER_SENT):
        return TransientModelError(describe(f"no connection ({found})"), kind="no connection", sent=False)
    if found := _innermost(chain, (json.JSONDecodeError,)):
        text = describe(f"the answer is not a completion ({found})")
        return TransientModelError(text, billed=True, kind="malformed body")
    if found := _innermost(chain, BROKEN):
        return _broken(found, describe)
    return _from_client_library(error, describe)


def readable(text: str, secrets: tuple[str, ...]) -> str:
    """Shorten a message to one line without secrets that fits a terminal and a log."""
    # litellm appends whole tracebacks to some messages.
    text = " ".join(well_formed(redact(text, secrets)).split("Traceback (most recent call last)")[0].split())
    return text if len(text) <= LONGEST_MESSAGE else f"{text[: LONGEST_MESSAGE - 3]}..."


class _Describe:
    """Builds messages that start with the model's name and have no secrets."""

    def __init__(self, who: str, secrets: tuple[str, ...], has_key: bool) -> None:
        self._who, self._secrets, self._has_key = who, secrets, has_key

    def __call__(self, text: str) -> str:
        return readable(f"{self._who}: {text}", self._secrets)

    def words(self, text: str) -> str:
        return readable(text, self._secrets)

    def remedy(self, status: Meaning | None) -> str:
        return REMEDIES.get(status, "") if self._has_key or status != 401 else NO_KEY_SENT


def _innermost(chain: list[BaseException], kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    return next((link for link in reversed(chain) if isinstance(link, kinds)), None)


def _response(chain: list[BaseException]) -> httpx.Response | None:
    """Return the HTTP error response that was received. litellm's own exceptions carry invented ones."""
    for link in chain:
        if isinstance(link, httpx.HTTPStatusError):
            return link.response
    return None


def _from_response(response: httpx.Response, body: Mapping[str, Any], describe: _Describe) -> ModelError:
    status, error = response.status_code, _provider_error(response)
    wait = retry_after(response.headers, is_rate_limit=status == 429)
    if wait is None and (stated := retry_headers(error)):
        wait = retry_after(stated, is_rate_limit=True)
    return _refused(status, error, body, describe, label=f"HTTP {status}", wait=wait)


def _from_body(malformed: MalformedResponseError, body: Mapping[str, Any], describe: _Describe) -> ModelError:
    """Convert a response with a status of success that is an error object, or not a completion at all."""
    if malformed.error is None:
        text = describe(f"the answer is not a completion ({malformed})")
        return TransientModelError(text, billed=True, kind="malformed body", tokens=malformed.tokens)
    code = str(malformed.error.get("code") or malformed.error.get("status"))
    status = int(code) if len(code) == 3 and code.isdecimal() and code >= "400" else None
    label = f"HTTP {status}" if status else "error in the response"
    failure = _refused(status, malformed.error, body, describe, label=label, wait=None)
    failure.tokens = malformed.tokens
    return failure


def _refused(
    status: int | None,
    error: Mapping[str, Any],
    body: Mapping[str, Any],
    describe: _Describe,
    *,
    label: str,
    wait: float | None,
) -> ModelError:
    words, param = error_text(error), error.get("param")
    plain = re.sub(rf"^{status}\b[:\s]*(?=\w)", "", words)  # "404: Not Found", as aiohttp's page has it
    text, said = describe(f"{label}: {plain}"), describe.words(words)
    meaning = meaning_of(error, status)
    parameter = refused_parameter(words, param if isinstance(param, str) else None, body)
    if parameter and meaning in (None, 400, 404, 405, 415, 422, 501):
        return UnsupportedParameterError(text, parameter=parameter, kind=label, provider_message=said)
    refusal = classify(meaning, words, kind=label)
    if refusal.scope == "transient":
        if wait is None and meaning in (429, 503):
            wait = requested_wait(words)
        return TransientModelError(text, retry_after=wait, kind=refusal.kind, provider_message=said)
    if refusal.scope == "model" and (remedy := describe.remedy(meaning)):
        text += f"; {remedy}"
    return PermanentModelError(text, kind=refusal.kind, scope=refusal.scope, provider_message=said)


def _broken(found: BaseException, describe: _Describe) -> ModelError:
    if isinstance(found, TIMED_OUT):
        text = describe("no answer within the model's timeout_seconds")
        return TransientModelError(text, billed=True, kind="timeout")
    text = describe(f"the connection broke ({found or type(found).__name__})")
    return TransientModelError(text, billed=True, kind="connection dropped")


def _provider_error(response: httpx.Response) -> Mapping[str, Any]:
    """Return the error object of an error response."""
    try:
        content = response.content
    except httpx.ResponseNotRead:
        return {"message": response.reason_phrase}
    try:
        error = error_in(unwrap_error(json.loads(content)))
    except (ValueError, AttributeError, RecursionError):
        error = None
    return error_object(error or page_text(content) or response.reason_phrase)


def _from_client_library(error: Exception, describe: _Describe) -> ModelError | None:
    """Convert an exception of openai or litellm with nothing inside, such as a key that is not set."""
    if type(error).__module__.partition(".")[0] not in ("openai", "litellm"):
        return None
    status = getattr(error, "status_code", None)
    text, words = describe(f"{type(error).__name__}: {error}"), describe.words(str(error))
    if isinstance(status, int) and (refusal := classify(status, str(error), kind="failed")).scope != "transient":
        # No response came, so the library refused the request itself.
        return PermanentModelError(text, scope=refusal.scope, provider_message=words, sent=False)
    # Nothing broke on the wire and no status was received, so the library could not read the answer.
    return TransientModelError(text, billed=True, kind="malformed body", provider_message=words)
