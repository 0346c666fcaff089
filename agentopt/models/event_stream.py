"""Joins the server-sent events of a streamed chat completion to one completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopt.core.errors import MalformedResponseError
from agentopt.models.json_bytes import parse_json, unwrap_error
from agentopt.models.thoughts import THOUGHT_KEYS


def join_stream(text: str) -> dict[str, Any]:
    """Join server-sent events of a chat completion to one completion.

    Raises:
        MalformedResponseError: An event is not JSON, or there is none.
    """
    completion: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    ended = False
    for line in text.splitlines():
        data = line.removeprefix("data:").strip()
        ended = ended or data == "[DONE]"
        if not line.startswith("data:") or not data or data == "[DONE]":
            continue
        event = unwrap_error(parse_json(data.encode(errors="replace")))
        if not isinstance(event, dict):
            raise MalformedResponseError(f"expected an event to be an object, but got {type(event).__name__}")
        completion |= {key: event[key] for key in ("usage", "error") if event.get(key)}
        deltas = event.get("choices")
        for delta in deltas if isinstance(deltas, list) else []:
            if isinstance(delta, dict):
                index = delta.get("index")
                _add_delta(choices.setdefault(index if isinstance(index, int) else 0, {}), delta)
    if "error" in completion:  # whatever came before: a stream that breaks off is not a completion
        return completion
    if not ended and not any("finish_reason" in choice for choice in choices.values()):
        raise MalformedResponseError("the stream ended before the answer did")
    return {**completion, "choices": [choices[index] for index in sorted(choices)]}


def text_in(line: bytes) -> str:
    """Return the text that one line of a stream adds to the first choice; empty if it adds none."""
    if not line.startswith(b"data:"):
        return ""
    try:
        event = parse_json(line.removeprefix(b"data:").strip())
    except MalformedResponseError:
        return ""
    choices = event.get("choices") if isinstance(event, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return ""
    delta = choices[0].get("delta")
    text = delta.get("content") if isinstance(delta, dict) else choices[0].get("text")
    if isinstance(text, list):
        texts = [part.get("text") for part in text if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(part for part in texts if isinstance(part, str))
    return text if isinstance(text, str) else ""


def _add_delta(choice: dict[str, Any], delta: Mapping[str, Any]) -> None:
    if delta.get("finish_reason"):
        choice["finish_reason"] = delta["finish_reason"]
    if isinstance(delta.get("text"), str):
        choice["text"] = choice.get("text", "") + delta["text"]
        return
    part = delta.get("delta") if isinstance(delta.get("delta"), dict) else delta.get("message")
    message = choice.setdefault("message", {"content": ""})
    if not isinstance(part, dict):
        return
    for key in (*THOUGHT_KEYS, "refusal"):
        text, before = part.get(key), message.get(key)
        if isinstance(text, str) and isinstance(before or "", str):
            message[key] = (before or "") + text
        elif isinstance(text, list) and isinstance(before or [], list):
            message[key] = [*(before or []), *text]
    _add_content(message, part.get("content"))
    _add_tool_calls(message, part.get("tool_calls"))


def _add_content(message: dict[str, Any], content: Any) -> None:
    """Add a text, or a list of parts, which the content is then too."""
    before = message["content"]
    if isinstance(content, str) and isinstance(before, str):
        message["content"] = before + content
    elif isinstance(content, str | list) and content:
        message["content"] = [*_parts(before), *_parts(content)]


def _parts(content: str | list[Any]) -> list[Any]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]


def _add_tool_calls(message: dict[str, Any], deltas: Any) -> None:
    for delta in deltas if isinstance(deltas, list) else []:
        if not isinstance(delta, dict):
            continue
        calls = message.setdefault("tool_calls", [])
        index = delta.get("index")
        index = index if isinstance(index, int) and 0 <= index <= len(calls) else len(calls)
        if index == len(calls):
            calls.append({"id": delta.get("id"), "function": {"name": "", "arguments": ""}})
        function = delta.get("function")
        for key in ("name", "arguments"):
            if isinstance(function, dict) and isinstance(function.get(key), str):
                calls[index]["function"][key] += function[key]
