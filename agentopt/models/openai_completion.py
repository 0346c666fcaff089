"""The OpenAI chat-completions format: what is sent back, whole or as server-sent events. Pure; no web library."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from agentopt.core.errors import ApiError
from agentopt.models.base import Choice

STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Completion:
    """The answers to one call.

    Attributes:
        model: The model that the call named.
        choices: The answers.
        prompt_tokens: Tokens of the prompts that were sent for it.
        completion_tokens: Tokens of all samples and fusions.
        id: Identifies the completion; random unless given.
        created: When it was made, in seconds since 1970; now unless given.
    """

    model: str
    choices: Sequence[Choice]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def texts(self) -> list[str]:
        """The text of each choice."""
        return [choice.text for choice in self.choices]

    @property
    def usage(self) -> dict[str, int]:
        """The tokens in the OpenAI format."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def body(self) -> dict[str, Any]:
        """The `chat.completion` object."""
        choices = [
            {"index": index, "message": _message(choice), "logprobs": None, "finish_reason": finish_reason(choice)}
            for index, choice in enumerate(self.choices)
        ]
        head = {"id": self.id, "object": "chat.completion", "created": self.created, "model": self.model}
        return {**head, "choices": choices, "usage": self.usage}

    def chunks(self, *, include_usage: bool = False, sent: str | None = None) -> Iterator[dict[str, Any]]:
        """The `chat.completion.chunk` objects: each choice's role, text, tool calls and end; then the usage.

        Args:
            include_usage: Whether the last chunk has the usage.
            sent: The beginning of the first choice's text, if the client has received it.
        """
        for index, choice in enumerate(self.choices):
            text = choice.text
            if index or sent is None:
                yield self.chunk(index, {"role": "assistant", "content": ""}, include_usage=include_usage)
            else:
                text = text.removeprefix(sent)
            if text:
                yield self.chunk(index, {"content": text}, include_usage=include_usage)
            if choice.tool_calls:
                calls = [{"index": place, **call.body()} for place, call in enumerate(choice.tool_calls)]
                yield self.chunk(index, {"tool_calls": calls}, include_usage=include_usage)
            yield self.chunk(index, {}, finish_reason(choice), include_usage=include_usage)
        if include_usage:
            yield {**self._chunk([], include_usage), "usage": self.usage}

    def chunk(
        self, index: int, delta: Mapping[str, Any], reason: str | None = None, *, include_usage: bool = False
    ) -> dict[str, Any]:
        """One `chat.completion.chunk` object with one choice.

        Args:
            index: Index of the choice.
            delta: What is added to its message.
            reason: Its finish reason, in its last chunk.
            include_usage: Whether chunks have the key `usage`.
        """
        choice = {"index": index, "delta": dict(delta), "logprobs": None, "finish_reason": reason}
        return self._chunk([choice], include_usage)

    def _chunk(self, choices: list[dict[str, Any]], include_usage: bool) -> dict[str, Any]:
        head = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}
        # If usage was requested, every chunk has the field, and only the last one fills it.
        return {**head, "choices": choices, **({"usage": None} if include_usage else {})}


class CompletionStream(Protocol):
    """Writes one completion as server-sent events while it is generated."""

    def text(self, delta: str) -> Iterator[bytes]:
        """The events of a part of the text."""

    def end(self, completion: Completion) -> Iterator[bytes]:
        """The events of all that was not sent yet. The text so far is a prefix of the completion's."""

    def error(self, error: ApiError) -> bytes:
        """The event of a failure after the stream has begun."""


class ChatStream:
    """A chat completion as server-sent events.

    Args:
        model: The model that the call named.
        include_usage: Whether the last chunk has the usage.
    """

    def __init__(self, model: str, *, include_usage: bool = False) -> None:
        self._head = Completion(model, ())
        self._include_usage = include_usage
        self._sent: str | None = None

    def text(self, delta: str) -> Iterator[bytes]:
        """The events of a part of the text."""
        if self._sent is None:
            yield self._event({"role": "assistant", "content": ""})
        self._sent = (self._sent or "") + delta
        yield self._event({"content": delta})

    def end(self, completion: Completion) -> Iterator[bytes]:
        """The events of all that was not sent yet, and the end of the stream."""
        whole = replace(completion, id=self._head.id, created=self._head.created)
        for chunk in whole.chunks(include_usage=self._include_usage, sent=self._sent):
            yield event(chunk)
        yield DONE

    def error(self, error: ApiError) -> bytes:
        """The event of a failure after the stream has begun."""
        return event(error.body)

    def _event(self, delta: dict[str, Any]) -> bytes:
        return event(self._head.chunk(0, delta, include_usage=self._include_usage))


def finish_reason(choice: Choice) -> str:
    """The choice's finish reason, if the format has it: a client that validates would refuse another word."""
    if choice.tool_calls:
        return "tool_calls"
    return choice.finish_reason if choice.finish_reason in ("length", "content_filter") else "stop"


def event(data: Mapping[str, Any], name: str = "") -> bytes:
    """One server-sent event: a chunk, or an error's body after a stream has begun.

    Args:
        data: The JSON object.
        name: The event's name, if it has one.
    """
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


def models_body(names: Iterable[str], *, created: int = 0) -> dict[str, Any]:
    """The list that `/v1/models` returns."""
    return {"object": "list", "data": [model_body(name, created=created) for name in names]}


def model_body(name: str, *, created: int = 0) -> dict[str, Any]:
    """The object that `/v1/models/NAME` returns."""
    return {"id": name, "object": "model", "created": created, "owned_by": "agentopt"}


def _message(choice: Choice) -> dict[str, Any]:
    content = choice.text or None if choice.tool_calls else choice.text
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if choice.tool_calls:
        message["tool_calls"] = [call.body() for call in choice.tool_calls]
    return message
