"""The OpenAI Responses format: text and function tools, as requests of chat completions. Pure; no web library."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from agentopt.core.errors import ApiError
from agentopt.models.base import Choice
from agentopt.models.openai_completion import Completion, event, finish_reason
from agentopt.models.openai_format import ChatCall, call_in

_REFUSED: Mapping[str, str] = {
    "previous_response_id": "responses are not stored; send the whole conversation as input",
    "conversation": "conversations are not stored; send the whole conversation as input",
    "prompt": "stored prompts are not supported; send instructions and input",
    "background": "background responses are not supported",
    "top_logprobs": "log probabilities are not supported",
}
"""Keys that are refused unless their value has no effect (null, false, 0, empty)."""

_SAME = ("model", "temperature", "top_p", "stream", "parallel_tool_calls")
"""Keys of both formats."""


def responses_call_in(body: Mapping[str, Any]) -> ChatCall:
    """Validate a parsed body of `/v1/responses`.

    Raises:
        ApiError: With status 400, and the key that is wrong.
    """
    for key, reason in _REFUSED.items():
        if body.get(key):
            raise ApiError(400, reason, param=key, code="unsupported_parameter")
    chat: dict[str, Any] = {key: body[key] for key in _SAME if key in body}
    chat["messages"] = _messages(body)
    if body.get("max_output_tokens") is not None:
        chat["max_completion_tokens"] = body["max_output_tokens"]
    if body.get("tools"):
        chat["tools"] = [_chat_tool(tool, f"tools[{i}]") for i, tool in enumerate(_list(body["tools"], "tools"))]
    if body.get("tool_choice") is not None:
        chat["tool_choice"] = _chat_tool_choice(body["tool_choice"])
    text = body.get("text")
    if isinstance(text, dict) and isinstance(form := text.get("format"), dict):
        schema = {"json_schema": {key: form[key] for key in ("name", "schema", "strict") if key in form}}
        chat["response_format"] = {"type": form.get("type"), **(schema if form.get("type") == "json_schema" else {})}
    return call_in(chat)


def response_body(call: ChatCall, completion: Completion) -> dict[str, Any]:
    """Return the `response` object.

    Args:
        call: The call.
        completion: Its answer, of one choice.
    """
    choice = completion.choices[0]
    is_whole = finish_reason(choice) not in ("length", "content_filter")
    reason = {"length": "max_output_tokens"}.get(choice.finish_reason, choice.finish_reason)
    head = _head(call, _id("resp", completion.id), completion.created)
    return {
        **head,
        "status": "completed" if is_whole else "incomplete",
        "incomplete_details": None if is_whole else {"reason": reason},
        "output": _items(choice, is_whole=is_whole),
        "usage": {
            "input_tokens": completion.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": completion.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": completion.prompt_tokens + completion.completion_tokens,
        },
    }


class ResponseStream:
    """A response as server-sent events.

    Args:
        call: The call.
    """

    def __init__(self, call: ChatCall) -> None:
        self._call, self._first = call, Completion(call.model, ())
        self._item = f"msg_{uuid.uuid4().hex}"
        self._number = 0
        self._sent: str | None = None

    def text(self, delta: str) -> Iterator[bytes]:
        """The events of a part of the text."""
        if self._sent is None:
            yield from self._begin()
            yield from self._open_message()
        self._sent = (self._sent or "") + delta
        yield self._event("response.output_text.delta", **self._place, delta=delta, logprobs=[])

    def end(self, completion: Completion) -> Iterator[bytes]:
        """The events of all that was not sent yet, and the end of the stream."""
        choice = completion.choices[0]
        body = response_body(self._call, completion)
        body |= {"id": _id("resp", self._first.id), "created_at": self._first.created}
        if self._sent is None:
            yield from self._begin()
        for index, item in enumerate(body["output"]):
            if item["type"] == "message":
                item["id"] = self._item
                yield from self._message(item, choice.text)
            else:
                yield from self._function_call(item, index)
        yield self._event(f"response.{body['status']}", response=body)

    def error(self, error: ApiError) -> bytes:
        """The event of a failure after the stream has begun."""
        return self._event("error", code=error.code, message=error.message, param=error.param)

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._item, "output_index": 0, "content_index": 0}

    def _begin(self) -> Iterator[bytes]:
        head = _head(self._call, _id("resp", self._first.id), self._first.created)
        for kind in ("created", "in_progress"):
            yield self._event(f"response.{kind}", response={**head, "status": "in_progress", "output": []})

    def _open_message(self) -> Iterator[bytes]:
        item = {"id": self._item, "type": "message", "status": "in_progress", "role": "assistant", "content": []}
        yield self._event("response.output_item.added", output_index=0, item=item)
        yield self._event("response.content_part.added", **self._place, part=_text_part(""))

    def _message(self, item: dict[str, Any], text: str) -> Iterator[bytes]:
        if self._sent is None:
            yield from self._open_message()
        if rest := text.removeprefix(self._sent or ""):
            yield self._event("response.output_text.delta", **self._place, delta=rest, logprobs=[])
        yield self._event("response.output_text.done", **self._place, text=text, logprobs=[])
        yield self._event("response.content_part.done", **self._place, part=item["content"][0])
        yield self._event("response.output_item.done", output_index=0, item=item)

    def _function_call(self, item: dict[str, Any], index: int) -> Iterator[bytes]:
        place = {"item_id": item["id"], "output_index": index}
        begun = {**item, "arguments": "", "status": "in_progress"}
        arguments, kind = item["arguments"], "response.function_call_arguments"
        yield self._event("response.output_item.added", output_index=index, item=begun)
        yield self._event(f"{kind}.delta", **place, delta=arguments)
        yield self._event(f"{kind}.done", **place, name=item["name"], arguments=arguments)
        yield self._event("response.output_item.done", output_index=index, item=item)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number - 1, **fields}, kind)


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    given, instructions = body.get("input"), body.get("instructions")
    messages: list[dict[str, Any]] = []
    if isinstance(instructions, str) and instructions:
        messages.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    for i, item in enumerate(_list(given, "input")):
        _add_item(messages, item, f"input[{i}]")
    return messages


def _add_item(messages: list[dict[str, Any]], item: Any, where: str) -> None:
    """Add an input item; the calls of one answer become one assistant message."""
    kind = item.get("type", "message") if isinstance(item, dict) else None
    if kind == "message":
        messages.append({"role": item.get("role"), "content": _chat_content(item.get("content"))})
    elif kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        if messages and messages[-1].get("role") == "assistant":
            messages[-1].setdefault("tool_calls", []).append(call)
        else:
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    elif kind == "function_call_output":
        content = _chat_content(item.get("output"))
        messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
    elif kind != "reasoning":  # the thoughts of an earlier answer are not sent again
        rule = f"an item must be a message, function_call, function_call_output or reasoning, but got {kind!r}"
        raise ApiError(400, rule, param=where, code="unsupported_parameter")


def _chat_content(content: Any) -> Any:
    return [_chat_part(part) for part in content] if isinstance(content, list) else content


def _chat_part(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": part.get("text")}
    if kind == "refusal":
        return {"type": "text", "text": part.get("refusal")}
    if kind == "input_image":
        detail = {"detail": part["detail"]} if part.get("detail") else {}
        return {"type": "image_url", "image_url": {"url": part.get("image_url"), **detail}}
    if kind == "input_file":
        names = ("file_data", "file_id", "filename")
        return {"type": "file", "file": {name: part[name] for name in names if part.get(name)}}
    return part


def _chat_tool(tool: Any, where: str) -> dict[str, Any]:
    if not isinstance(tool, dict) or tool.get("type") != "function":
        kind = tool.get("type") if isinstance(tool, dict) else tool
        rule = f"tools must be of type function, but got {kind!r}"
        raise ApiError(400, rule, param=f"{where}.type", code="unsupported_parameter")
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {name: tool[name] for name in names if tool.get(name) is not None}}


def _chat_tool_choice(choice: Any) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        rule = f"{where} must be a list, but got {type(value).__name__}"
        raise ApiError(400, rule, param=where, code="invalid_value")
    return value


def _head(call: ChatCall, response_id: str, created: int) -> dict[str, Any]:
    """The fields of a response that are known before its answer."""
    choice = json.loads(call.tool_choice) if call.tool_choice else "auto"
    if isinstance(choice, dict):
        choice = {"type": "function", "name": choice["function"]["name"]}
    tools = [json.loads(tool)["function"] for tool in call.tools]
    return {
        "id": response_id,
        "object": "response",
        "created_at": created,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": call.model,
        "parallel_tool_calls": call.parallel_tool_calls is not False,
        "temperature": call.temperature,
        "top_p": call.top_p,
        "max_output_tokens": call.max_tokens,
        "tool_choice": choice,
        "tools": [{"type": "function", "parameters": None, "strict": None, **tool} for tool in tools],
    }


def _items(choice: Choice, *, is_whole: bool) -> list[dict[str, Any]]:
    """The output items: the message, if there is a text or nothing else, and the function calls."""
    status = "completed" if is_whole else "incomplete"
    items: list[dict[str, Any]] = []
    if choice.text or not choice.tool_calls:
        content, name = [_text_part(choice.text)], f"msg_{uuid.uuid4().hex}"
        items.append({"id": name, "type": "message", "status": status, "role": "assistant", "content": content})
    for call in choice.tool_calls:
        item = {"id": f"fc_{uuid.uuid4().hex}", "type": "function_call", "status": status, "call_id": call.id}
        items.append({**item, "name": call.name, "arguments": call.arguments})
    return items


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _id(prefix: str, completion_id: str) -> str:
    return f"{prefix}_{completion_id.removeprefix('chatcmpl-')}"
