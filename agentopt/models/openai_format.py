"""The OpenAI chat-completions format: what a client may send. Pure; no web library.

A setting that would change the answer and that agentopt does not pass on (logprobs, audio, penalties) is refused; one
that does not (user, metadata, store) is ignored. What is sent back is in `openai_completion`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from agentopt.core.errors import AgentoptError, ApiError, BudgetExceeded, ModelError
from agentopt.core.yaml_models import closest
from agentopt.models.base import Message, Role, ToolCall

MOST_CHOICES = 128
"""Maximum number of choices per call."""

NO_RETRY = {"x-should-retry": "false"}
"""Header that keeps the official clients from retrying, because the same request would fail again."""


def wrong_key() -> ApiError:
    """401: no key, or not the right one."""
    message = "the API key is missing or wrong; send it as `Authorization: Bearer KEY`"
    return ApiError(401, message, type="authentication_error", code="invalid_api_key")


def no_such_path(path: str) -> ApiError:
    """404: nothing is served there."""
    return ApiError(404, f"there is nothing at {path}; there are /v1/chat/completions, /v1/responses and /v1/models")


def wrong_method(method: str, path: str, allowed: Iterable[str]) -> ApiError:
    """405: something is served there, but not to this method. `allowed` are those it is served to.

    Args:
        method: The method of the request.
        path: Its path.
        allowed: The methods that the path is served to.
    """
    methods = sorted(set(allowed) - {"HEAD", "OPTIONS"})
    message = f"{path} does not take {method}; use {' or '.join(methods)}"
    return ApiError(405, message, code="method_not_allowed", headers={"Allow": ", ".join(methods)})


def no_such_model(model: str, known: Iterable[str]) -> ApiError:
    """404: the model is not one of those that are served."""
    names = list(known)
    close = closest(model[:200], names)  # a client can send a text of any length
    hint = f" (did you mean `{close}`?)" if close else ""
    message = f"the model `{model}` does not exist; there are: {', '.join(names)}{hint}"
    return ApiError(404, message, param="model", code="model_not_found")


def too_large(limit: int) -> ApiError:
    """413: the body has more than `limit` bytes."""
    return ApiError(413, f"the body must have at most {limit} bytes", code="request_too_large")


def from_failure(failure: AgentoptError) -> ApiError:
    """Map a failed model call to an OpenAI error response. Clients should not retry immediately."""
    if isinstance(failure, BudgetExceeded):
        kind = "insufficient_quota"
        return ApiError(429, str(failure), type=kind, code=kind, headers=NO_RETRY)
    if isinstance(failure, ModelError):
        return ApiError(502, str(failure), type="api_error", code="upstream_failed", headers=NO_RETRY)
    return ApiError(500, str(failure), type="api_error", code="failed", headers=NO_RETRY)


# What a client sends


@dataclass(frozen=True, slots=True)
class ChatCall:
    """One request for chat completions. What the client left open is None or empty.

    Attributes:
        model: The model that the client named.
        messages: The conversation; `developer` messages are system messages here.
        n: Number of answers.
        max_tokens: Most tokens of an answer.
        temperature: Sampling temperature.
        top_p: Nucleus sampling.
        stop: Texts that end the generation.
        json_schema: Canonical JSON text of the schema in `response_format`.
        stream: Whether the answer is sent as server-sent events.
        include_usage: Whether the last of them has the usage.
        tools: The tools that the model may call, each as JSON text.
        tool_choice: `tool_choice` as JSON text.
        parallel_tool_calls: Whether one answer may have several tool calls.
    """

    model: str
    messages: tuple[Message, ...]
    n: int = 1
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    json_schema: str | None = None
    stream: bool = False
    include_usage: bool = False
    tools: tuple[str, ...] = ()
    tool_choice: str | None = None
    parallel_tool_calls: bool | None = None

    @property
    def has_tools(self) -> bool:
        """Whether the call has tools, or messages of tools."""
        return bool(self.tools) or any(m.tool_calls or m.role == "tool" for m in self.messages)


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class _FunctionCall(_Read):
    name: Annotated[str, Field(min_length=1)]
    arguments: str = "{}"


class _ToolCallBody(_Read):
    id: str
    type: Literal["function"] = "function"
    function: _FunctionCall


class _MessageBody(_Read):
    role: str
    content: Any = None
    tool_calls: list[_ToolCallBody] | None = None
    tool_call_id: str | None = None
    function_call: Any = None


class _Function(_Read):
    name: Annotated[str, Field(min_length=1)]


class _Tool(_Read):
    type: Literal["function"]
    function: _Function


class _ChosenTool(_Read):
    type: Literal["function"]
    function: _Function


class _StreamOptions(_Read):
    include_usage: bool | None = None


class _JsonSchema(_Read):
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None


class _ResponseFormat(_Read):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class _Body(_Read):
    """The keys that are understood; `_REFUSED` has those that are refused, all others are read over."""

    model: Annotated[str, Field(min_length=1)]
    messages: Annotated[list[_MessageBody], Field(min_length=1)]
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    response_format: _ResponseFormat | None = None
    tools: list[_Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | _ChosenTool | None = None
    parallel_tool_calls: bool | None = None


_REFUSED: Mapping[str, str] = {
    "functions": "functions are not supported; send them as tools",
    "function_call": "functions are not supported; send them as tools",
    "logprobs": "log probabilities are not supported",
    "top_logprobs": "log probabilities are not supported",
    "audio": "audio is not supported",
    "prediction": "predicted outputs are not supported",
    "web_search_options": "web search is not supported",
    "moderation": "moderation is not supported",
    "logit_bias": "logit_bias is not passed on to models, and would change the answer",
    "frequency_penalty": "penalties are not passed on to models, and would change the answer",
    "presence_penalty": "penalties are not passed on to models, and would change the answer",
}
"""Keys that are refused unless their value has no effect (null, false, 0, empty)."""


def parse_call(body: bytes | str) -> ChatCall:
    """Parse a request's body.

    Raises:
        ApiError: With status 400, and the key that is wrong.
    """
    return call_in(read_body(body))


def read_body(body: bytes | str) -> dict[str, Any]:
    """Parse a body as a JSON object. Text that is not valid Unicode, such as half a surrogate pair, is refused.

    Raises:
        ApiError: With status 400.
    """
    try:
        parsed = from_json(body)
    except ValueError as problem:
        raise ApiError(400, f"the body must be JSON: {problem}") from problem
    if not isinstance(parsed, dict):
        raise ApiError(400, f"the body must be a JSON object, but got a {type(parsed).__name__}")
    return parsed


def call_in(body: Mapping[str, Any]) -> ChatCall:
    """Validate a parsed body.

    Raises:
        ApiError: With status 400, and the key that is wrong.
    """
    _check_supported(body)
    try:
        read = _Body.model_validate(body)
    except ValidationError as problem:
        raise _invalid(problem) from problem
    wanted, tools = read.response_format, body.get("tools") or []
    return ChatCall(
        model=read.model,
        messages=tuple(_message(message, f"messages[{i}]") for i, message in enumerate(read.messages)),
        n=read.n or 1,
        max_tokens=read.max_completion_tokens or read.max_tokens,
        temperature=read.temperature,
        top_p=read.top_p,
        stop=_stop(read.stop),
        json_schema=None if wanted is None else _schema(wanted),
        stream=bool(read.stream),
        include_usage=bool(read.stream_options and read.stream_options.include_usage),
        # As the client wrote them: a tool may have keys that are not known here, such as `strict`.
        tools=tuple(_compact(tool) for tool in tools),
        tool_choice=_compact(body["tool_choice"]) if tools and read.tool_choice is not None else None,
        parallel_tool_calls=read.parallel_tool_calls if tools else None,
    )


def model_in(body: Mapping[str, Any]) -> str:
    """Return the model that a body names, even if the body is no valid call; empty if it names none."""
    model = body.get("model")
    return model if isinstance(model, str) else ""


def _check_supported(parsed: Mapping[str, Any]) -> None:
    for key, reason in _REFUSED.items():
        if parsed.get(key):
            raise ApiError(400, reason, param=key, code="unsupported_parameter")
    if parsed.get("modalities") not in (None, ["text"]):
        raise ApiError(400, "answers are text only", param="modalities", code="unsupported_parameter")


def _invalid(problem: ValidationError) -> ApiError:
    """The first mistake that pydantic found, in the format's words."""
    mistake = problem.errors(include_url=False)[0]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in mistake["loc"]).lstrip(".")
    code = "missing_required_parameter" if mistake["type"] == "missing" else "invalid_value"
    return ApiError(400, f"{param}: {mistake['msg']}" if param else mistake["msg"], param=param or None, code=code)


