"""What a provider's refusal means, read from its status, code and words.

Providers agree on neither statuses nor codes, so their words are matched too. Only text that came from the provider is
read here; our own messages never are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentopt.core.errors import FailureScope
from agentopt.models.provider_error_codes import Meaning

CONTENT_FILTER = re.compile(
    r"content.?filter|content.{0,20}polic(y|ies)|content management|responsible.?ai|moderation|flagged|safety|"
    r"prohibited.?content|blocked by|usage polic",
    re.IGNORECASE,
)
CONTEXT_LENGTH = re.compile(
    r"context.{0,12}(length|window|size|limit)|inputs?.{0,3} tokens \+|"
    r"exceeds? the available context|prompt is too long|too many (input )?tokens|"
    r"input.{0,20}too long|exceeded model token limit|token count.{0,40}exceeds|string_above_max_length|"
    r"maximum.{0,20}(input|prompt) (length|tokens)|reduce the length",
    re.IGNORECASE | re.DOTALL,
)
NO_CREDIT = re.compile(
    r"insufficient.?(quota|credit|balance|funds)|no credit|out of credits?|credit balance is too low|"
    r"exceeded your current quota|billing|payment required|requires more credits|account.{0,20}(suspended|deactivated)",
    re.IGNORECASE,
)
UNKNOWN_MODEL = re.compile(
    r"model.{0,80}(not found|does not exist|not exist|unknown|is not available|not supported|no such)|"
    r"(unknown|no such|invalid|unrecognized) model|model_not_found|invalid_model|not a valid model|"
    r"model.{0,80}(decommissioned|retired|shut down|identifier is invalid)|on-demand throughput isn't supported",
    re.IGNORECASE | re.DOTALL,
)
WRONG_KEY = re.compile(
    r"(invalid|incorrect|wrong|bad|missing|expired|\bno).{0,10}(api|secret).{0,8}key|(bad|wrong) key|\bauth\b|authenti|"
    r"authori[sz]|permission|access.?denied|forbidden|log.?in fail",
    re.IGNORECASE,
)
REFUSED_ACCOUNT = re.compile(
    r"api.?key.{0,12}(not valid|invalid|expired|not found)|(invalid|expired) api.?key|"
    r"(location|country|region|territory)\b.{0,20}not (supported|available|allowed)|"
    r"(organi[sz]ation|account|project|workspace) (has been|is|was) (disabled|restricted|blocked|banned)|"
    r"reached your .{0,20}usage limit",
    re.IGNORECASE,
)
"""Of the words for a wrong key or account, those that providers send with status 400, and that name nothing in a
prompt."""
OVERLOADED = re.compile(r"overloaded|too many requests|rate.?limit.{0,10}(exceeded|reached)", re.IGNORECASE)
"""Words of a failure that is transient whatever its status."""
TOO_LARGE = re.compile(r"request too large|must be reduced in order to run", re.IGNORECASE)
"""Words for one request that alone is above a limit on the rate."""
BAD_REQUEST = re.compile(r"\binvalid_(request|argument|json|param|prompt|value)|\bbad.?request", re.IGNORECASE)
UNSUPPORTED = re.compile(
    r"support|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed|extra.?(inputs|forbidden|fields)|invalid|"
    r"must be|only the default|both|not available|deprecated|does not (exist|take|accept)|cannot|can't|disallow|"
    r"not accept|not enabled|too (complex|many|deep)|refus|unable|incompatible|mutually exclusive|\bonly\b|\bno\b",
    re.IGNORECASE,
)
EXCLUSIVE = re.compile(
    r"temperature\b.{0,20}\btop_p\b.{0,40}\b(both|together|one of|only one|at the same time|simultaneous|exclusive)|"
    r"\b(both|either|one of|combin|together).{0,40}\b(temperature\b.{0,20}\btop_p|top_p\b.{0,20}\btemperature)\b|"
    r"top_p\b.{0,20}\btemperature\b.{0,40}\b(both|together|one of|only one|at the same time|simultaneous|exclusive)",
    re.IGNORECASE | re.DOTALL,
)
"""Words for a temperature and a top_p that are taken, but not in one request."""
TOP_P_BESIDE_TEMPERATURE = "top_p beside temperature"
"""Refused parameter: the temperature is sent, and `top_p` only if there is none."""
SEVERAL = re.compile(r"multiple (candidates|choices|completions)|candidate_?count", re.IGNORECASE)
"""What some providers write for `n`."""
STREAMED = re.compile(r"\b(to|with|when|while|in|for|during|using)\W+stream(ing)?\b", re.IGNORECASE)
"""Words for something that is refused of a stream only, such as `cannot use tools with stream`."""
OUT_OF_RANGE = re.compile(r"too (large|high|small|low)|at (most|least)|exceeds?|minimum|maximum", re.IGNORECASE)
TRANSIENT_STATUSES = frozenset({408, 409, 424, 425, 429, 498, 499})
"""Of the statuses below 500; all from 500 are transient too. Bedrock's 424 is a failure of the model's server, Groq's
498 is for capacity, a proxy's 499 for a connection that was closed."""
MODEL_STATUSES = frozenset({401, 402, 403, 404, 405, 407, 410, 426, 451, *range(300, 400)})
"""Every further call to the model would be refused as well. A redirect is not followed."""


