"""The span of a model call, by the semantic conventions of OpenTelemetry for generative AI (version 1.37 and later).

Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

from agentopt.core.budget import Usage
from agentopt.core.spans import Attribute, Span, span
from agentopt.models.base import Choice, Message, Request, Response
from agentopt.models.catalog import ModelSpec

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""Environment variable: with one of `CAPTURED`, prompts and answers are recorded. They may be confidential."""
CAPTURED = {"true", "span_only", "span_and_event"}

PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
"""Prefix of a litellm model string -> the provider's name by the conventions, if they differ."""


class CallSpan:
    """The span of one call of `ModelClient.generate`.

    Attributes:
        response: What it returned.
        is_cached: Whether the journal had all of it.
        usage: What was paid for it, failed attempts included.
    """

    def __init__(self) -> None:
        self.response: Response | None = None
        self.is_cached = False
        self.usage = Usage()

    def attributes(self) -> dict[str, Attribute]:
        """The attributes that are known at the end. A cached response used no tokens."""
        response, has_usage = self.response, self.usage.calls > 0
        return {
            "agentopt.cached": self.is_cached,
            "agentopt.usd": self.usage.usd,
            "gen_ai.usage.input_tokens": self.usage.prompt_tokens if has_usage else None,
            "gen_ai.usage.output_tokens": self.usage.completion_tokens if has_usage else None,
            "gen_ai.response.finish_reasons": [c.finish_reason for c in response.choices] if response else None,
        }


_CALL: ContextVar[CallSpan | None] = ContextVar("call_span", default=None)


@contextmanager
def call_span(request: Request, spec: ModelSpec, run: str) -> Iterator[CallSpan]:
    """Record a span around a call.

    Args:
        request: The request.
        spec: The catalogue entry of its model.
        run: Identifier of the run in the ledger.
    """
    call = CallSpan()
    name = f"chat {_model(spec)}"
    with span(name, lambda: {**_of_request(request, spec), "agentopt.run": run}, "CLIENT") as current:
        if not current.recorded:
            yield call
            return
        token = _CALL.set(call)
        try:
            yield call
        finally:
            _CALL.reset(token)
            current.set(call.attributes())
            _capture(current, request, call.response)


def paid(usage: Usage) -> None:
    """Add what an attempt used to the span of its call, if one is recorded."""
    if call := _CALL.get():
        call.usage += usage


def _of_request(request: Request, spec: ModelSpec) -> dict[str, Attribute]:
    endpoint = urlsplit(spec.base_url or "")
    is_secure = endpoint.scheme == "https"
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _provider(spec),
        "gen_ai.request.model": _model(spec),
        "server.address": endpoint.hostname,
        "server.port": endpoint.hostname and (endpoint.port or (443 if is_secure else 80)),
        "gen_ai.request.choice.count": request.n if request.n > 1 else None,
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.top_p": request.top_p,
        "gen_ai.request.stop_sequences": request.stop or None,
        "gen_ai.output.type": "json" if request.json_schema else None,
        "agentopt.model": request.model,
        "agentopt.purpose": request.purpose,
    }


def _model(spec: ModelSpec) -> str:
    """The name that the endpoint has for the model."""
    return spec.litellm.partition("/")[2] or spec.litellm if spec.litellm else spec.model or spec.name


def _provider(spec: ModelSpec) -> str:
    if spec.weights:
        return "llama.cpp"
    prefix, has_prefix, _ = (spec.litellm or "").partition("/")
    return PROVIDERS.get(prefix, prefix) if has_prefix else "openai"


def _capture(current: Span, request: Request, response: Response | None) -> None:
    """Record prompt and answers, if the environment variable `CAPTURE` has one of `CAPTURED`."""
    if os.environ.get(CAPTURE, "").strip().lower() in CAPTURED:
        answers = [_answered(choice) for choice in response.choices] if response else None
        current.set(
            {
                "gen_ai.input.messages": json.dumps([_sent(message) for message in request.messages]),
                "gen_ai.output.messages": json.dumps(answers) if answers else None,
            }
        )


def _sent(message: Message) -> Mapping[str, Any]:
    if message.role == "tool":
        part = {"type": "tool_call_response", "id": message.tool_call_id, "result": message.content}
        return {"role": "tool", "parts": [part]}
    return {"role": message.role, "parts": [*_texts(message.content), *map(_called, message.tool_calls)]}


def _answered(choice: Choice) -> Mapping[str, Any]:
    parts = [*_texts(choice.text), *map(_called, choice.tool_calls)]
    return {"role": "assistant", "parts": parts, "finish_reason": choice.finish_reason}


def _texts(content: str) -> list[Mapping[str, Any]]:
    return [{"type": "text", "content": content}] if content else []


def _called(call: Any) -> Mapping[str, Any]:
    return {"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.arguments}
