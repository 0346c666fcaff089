"""Joins the server-sent events of a streamed chat completion to one completion."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agentopt.core.errors import MalformedResponseError
from agentopt.models.json_bytes import parse_json, unwrap_error
from agentopt.models.thoughts import THOUGHT_KEYS


def join_stream(content: bytes) -> dict[str, Any]:
    """Join server-sent events of a chat completion to one completion.

    Args:
        content: The body of the response.

    Raises:
        MalformedResponseError: An event is not JSON, or there is none.
    """
    completion: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    ended = False
    # Bytes, because a line of text also ends at U+2028 and others, which JSON may have within a string.
    for line in content.splitlines():
        data = line.removeprefix(b"data:").strip()
        ended = ended or data == b"[DONE]"
        if not line.startswith(b"data:") or not data or data == b"[DONE]":
            continue
        event = unwrap_error(parse_json(data))
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
    for choice in choices.values():
        # By index, because a server may send the second call before the first.
        choice.get("message", {}).get("tool_calls", []).sort(key=lambda call: call["index"])
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
        function = delta.get("function")
        function = function if isinstance(function, dict) else {}
        call = _continued_call(calls, delta, function)
        if call is None:
            index = delta.get("index")
            index = index if isinstance(index, int) else len(calls)
            call = {"index": index, "id": None, "function": {"name": "", "arguments": ""}}
            calls.append(call)
        call["id"] = call["id"] or delta.get("id")
        _add_function(call["function"], function)


def _continued_call(
    calls: Sequence[dict[str, Any]], delta: Mapping[str, Any], function: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The call that a delta continues; None if the delta starts another.

    Calls differ by index. Servers that send no index, or one index for all calls, send another id with each call, or
    no id but a name with each. An id alone starts no call: some servers send a new one with each delta.
    """
    index, new_id, name = delta.get("index"), delta.get("id"), function.get("name")
    known = [call for call in calls if not isinstance(index, int) or call["index"] == index]
    same_id = [call for call in known if new_id and call["id"] == new_id]
    call = next(reversed(same_id or known), None)
    if not name:
        return calls[-1] if calls and call is None and not new_id else call
    if call is None:
        return None
    if new_id and call["id"] and not same_id:
        return None
    before = call["function"]
    is_next = _is_object(before["arguments"]) if name == before["name"] else bool(before["arguments"])
    return None if is_next and _arguments(function).strip() else call


def _add_function(call: dict[str, str], function: Mapping[str, Any]) -> None:
    name = function.get("name")
    if isinstance(name, str) and name != call["name"]:  # some servers repeat the name in each delta
        call["name"] += name
    call["arguments"] += _arguments(function)


def _arguments(function: Mapping[str, Any]) -> str:
    arguments = function.get("arguments")
    return arguments if isinstance(arguments, str) else json.dumps(arguments) if isinstance(arguments, dict) else ""


def _is_object(text: str) -> bool:
    """Whether a text is a whole JSON object, so that nothing can continue it."""
    try:
        return text.rstrip().endswith("}") and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
