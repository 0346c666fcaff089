"""Checks a request against the rules of a family of endpoints, and builds the family's error bodies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agentopt.testing.zoo_families import Family

UNSTRICT = ("minLength", "maxLength", "minItems", "maxItems", "default", "oneOf", "allOf", "not")
"""Keywords that a strict schema must not have."""
KEY = "zoo-key"
"""The API key that every endpoint of the zoo accepts."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A refused request: HTTP status, message and the name of the parameter."""

    status: int
    message: str
    parameter: str | None = None


def check_request(
    family: Family, headers: Mapping[str, str], query: Mapping[str, str], body: dict[str, Any]
) -> Refused | None:
    """Return the first broken rule; None if the request is accepted.

    Args:
        family: The family with the rules.
        headers: Headers of the request; names in lower case.
        query: Query parameters of the request.
        body: The parsed body.
    """
    return next(_broken_rules(family, headers, query, body), None)


def _broken_rules(
    family: Family, headers: Mapping[str, str], query: Mapping[str, str], body: dict[str, Any]
) -> Iterator[Refused]:
    if family.key_header:
        name, prefix = family.key_header
        if headers.get(name) != f"{prefix}{KEY}":
            yield Refused(401, f"Incorrect API key provided in {name}.")
    for name, value in family.headers.items():
        if name not in headers or (value and headers[name] != value):
            yield Refused(400, f"{name}: header is required")
    if any(name not in query for name in family.query):
        yield Refused(404, "Resource not found")
    for name in family.required:
        if name not in body:
            yield Refused(400, f"{name}: Field required", name)
    yield from _parameters(family, body)
    yield from _values(family, body)
    yield from _messages(family, body)
    yield from _schema(family, body)


def _parameters(family: Family, body: dict[str, Any]) -> Iterator[Refused]:
    for name in body:
        if family.known is not None and name not in family.known:
            yield Refused(422 if family.error == "mistral" else 400, _unknown(family, name), name)
        if name in family.refused:
            hint = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
            message = f"Unsupported parameter: '{name}' is not supported with this model.{hint}"
            yield Refused(400, message, name)
    if family.exclusive and all(name in body for name in family.exclusive):
        first, second = family.exclusive
        message = f"`{first}` and `{second}` cannot both be specified for this model. Please use only one."
        yield Refused(400, message, second)
    if family.streams_only and not body.get("stream"):
        message = "This model only support stream mode, please enable the stream parameter to access the model."
        yield Refused(400, message)


def _unknown(family: Family, name: str) -> str:
    if family.error == "google":
        return f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.'
    if family.error in ("anthropic", "mistral"):
        return f"{name}: Extra inputs are not permitted"
    return f"Unrecognized request argument supplied: {name}"


def _values(family: Family, body: dict[str, Any]) -> Iterator[Refused]:
    if family.most_choices and (body.get("n") or 1) > family.most_choices:
        yield Refused(400, f"'n' : number must be at most {family.most_choices}", "n")
    temperature = body.get("temperature")
    if temperature is not None and not 0 <= temperature <= family.most_temperature:
        yield Refused(400, f"temperature: must be between 0 and {family.most_temperature:g}", "temperature")
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        # OpenAI's responses have a minimum of 16.
        least = 16 if name == "max_output_tokens" else 1
        if name in body and (not isinstance(body[name], int) or body[name] < least):
            yield Refused(400, f"Invalid '{name}': expected a value >= {least}, but got {body[name]}", name)
    if "stream_options" in body and not body.get("stream"):
        yield Refused(400, "The 'stream_options' parameter is only allowed when 'stream' is enabled.", "stream_options")


def _messages(family: Family, body: dict[str, Any]) -> Iterator[Refused]:
    messages = body.get("messages") or []
    for message in messages:
        role = message.get("role")
        if role not in family.roles:
            yield Refused(400, "System role not supported" if role == "system" else f"Unexpected role {role!r}")
        if set(message) - {"role", "content", "name", "tool_calls", "tool_call_id"}:
            yield Refused(400, f"Unexpected fields of a message: {sorted(message)}")
    if not messages and "messages" in family.required:
        yield Refused(400, "messages: at least one message is required", "messages")


def _schema(family: Family, body: dict[str, Any]) -> Iterator[Refused]:
    form = body.get("response_format") or {}
    if form.get("type") != "json_schema":
        return
    if family.schema == "refused":
        yield Refused(400, "This response_format type is unavailable now", "response_format")
    given = form.get("json_schema") or {}
    if family.schema == "strict" and given.get("strict") and (problem := _unstrict(given.get("schema"))):
        yield Refused(400, f"Invalid schema for response_format '{given.get('name')}': {problem}", "response_format")


def _unstrict(schema: Any) -> str | None:
    """Return the first rule for strict schemas that `schema` breaks."""
    if isinstance(schema, list):
        return next((problem for part in schema if (problem := _unstrict(part))), None)
    if not isinstance(schema, dict):
        return None
    if used := [name for name in UNSTRICT if name in schema]:
        return f"'{used[0]}' is not permitted."
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            return "'additionalProperties' is required to be supplied and to be false."
        if set(schema.get("required", ())) != set(schema.get("properties", {})):
            return "'required' is required to be supplied and to be an array including every key in properties."
    inner = [*schema.get("properties", {}).values(), *schema.get("anyOf", ()), schema.get("items")]
    return _unstrict([*inner, *schema.get("$defs", {}).values()])


def error_body(family: Family, refused: Refused) -> Any:
    """Return the body of an error in the family's form."""
    status, message, parameter = refused.status, refused.message, refused.parameter
    match family.error:
        case "anthropic":
            kind = "authentication_error" if status == 401 else "invalid_request_error"
            return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_zoo"}
        case "google":
            return [{"error": {"code": status, "message": message, "status": "INVALID_ARGUMENT"}}]
        case "azure" if status in (401, 404):
            return {"error": {"code": str(status), "message": message}}
        case "openrouter":
            return {"error": {"code": status, "message": "Provider returned error", "metadata": {"raw": message}}}
        case "vllm":
            kind = "BadRequestError"
            return {"object": "error", "message": message, "type": kind, "param": parameter, "code": status}
        case "mistral" if status == 422:
            detail = [{"type": "extra_forbidden", "loc": ["body", parameter], "msg": message}]
            return {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error", "code": None}
        case _:
            kind = "invalid_request_error"
            code = "invalid_api_key" if status == 401 else "unsupported_parameter"
            return {"error": {"message": message, "type": kind, "param": parameter, "code": code}}
