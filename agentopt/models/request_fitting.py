"""Fits a request to its model's endpoint: what is sent, in which form, and what is left out.

`fit` is pure and idempotent. A fitted request is what the cache key is computed from, so that a response is only
found for a request that would be sent in the same form.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from agentopt.core.unicode_text import well_formed
from agentopt.models.base import Message, Request
from agentopt.models.catalog import ModelSpec, Supports
from agentopt.models.http_refusals import TOP_P_BESIDE_TEMPERATURE
from agentopt.models.strict_schema import strict_schema

ABILITIES = tuple(Supports.model_fields)
LEFT_OUT = {
    "strict": "is sent schemas without",
    "stream": "is called with",
    "system_role": "takes no system messages, which are joined to the user's:",
    "max_tokens": "is called with max_completion_tokens in place of",
    "max_completion_tokens": "is called with max_tokens in place of",
}
"""Refused parameter -> what is done about it; the others are left out."""

AT_EFFORT = "@"
"""Separates a refused parameter from the effort at which it was refused: many models take a temperature at `none`."""


def refusal(parameter: str, effort: str | None) -> str:
    """Return the name under which a refused parameter is remembered.

    Args:
        parameter: As `UnsupportedParameterError.parameter`.
        effort: The `reasoning_effort` of the refused request; None if it had none.
    """
    return f"{parameter}{AT_EFFORT}{effort}" if effort and parameter != "reasoning_effort" else parameter


AT_MOST = "n<="
"""Beginning of the name under which it is remembered how many choices an endpoint returns at most."""


def choice_limit(most: int) -> str:
    """Return the name under which it is remembered that an endpoint returns fewer choices than requested.

    Args:
        most: The most that it returned.
    """
    return f"{AT_MOST}{most}"


def refused_at(refused: Iterable[str], effort: str | None) -> frozenset[str]:
    """Return the parameters that a request of this effort must not have.

    Args:
        refused: Names as `refusal` returned them; parameters without an effort are refused at each.
        effort: Its `reasoning_effort`; None if it has none.
    """
    parts = (name.partition(AT_EFFORT) for name in refused)
    return frozenset(parameter for parameter, _, at in parts if at in ("", effort))


def fit(request: Request, spec: ModelSpec, refused: frozenset[str] = frozenset()) -> Request:
    """Return the request as it will be sent to the endpoint of `spec`.

    Args:
        request: The request.
        spec: The catalogue entry of its model.
        refused: What the endpoint was found to refuse, as `refusal` returned it.

    Returns:
        The request with the entry's sampling parameters filled in, and without what the endpoint does not take.
        `left_out` holds the names of the parameters that must not be sent.
    """
    known = request.left_out | refused | unsupported(spec)
    effort = None if "reasoning_effort" in known else request.reasoning_effort or spec.reasoning_effort
    left_out = refused_at(known, effort)

    def value(name: str) -> Any:
        own = getattr(request, name)
        return None if name in left_out else own if own is not None else getattr(spec, name)

    temperature, top_p = value("temperature"), value("top_p")
    if TOP_P_BESIDE_TEMPERATURE in left_out and temperature is not None:
        top_p = None
    joined = spec.system_role == "user" or "system_role" in left_out
    changed = {
        "messages": _joined(request.messages) if joined else request.messages,
        "temperature": temperature,
        "top_p": top_p,
        "reasoning_effort": effort,
        "json_schema": None if "json_schema" in left_out else request.json_schema,
        "left_out": left_out,
    }
    # A fitted request is fitted again to be sent.
    is_fitted = all(getattr(request, name) == value for name, value in changed.items())
    return request if is_fitted else replace(request, **changed)


def unsupported(spec: ModelSpec) -> frozenset[str]:
    """Return the parameters that the endpoint does not take according to its catalogue entry."""
    names = {name for name in ABILITIES if getattr(spec.supports, name) is False}
    if spec.api == "responses":
        names |= {"n", "seed", "stop"}
    if not spec.json_schema:
        names.add("json_schema")
    return frozenset(names)


def choices_per_request(spec: ModelSpec, left_out: frozenset[str] = frozenset()) -> int:
    """Return the most choices that one request may have.

    Args:
        spec: The catalogue entry of its model.
        left_out: Parameters that it must not have, as of a fitted request; those of the entry are known.
    """
    if "n" in (known := left_out | unsupported(spec)):
        return 1
    limits = [int(count) for name in known if name.startswith(AT_MOST) and (count := name[len(AT_MOST) :]).isdecimal()]
    return max(1, min([spec.max_choices, *limits]))


def limited(spec: ModelSpec, refused: frozenset[str]) -> ModelSpec:
    """Return an entry for estimates, with no more choices per request than its endpoint was found to return.

    Args:
        spec: The entry.
        refused: What the endpoint was found to refuse, as `refusal` and `choice_limit` name it.
    """
    most = choices_per_request(spec, refused_at(refused, spec.reasoning_effort))
    return spec if most == spec.max_choices else spec.model_copy(update={"max_choices": most})


def requests_for(choices: int, spec: ModelSpec) -> int:
    """Return the number of requests that draw so many choices; each of them pays for the prompt.

    Args:
        choices: Number of choices.
        spec: The catalogue entry of the model.
    """
    return -(-choices // choices_per_request(spec))


def most_choices(request: Request, spec: ModelSpec, refused: frozenset[str]) -> int:
    """Return the most choices that a part of a fitted request may have.

    Args:
        request: The fitted request.
        spec: The catalogue entry of its model.
        refused: What the endpoint was found to refuse by now, as `refusal` returned it.
    """
    return choices_per_request(spec, request.left_out | refused_at(refused, request.reasoning_effort))


def consecutive(repeats: list[int], most: int) -> list[tuple[int, int]]:
    """Return the runs of consecutive repeat indices as (first, count), none longer than `most`."""
    runs: list[tuple[int, int]] = []
    for repeat in repeats:
        if runs and sum(runs[-1]) == repeat and runs[-1][1] < most:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((repeat, 1))
    return runs


def shape(request: Request, spec: ModelSpec) -> str:
    """Describe what a fitted request has beyond its own fields, for `Request.key`.

    Empty for a plain request, so that it has the cache key of version 0.1.0.
    """
    parts: dict[str, Any] = {
        "json_schema": request.json_schema and _response_format(request),
        "body": spec.extra_body,
        # Not in the clear: a header may hold a secret.
        "headers": spec.extra_headers and hashlib.sha256(json.dumps(spec.extra_headers).encode()).hexdigest(),
        "query": spec.query,
    }
    used = {name: value for name, value in parts.items() if value}
    return json.dumps(used, sort_keys=True) if used else ""


def payload(spec: ModelSpec, request: Request) -> dict[str, Any]:
    """Return the body of the request in the OpenAI format."""
    request = fit(request, spec)
    body: dict[str, Any] = {"model": spec.litellm or spec.model or spec.name}
    body[_max_tokens_parameter(spec, request)] = request.max_tokens
    if spec.chat_template:
        body["messages"] = [message.body() for message in request.messages]
    else:
        body["prompt"] = "\n\n".join(message.content for message in request.messages)
    sampling = {"temperature": request.temperature, "top_p": request.top_p, "seed": _seed(spec, request)}
    body |= {name: value for name, value in sampling.items() if value is not None}
    if (n := min(request.n, choices_per_request(spec, request.left_out))) > 1:
        body["n"] = n
    if request.stop and "stop" not in request.left_out:
        body["stop"] = list(request.stop)
    if request.json_schema:
        body["response_format"] = _response_format(request)
    body |= _tools(request)
    if request.reasoning_effort is not None:
        body["reasoning_effort"] = request.reasoning_effort
    if is_streamed(spec, request.left_out):
        body["stream"] = True
        if "stream_options" not in request.left_out:
            body["stream_options"] = {"include_usage": True}
    whole: dict[str, Any] = without_surrogates({**body, **spec.extra_body})
    return whole


def _tools(request: Request) -> dict[str, Any]:
    if not request.tools or "tools" in request.left_out:
        return {}
    body: dict[str, Any] = {"tools": [json.loads(tool) for tool in request.tools]}
    if request.tool_choice is not None:
        body["tool_choice"] = json.loads(request.tool_choice)
    if request.parallel_tool_calls is not None and "parallel_tool_calls" not in request.left_out:
        body["parallel_tool_calls"] = request.parallel_tool_calls
    return body


def is_streamed(spec: ModelSpec, left_out: frozenset[str]) -> bool:
    """Return whether every request of an entry is a streaming one.

    Args:
        spec: The entry.
        left_out: What its endpoint refuses: `stream` if it must be streamed, `streaming` if it cannot be.
    """
    return "stream" in left_out or (spec.stream and "streaming" not in left_out)


def without_surrogates(value: Any) -> Any:
    """Replace lone surrogates in every text of a JSON value: they cannot be encoded as UTF-8."""
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, Mapping):
        return {without_surrogates(key): without_surrogates(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_surrogates(inner) for inner in value]
    return value


def _seed(spec: ModelSpec, request: Request) -> int | None:
    wanted = spec.supports.seed or request.seed != 0
    return request.sampling_seed if wanted and "seed" not in request.left_out else None


def _max_tokens_parameter(spec: ModelSpec, request: Request) -> str:
    other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
    name = spec.max_tokens_parameter
    return other[name] if name in request.left_out else name


def _joined(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Join the system messages to the first user message, which they precede."""
    system = [message.content for message in messages if message.role == "system"]
    others = [message for message in messages if message.role != "system"]
    if not system:
        return messages
    first = next((i for i, message in enumerate(others) if message.role == "user"), None)
    if first is None:
        return (Message("user", "\n\n".join(system)), *others)
    user = others[first]
    content = "\n\n".join([*system, user.content])
    parts = (json.dumps({"type": "text", "text": "\n\n".join(system)}), *user.parts) if user.parts else ()
    others[first] = replace(user, content=content, parts=parts)
    return tuple(others)


def response_format(schema: dict[str, Any], *, strict: bool = True) -> dict[str, Any]:
    """Return `response_format` of the OpenAI format.

    Args:
        schema: The JSON schema.
        strict: Whether the endpoint takes strict schemas. The schema is sent as strict if it has a strict form.
    """
    strict_form = strict_schema(schema) if strict else None
    form = {"schema": schema} if strict_form is None else {"strict": True, "schema": strict_form}
    return {"type": "json_schema", "json_schema": {"name": "answer", **form}}


def _response_format(request: Request) -> dict[str, Any]:
    return response_format(json.loads(request.json_schema or "{}"), strict="strict" not in request.left_out)


def left_out_note(parameter: str) -> str:
    """Return the sentence on a parameter that is not sent, to be read after the name of a model."""
    if parameter.startswith(AT_MOST):
        return (
            f"returns at most {parameter.removeprefix(AT_MOST)} choices per request, so that further requests are sent"
        )
    name, _, effort = parameter.partition(AT_EFFORT)
    return f"{LEFT_OUT.get(name, 'is called without')} {name}{f' at effort {effort}' if effort else ''}"