def _message(message: _MessageBody, where: str) -> Message:
    roles: Mapping[str, Role] = {
        "system": "system",
        "developer": "system",
        "user": "user",
        "assistant": "assistant",
        "tool": "tool",
    }
    if message.role == "function" or message.function_call:
        rule = "functions are not supported; send them as tools"
        raise ApiError(400, rule, param=where, code="unsupported_parameter")
    if message.role not in roles:
        rule = f"a role must be one of {', '.join(roles)}, but got {message.role!r}"
        raise ApiError(400, rule, param=f"{where}.role", code="invalid_value")
    role = roles[message.role]
    if role == "tool" and not message.tool_call_id:
        rule = "a tool message needs the id of the call that it answers"
        raise ApiError(400, rule, param=f"{where}.tool_call_id", code="missing_required_parameter")
    calls = message.tool_calls or [] if role == "assistant" else []
    # An assistant message that only calls tools, or that refused, has no content.
    content = "" if message.content is None and role == "assistant" else message.content
    text, parts = _content(content, f"{where}.content")
    called = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in calls)
    return Message(role, text, parts, called, message.tool_call_id if role == "tool" else None)


def _content(content: Any, where: str) -> tuple[str, tuple[str, ...]]:
    """A message's text, and its parts as JSON texts if some are not text."""
    if isinstance(content, str):
        return content, ()
    if not isinstance(content, list):
        rule = f"content must be a string or a list of parts, but got {type(content).__name__}"
        raise ApiError(400, rule, param=where, code="invalid_value")
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str) or (kind == "text" and not isinstance(part.get("text"), str)):
            rule = (
                f"a content part must be an object with a type, and with a string if that is `text`, but got {kind!r}"
            )
            raise ApiError(400, rule, param=f"{where}[{i}]", code="invalid_value")
    text = "".join(part["text"] for part in content if part["type"] == "text")
    is_text = all(part["type"] == "text" for part in content)
    return text, () if is_text else tuple(_compact(part) for part in content)


def _compact(value: Any) -> str:
    """JSON text with the keys in the order that the client wrote."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _stop(stop: str | list[str] | None) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def _schema(wanted: _ResponseFormat) -> str | None:
    """The schema's canonical text: keys in the order that the client wrote, which is the order of writing them."""
    if wanted.type == "text":
        return None
    named = wanted.json_schema.json_schema if wanted.type == "json_schema" and wanted.json_schema else None
    if wanted.type == "json_schema" and named is None:
        where = "response_format.json_schema.schema"
        raise ApiError(400, "json_schema needs a schema", param=where, code="missing_required_parameter")
    return json.dumps(named or {"type": "object"}, separators=(",", ":"))
