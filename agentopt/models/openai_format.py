"""The OpenAI chat-completions format: what a client may send, and what is sent back. Pure; no web library.

Owns what is understood, what is refused and with which words. A setting that would change the answer and that
agentopt does not pass on (tools, logprobs, audio, penalties) is refused; one that does not (user, metadata, store)
is read over.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from agentopt.core.errors import AgentoptError, ApiError, BudgetExceeded, ModelError
from agentopt.models.base import Message, Role

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
    return ApiError(404, f"there is nothing at {path}; there are /v1/chat/completions and /v1/models")


def wrong_method(method: str, path: str, allowed: Iterable[str]) -> ApiError:
    """405: something is served there, but not to this method. `allowed` are those it is served to."""
    methods = sorted(set(allowed) - {"HEAD", "OPTIONS"})
    message = f"{path} does not take {method}; use {' or '.join(methods)}"
    return ApiError(405, message, code="method_not_allowed", headers={"Allow": ", ".join(methods)})


def no_such_model(model: str, known: Iterable[str]) -> ApiError:
    """404: the model is not one of those that are served."""
    message = f"the model `{model}` does not exist; there are: {', '.join(known)}"
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
    """One request for chat completions. None, or empty, is what the client left open.

    `messages` have text only; `developer` messages are system messages here. `json_schema` is the canonical JSON text
    of the schema in `response_format`.
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


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class _MessageBody(_Read):
    role: str
    content: Any = None
    tool_calls: Any = None
    function_call: Any = None


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


_REFUSED: Mapping[str, str] = {
    "tools": "tools are not supported",
    "functions": "functions are not supported",
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
    asked = read.response_format
    return ChatCall(
        model=read.model,
        messages=tuple(_message(message, f"messages[{i}]") for i, message in enumerate(read.messages)),
        n=read.n or 1,
        max_tokens=read.max_completion_tokens or read.max_tokens,
        temperature=read.temperature,
        top_p=read.top_p,
        stop=_stop(read.stop),
        json_schema=None if asked is None else _schema(asked),
        stream=bool(read.stream),
        include_usage=bool(read.stream_options and read.stream_options.include_usage),
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
    }
    if message.role in ("tool", "function") or message.tool_calls or message.function_call:
        raise ApiError(400, "tools are not supported", param=where, code="unsupported_parameter")
    if message.role not in roles:
        rule = f"a role must be one of {', '.join(roles)}, but got {message.role!r}"
        raise ApiError(400, rule, param=f"{where}.role", code="invalid_value")
    return Message(roles[message.role], _text(message.content, f"{where}.content"))


def _text(content: Any, where: str) -> str:
    """A message's text; parts of type text are joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        rule = f"content must be a text or a list of parts, but got {type(content).__name__}"
        raise ApiError(400, rule, param=where, code="invalid_value")
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            rule = f"content parts must be of type text, but got {kind!r}"
            raise ApiError(400, rule, param=f"{where}[{i}]", code="unsupported_parameter")
    return "".join(part["text"] for part in content)


def _stop(stop: str | list[str] | None) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop or ())


def _schema(asked: _ResponseFormat) -> str | None:
    """The schema's canonical text: keys in the order that the client wrote, which is the order of writing them."""
    if asked.type == "text":
        return None
    named = asked.json_schema.json_schema if asked.type == "json_schema" and asked.json_schema else None
    if asked.type == "json_schema" and named is None:
        where = "response_format.json_schema.schema"
        raise ApiError(400, "json_schema needs a schema", param=where, code="missing_required_parameter")
    return json.dumps(named or {"type": "object"}, separators=(",", ":"))


# What is sent back


@dataclass(frozen=True, slots=True)
class Completion:
    """The answers to one call, and the tokens they took. `id` and `created` are set unless given."""

    model: str
    texts: Sequence[str]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = "stop"
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def usage(self) -> dict[str, int]:
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def body(self) -> dict[str, Any]:
        """The `chat.completion` object."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": self.finish_reason,
            }
            for index, text in enumerate(self.texts)
        ]
        head = {"id": self.id, "object": "chat.completion", "created": self.created, "model": self.model}
        return {**head, "choices": choices, "usage": self.usage}

    def chunks(self, *, include_usage: bool = False) -> Iterator[dict[str, Any]]:
        """The `chat.completion.chunk` objects: each choice's role, text and end; last the usage, where asked for."""
        for index, text in enumerate(self.texts):
            for delta, reason in (({"role": "assistant", "content": ""}, None), ({"content": text}, None)):
                yield self._chunk([_delta(index, delta, reason)], include_usage)
            yield self._chunk([_delta(index, {}, self.finish_reason)], include_usage)
        if include_usage:
            yield {**self._chunk([], include_usage), "usage": self.usage}

    def events(self, *, include_usage: bool = False) -> Iterator[bytes]:
        """The whole stream as server-sent events, its end included."""
        for chunk in self.chunks(include_usage=include_usage):
            yield event(chunk)
        yield DONE

    def _chunk(self, choices: list[dict[str, Any]], include_usage: bool) -> dict[str, Any]:
        head = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}
        # Where usage was asked for, every chunk has the field, and only the last one fills it.
        return {**head, "choices": choices, **({"usage": None} if include_usage else {})}


def _delta(index: int, delta: dict[str, str], reason: str | None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
DONE = b"data: [DONE]\n\n"


def event(data: Mapping[str, Any]) -> bytes:
    """One server-sent event: a chunk, or an error's body once a stream has begun."""
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


def models_body(names: Iterable[str], *, created: int = 0) -> dict[str, Any]:
    """The list that `/v1/models` gives."""
    return {"object": "list", "data": [model_body(name, created=created) for name in names]}


def model_body(name: str, *, created: int = 0) -> dict[str, Any]:
    """What `/v1/models/NAME` gives."""
    return {"id": name, "object": "model", "created": created, "owned_by": "agentopt"}
