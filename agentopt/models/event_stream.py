"""Reads server-sent events, and joins those of a streamed chat completion to one completion."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentopt.core.errors import MalformedResponseError
from agentopt.models.json_bytes import parse_json, unwrap_error
from agentopt.models.thoughts import THOUGHT_KEYS

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
DONE = b"[DONE]"


class EventReader:
    """Reads the data of server-sent events from the parts of a body.

    Lines end in LF, CR or both. The `data:` lines of an event are joined by line breaks; an empty line ends it. What
    servers do against the standard is read too: a data line that is a JSON object or list, or `[DONE]`, is an event of
    its own without an empty line after it, and the last event may lack one. Ignored are comments, `id:`, `retry:`,
    events without data, and named events whose data is a word, such as pings.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._name = b""
        self._is_first_line = True
        self._ended_in_cr = False

    def feed(self, part: bytes) -> Iterator[bytes]:
        """Yield the data of the events that `part` completes: JSON or `[DONE]`, or what should have been JSON."""
        if not part:
            return
        rest = part.removeprefix(b"\n") if self._ended_in_cr else part  # the second half of a line end
        self._ended_in_cr = part.endswith(b"\r")
        # Bytes, because a line of text also ends at U+2028 and others, which JSON may have within a string.
        for line in rest.splitlines(keepends=True):
            self._rest += line
            if line.endswith((b"\n", b"\r")):
                whole, self._rest = bytes(self._rest).rstrip(b"\r\n"), bytearray()
                yield from self._line(whole)

    def end(self) -> Iterator[bytes]:
        """Yield the data of the last event, which no empty line ends."""
        yield from self._line(bytes(self._rest))
        yield from self._line(b"")

    def _line(self, line: bytes) -> Iterator[bytes]:
        if self._is_first_line:
            line, self._is_first_line = line.removeprefix(BYTE_ORDER_MARK), False
        if not line:
            yield from self._dispatched()
            self._name = b""
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            self._name = value.strip()
        elif field == b"data":
            if value.strip() == DONE or (not self._data and _is_whole(value)):
                yield from self._dispatched()
                self._data = [value]
                yield from self._dispatched()
            else:
                self._data.append(value)

    def _dispatched(self) -> Iterator[bytes]:
        data, self._data = b"\n".join(self._data).strip(), []
        if not data:
            return
        if self._name == b"error" and data != DONE:
            yield _error_of(data)
        elif self._name in (b"", b"message") or data == DONE or data.startswith((b"{", b"[")):
            yield data


def _is_whole(data: bytes) -> bool:
    """Whether data is a JSON object or list."""
    if not data.strip().endswith((b"}", b"]")):
        return False
    try:
        return isinstance(parse_json(data), dict | list)
    except MalformedResponseError:
        return False


def _error_of(data: bytes) -> bytes:
    """The data of an event `error` as an error body, in the provider's words if it is none."""
    try:
        error = unwrap_error(parse_json(data))
    except MalformedResponseError:
        error = data.decode(errors="replace")
    is_body = isinstance(error, dict) and error.get("error")
    return json.dumps(error if is_body else {"error": error or "an error without words"}).encode()


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
    reader = EventReader()
    for data in (*reader.feed(content), *reader.end()):
        ended = ended or data == DONE
        if data == DONE:
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


def text_in(data: bytes) -> str:
    """Return the text that the data of one event adds to the first choice; empty if it adds none."""
    try:
        event = parse_json(data)
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
