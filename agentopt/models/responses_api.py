"""Converts requests and answers between chat completions and OpenAI's responses API, which some models need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

LEAST_TOKENS = 16
"""Smallest `max_output_tokens` that the API accepts."""
NOT_SENT = ("n", "seed", "stop", "stream", "stream_options")
"""Parameters of chat completions that the API does not have, and streaming, which is not needed."""


def responses_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the body of a chat completion to one of the responses API; further keys are kept."""
    sent = {name: value for name, value in body.items() if name not in (*NOT_SENT, "messages")}
    sent["input"] = [item for message in body.get("messages", ()) for item in _items(message)]
    limits = [sent.pop(name) for name in ("max_tokens", "max_completion_tokens") if name in sent]
    if limits:
        sent["max_output_tokens"] = max(LEAST_TOKENS, limits[0])
    if effort := sent.pop("reasoning_effort", None):
        sent["reasoning"] = {"effort": effort}
    if form := sent.pop("response_format", None):
        sent["text"] = {"format": {"type": form["type"], **form.get("json_schema", {})}}
    if "tools" in sent:
        sent["tools"] = [{"type": "function", **tool["function"]} for tool in sent["tools"]]
    if isinstance(choice := sent.get("tool_choice"), dict):
        sent["tool_choice"] = {"type": "function", "name": choice["function"]["name"]}
    return sent


def _items(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    content = message.get("content")
    if message["role"] == "tool":
        yield {"type": "function_call_output", "call_id": message.get("tool_call_id"), "output": content}
        return
    if content:
        role = "developer" if message["role"] == "system" else message["role"]
        yield {"role": role, "content": content if isinstance(content, str) else [_part(part) for part in content]}
    for call in message.get("tool_calls", ()):
        yield {"type": "function_call", "call_id": call["id"], **call["function"]}


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part.get("type") == "text":
        return {"type": "input_text", "text": part.get("text")}
    if part.get("type") == "image_url":
        image = part.get("image_url")
        return {"type": "input_image", "image_url": image.get("url") if isinstance(image, dict) else image}
    return dict(part)


def as_completion(answer: Any) -> Any:
    """Convert a parsed response to a chat completion. Anything else is returned unchanged."""
    if not isinstance(answer, dict) or not isinstance(answer.get("output"), list):
        return answer
    message: dict[str, Any] = {"role": "assistant", "content": [], "tool_calls": []}
    for item in answer["output"]:
        if isinstance(item, dict):
            _add_item(message, item)
    reason = answer.get("incomplete_details")
    cut = reason.get("reason") if isinstance(reason, dict) else None
    broken = answer.get("status") if answer.get("status") in ("failed", "cancelled") else None
    ended = cut or broken or ("tool_calls" if message["tool_calls"] else "stop")
    choices = [{"message": message, "finish_reason": ended}]
    if answer.get("error"):
        choices = []
    return {"choices": choices, "usage": _usage(answer.get("usage")), "error": answer.get("error")}


def _add_item(message: dict[str, Any], item: Mapping[str, Any]) -> None:
    match item.get("type"):
        case "function_call":
            call = {"name": item.get("name"), "arguments": item.get("arguments")}
            message["tool_calls"].append({"id": item.get("call_id"), "function": call})
        case "reasoning":
            parts = [*_list(item.get("summary")), *_list(item.get("content"))]
            message["content"] += [{**part, "type": "reasoning"} for part in parts if isinstance(part, dict)]
        case "message":
            message["content"] += _list(item.get("content"))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _usage(usage: Any) -> Any:
    if not isinstance(usage, dict):
        return usage
    details = {
        "prompt_tokens_details": usage.get("input_tokens_details"),
        "completion_tokens_details": usage.get("output_tokens_details"),
    }
    return {**usage, **details}
