"""The two forms in which a client may call a model: chat completions and responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agentopt.models.openai_completion import ChatStream, Completion, CompletionStream
from agentopt.models.openai_format import ChatCall, call_in
from agentopt.models.responses_format import ResponseStream, response_body, responses_call_in


@dataclass(frozen=True, slots=True)
class ChatApi:
    """One form of a call.

    Attributes:
        read: Validates a parsed body. Raises `ApiError`.
        body: The response to a call that was answered.
        stream: Writes the response as server-sent events.
    """

    read: Callable[[Mapping[str, Any]], ChatCall]
    body: Callable[[ChatCall, Completion], dict[str, Any]]
    stream: Callable[[ChatCall], CompletionStream]


CHAT = ChatApi(
    call_in,
    lambda _, completion: completion.body(),
    lambda call: ChatStream(call.model, include_usage=call.include_usage),
)
"""`/v1/chat/completions`."""

RESPONSES = ChatApi(responses_call_in, response_body, ResponseStream)
"""`/v1/responses`."""