WAIT = re.compile(
    r"\b(?:try again|retry)\b.{0,40}?\bin ((?:\d[\d.]* ?[a-z]+,? ?(?:and )?){1,8})", re.IGNORECASE | re.DOTALL
)
UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "milli": 0.001}
"""Seconds of the units of time that providers write, by their first letters."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a refusal affects, and the word that it is counted by."""

    scope: FailureScope
    kind: str


def classify(status: Meaning | None, words: str, *, kind: str) -> Refusal:
    """Classify a refusal.

    Args:
        status: HTTP status, or what the code of the error object means; None if there is neither.
        words: The provider's message, with its code and type.
        kind: What an unclassified failure is counted by, such as `HTTP 400`.
    """
    if isinstance(status, str):
        return Refusal("example", status)
    # A provider that names a wait has a limit on the rate: Gemini's words for that are OpenAI's for no credit.
    is_rate_limit = status == 429 and requested_wait(words) is not None
    if status == 402 or (NO_CREDIT.search(words) and not is_rate_limit):
        return Refusal("model", kind)
    if (status != 429 and CONTEXT_LENGTH.search(words)) or (status in (413, 429) and TOO_LARGE.search(words)):
        return Refusal("example", "context length")
    if status in (None, 400, 403, 422, 451) and CONTENT_FILTER.search(words):
        return Refusal("example", "content filter")
    if status is None:
        if UNKNOWN_MODEL.search(words) or WRONG_KEY.search(words) or REFUSED_ACCOUNT.search(words):
            return Refusal("model", kind)
        # Without a status, only such words show that the request's content is the cause.
        return Refusal("example" if BAD_REQUEST.search(words) else "transient", kind)
    if status in TRANSIENT_STATUSES or status >= 500 or (status in (400, 403) and OVERLOADED.search(words)):
        return Refusal("transient", kind)
    if status in MODEL_STATUSES or (status == 400 and (UNKNOWN_MODEL.search(words) or REFUSED_ACCOUNT.search(words))):
        return Refusal("model", kind)
    return Refusal("example", kind)


def requested_wait(words: str) -> float | None:
    """Read the seconds to wait from a provider's words, such as `try again in 7m12.5s`; None if they name none."""
    found = WAIT.search(words)
    if not found:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?) ?(milli|ms|[dhms])", found[1].lower())
    return sum(float(number) * UNITS[unit] for number, unit in parts) if parts else None


def refused_parameter(words: str, param: str | None, body: Mapping[str, Any]) -> str | None:
    """Find the parameter that a refused request may be repeated without.

    Args:
        words: The provider's message, with its code and type.
        param: `error.param`, if the provider names it.
        body: The body that was sent.

    Returns:
        A name as in `UnsupportedParameterError.parameter`; None if the refusal is about something else.
    """
    if CONTENT_FILTER.search(words) or CONTEXT_LENGTH.search(words) or not UNSUPPORTED.search(words):
        return None
    if named := _named(param or "", body):
        return named
    if param == "stream" and body.get("stream"):
        return "streaming"
    found = _named(words, body)
    if found in ("tools", "n", "json_schema", "strict") and body.get("stream") and STREAMED.search(words):
        return "streaming"  # nothing is lost without it
    if found:
        return found
    if re.search(r"\bsystem\b|\bdeveloper\b", words, re.IGNORECASE) and _has_system_message(body):
        return "system_role"
    if re.search(r"\bstream", words, re.IGNORECASE):
        return _stream(words, body)
    return None


def _named(words: str, body: Mapping[str, Any]) -> str | None:
    if re.search(r"schema|response_format|strict", words, re.IGNORECASE) and "response_format" in body:
        schema = body["response_format"].get("json_schema")
        return "strict" if isinstance(schema, dict) and schema.get("strict") else "json_schema"
    if re.search(r"max_(completion_)?tokens", words) and OUT_OF_RANGE.search(words):
        return None  # the parameter is taken, but not its value
    if {"temperature", "top_p"} <= body.keys() and EXCLUSIVE.search(words):
        return TOP_P_BESIDE_TEMPERATURE
    for name in ("max_completion_tokens", "max_tokens", "top_p", "temperature", "seed", "stop", "reasoning_effort"):
        if name in body and re.search(rf"(?<![a-z_]){name}(?![a-z_])", words):
            return name
    if "parallel_tool_calls" in body and re.search(r"parallel.tool.calls", words, re.IGNORECASE):
        return "parallel_tool_calls"
    if re.search(r"\btools?\b|\btool_choice\b|function call", words, re.IGNORECASE) and "tools" in body:
        return "tools"
    if "n" in body and (
        SEVERAL.search(words) or re.search(r"(?<![A-Za-z0-9_'])'?`?\"?n'?`?\"?(?![A-Za-z0-9_'])", words)
    ):
        return "n"
    return None


def _has_system_message(body: Mapping[str, Any]) -> bool:
    return any(message.get("role") in ("system", "developer") for message in body.get("messages", ()))


def _stream(words: str, body: Mapping[str, Any]) -> str:
    if not body.get("stream"):
        return "stream"
    return "stream_options" if "stream_options" in body and "stream_options" in words else "streaming"
