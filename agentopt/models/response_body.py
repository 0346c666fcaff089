"""Reads the body of a chat completion, whatever an endpoint sends.

Any bytes give a `ReadBody` or a `MalformedResponseError`; nothing else is raised.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import unescape
from typing import Any

from agentopt.core.errors import MalformedResponseError
from agentopt.core.unicode_text import well_formed
from agentopt.models.base import ToolCall
from agentopt.models.event_stream import BYTE_ORDER_MARK, join_stream
from agentopt.models.json_bytes import parse_json, unwrap_error
from agentopt.models.thoughts import THOUGHT_KEYS, split_thought

MOST_TOKENS = 10_000_000
"""A larger count in `usage` is not believed: no model has such a context."""
FINISH_REASONS = {
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "complete": "stop",
    "error_limit": "length",
    "model_context_window_exceeded": "length",
    "too_many_tokens": "length",
    "num_predict": "length",
    "tool_use": "tool_calls",
    "tool_call": "tool_calls",
    "function_call": "tool_calls",
    "refusal": "content_filter",
    "sensitive": "content_filter",
    "guardrail_intervened": "content_filter",
    **{reason: reason for reason in ("stop", "length", "tool_calls", "content_filter")},
}
"""A provider's word, in lower case and with underscores -> that of the OpenAI format."""
CUT_OFF = re.compile(r"(max_)?(\w+_)?(length|tokens)|(\w*token|output|compute)?_?limit")
"""Further words for an answer that was cut off, such as Gemini's `MAX_TOKENS`."""
FILTERED = re.compile(r"content.?filter|safety|prohibited.?content|recitation|blocklist|\bspii\b|toxic", re.IGNORECASE)
"""Words of Gemini, also after `content_filter: `, of Bedrock and of Cohere."""
THOUGHT = re.compile(r"(redacted_)?(thinking|reasoning|thought)|summary_text")
"""Types of the parts of a content that are thoughts."""
TEXT_KEYS = ("text", "thinking", "reasoning", "reasoning_content", "summary", "refusal", "content", "value")
"""Keys of the text in a part."""
DEEPEST_TEXT = 6
"""Most lists and objects around the text of a part."""
BROKEN_OFF = re.compile(r"error|fail|abort|cancel|interrupt|time.?out|timed.?out|insufficient", re.IGNORECASE)
"""Words for an answer that the provider's own failure ended, such as DeepSeek's `insufficient_system_resource`."""
ERROR_KEYS = ("detail", "message", "msg", "error_msg", "status_msg", "errors", "base_resp")
"""Keys of errors in the bodies of endpoints without `error`."""
LONGEST_PAGE = 20_000
"""Bytes of a page that are read for its words."""
CODE_KEYS = ("code", "error_code", "status_code", "statusCode", "status")


@dataclass(frozen=True, slots=True)
class ReadChoice:
    """One choice as it was read; `text` is without thoughts."""

    text: str
    finish_reason: str = "stop"
    thought: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def length(self) -> int:
        """Characters that the model wrote."""
        return len(self.text) + len(self.thought) + sum(len(c.name) + len(c.arguments) for c in self.tool_calls)


@dataclass(frozen=True, slots=True)
class ReadUsage:
    """Tokens as the provider reported them; None for a count that is missing or absurd.

    `of_first`: the completion tokens are those of the first choice only.
    """

    prompt: int | None = None
    completion: int | None = None
    cached: int = 0
    reasoning: int = 0
    of_first: bool = False


@dataclass(frozen=True, slots=True)
class ReadBody:
    """A completion: at least one choice, and the usage."""

    choices: tuple[ReadChoice, ...]
    usage: ReadUsage


def read_body(content: bytes, *, most: int, content_type: str = "") -> ReadBody:
    """Read a whole body: a JSON object, or a stream of server-sent events.

    Args:
        content: The body after decompression.
        most: Most choices to read.
        content_type: The `Content-Type` header.

    Raises:
        MalformedResponseError: The body is not a completion, or an error object.
    """
    text = content.removeprefix(BYTE_ORDER_MARK).lstrip()
    is_stream = "event-stream" in content_type and not text.startswith((b"{", b"["))  # an error may be sent whole
    if is_stream or text.startswith((b"data:", b"event:", b"id:", b"retry:", b":")):
        return read_completion(join_stream(content), most=most)
    if text.startswith(b"<"):
        raise MalformedResponseError(f"a page, not JSON: {page_text(content)[:200]}; is base_url the API's?")
    return read_completion(parse_json(content), most=most)


def read_completion(answer: Any, *, most: int) -> ReadBody:
    """Read a parsed completion.

    Raises:
        MalformedResponseError: It is not a completion, or an error object.
    """
    answer = unwrap_error(answer)
    if not isinstance(answer, dict):
        raise MalformedResponseError(f"expected a JSON object, but got {type(answer).__name__}")
    # llama.cpp's server, the only one that sends `timings`, counts the first of several choices.
    usage = read_usage(answer.get("usage"))
    usage = replace(usage, of_first=True) if "timings" in answer else usage
    tokens = None if usage.prompt is None or usage.completion is None else (usage.prompt, usage.completion)
    choices = answer.get("choices")
    if not choices and (error := error_in(answer)):
        raise _error_body(error, tokens)
    if not isinstance(choices, list) or not choices:
        raise _with_tokens(MalformedResponseError(f"expected choices, but got {_shown(choices)}"), tokens)
    try:
        return ReadBody(tuple(read_choice(choice) for choice in choices[:most]), usage)
    except MalformedResponseError as error:
        raise _with_tokens(error, tokens) from None


def read_choice(choice: Any) -> ReadChoice:
    """Read one choice: text or content parts, thoughts, tool calls, refusal.

    Null content is an empty text, whatever the route and the reason.

    Raises:
        MalformedResponseError: It is not a choice.
    """
    if not isinstance(choice, dict):
        raise MalformedResponseError(f"expected a choice to be an object, but got {type(choice).__name__}")
    if choice.get("error"):
        raise _error_body(choice["error"], None)
    message = choice.get("message")
    if not isinstance(message, dict):
        if "text" not in choice:
            raise MalformedResponseError(f"expected a choice to have a message, but got {_shown(message)}")
        message = {"content": choice["text"]}
    calls = _tool_calls(message)
    text, parts_thought = _content(message.get("content"))
    if not text and isinstance(message.get("refusal"), str):
        text = message["refusal"]
    inline, text = split_thought(well_formed(text))
    separate = _thought(message)
    thought = "\n".join(part for part in (separate, parts_thought, inline) if part)
    reason = _finish_reason(choice.get("finish_reason")) or ("tool_calls" if calls else "stop")
    return ReadChoice(text, reason, well_formed(thought), calls)


def _finish_reason(given: Any) -> str:
    """The reason in the OpenAI format, or the provider's own word; empty if there is none."""
    if not isinstance(given, str) or not given:
        return ""
    if given in FINISH_REASONS:
        return FINISH_REASONS[given]
    word = re.sub(r"[\s-]+", "_", given.strip().lower()).removeprefix("finish_reason_")
    if FILTERED.search(given):
        return "content_filter"
    if word in FINISH_REASONS or CUT_OFF.fullmatch(word):
        return FINISH_REASONS.get(word, "length")
    if BROKEN_OFF.search(given):
        raise MalformedResponseError(f"finish_reason is {well_formed(given)[:32]!r}")
    return well_formed(given)[:32]


def error_in(answer: Mapping[str, Any]) -> Any:
    """Return the error of a body without choices, in whatever form; None if it has none.

    A code of MiniMax or of Baidu's first version follows the key that it is sent under, as in `provider_error_codes`.
    """
    if answer.get("error"):
        return answer["error"]
    words = next((answer[key] for key in ERROR_KEYS if answer.get(key)), None)
    if words is None:
        return None
    first = words[0] if isinstance(words, list) else words
    fields = first if isinstance(first, dict) else {}
    message = fields.get("status_msg") or fields.get("message") or words
    code = next((given[key] for given in (fields, answer) for key in CODE_KEYS if given.get(key)), None)
    if answer.get("base_resp") is words:
        code = f"base_resp {code}"
    elif str(code).isdecimal() and code == answer.get("error_code"):
        code = f"error_code {code}"
    message = message if isinstance(message, str) else json.dumps(message, default=str)
    return {"message": message, "code": code, "param": answer.get("param")}


def read_usage(usage: Any) -> ReadUsage:
    """Read the usage of a completion, in the OpenAI or the Anthropic format."""
    if not isinstance(usage, dict):
        return ReadUsage()
    prompt = _first_count(usage, "prompt_tokens", "input_tokens")
    completion = _first_count(usage, "completion_tokens", "output_tokens")
    cached = _detail(usage, "prompt_tokens_details", "cached_tokens") or _count(usage.get("prompt_cache_hit_tokens"))
    reasoning = _detail(usage, "completion_tokens_details", "reasoning_tokens")
    return ReadUsage(prompt, completion, min(cached or 0, prompt or 0), min(reasoning or 0, completion or 0))


def error_object(error: Any) -> Mapping[str, Any]:
    """Return an error's fields; a text is its message."""
    return error if isinstance(error, dict) else {"message": well_formed(str(error))[:1000]}


def error_text(error: Mapping[str, Any]) -> str:
    """Return the provider's words in an error object: the message, and the code or type."""
    code = next((error[key] for key in ("code", "type", "status") if isinstance(error.get(key), str)), None)
    detail = error.get("metadata")
    raw = detail.get("raw") if isinstance(detail, dict) else None
    words = [part for part in (error.get("message"), raw, code) if isinstance(part, str) and part]
    return well_formed(" ".join(dict.fromkeys(words))) or well_formed(json.dumps(error, default=str)[:1000])


def page_text(content: bytes) -> str:
    """Return the beginning of a body that is no JSON as text, of an HTML page without its tags, scripts and styles."""
    text = content[:LONGEST_PAGE].decode(errors="replace").strip()
    if not text.startswith("<"):
        return text
    text = re.sub(r"<(script|style)\b.*?(</\1>|\Z)|<!--.*?-->", " ", text, flags=re.IGNORECASE | re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^<>]*>?", " ", text)).split()) or "an HTML page"


def _error_body(error: Any, tokens: tuple[int, int] | None) -> MalformedResponseError:
    fields = error_object(error)
    failure = MalformedResponseError(error_text(fields))
    failure.error, failure.tokens = fields, tokens
    return failure


def _with_tokens(error: MalformedResponseError, tokens: tuple[int, int] | None) -> MalformedResponseError:
    error.tokens = tokens
    return error


def _shown(value: Any) -> str:
    return "none" if value is None or value == [] else type(value).__name__


def _content(content: Any) -> tuple[str, str]:
    """Text and thoughts of a message's content, which may be one part or a list of parts."""
    if content is None:
        return "", ""
    if isinstance(content, str):
        return content, ""
    if isinstance(content, dict):
        parts = content.get("parts")
        content = parts if isinstance(parts, list) else [content]
    if not isinstance(content, list):
        raise MalformedResponseError(f"expected a choice's content to be text, but got {type(content).__name__}")
    texts: list[str] = []
    thoughts: list[str] = []
    for part in content:
        is_thought = isinstance(part, dict) and (part.get("thought") is True or THOUGHT.match(str(part.get("type"))))
        (thoughts if is_thought else texts).append(_text_of(part))
    return "".join(texts), "\n".join(thought for thought in thoughts if thought)


def _text_of(value: Any, depth: int = 0) -> str:
    """The text in a part of a content, or in the value of a field of thoughts."""
    if isinstance(value, list | dict) and depth == DEEPEST_TEXT:
        return ""
    if isinstance(value, list):
        return "\n".join(filter(None, (_text_of(part, depth + 1) for part in value)))
    if isinstance(value, dict):
        return next((text for key in TEXT_KEYS if (text := _text_of(value.get(key), depth + 1))), "")
    return value if isinstance(value, str) else ""


def _thought(message: Mapping[str, Any]) -> str:
    if message.keys().isdisjoint(THOUGHT_KEYS):
        return ""
    return next((text for key in THOUGHT_KEYS if (text := _text_of(message.get(key)))), "")


def _tool_calls(message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return ()
    found = []
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise MalformedResponseError(f"expected a tool call to have a function with a name, but got {_shown(call)}")
        arguments = function.get("arguments")
        text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
        call_id = call.get("id")
        found.append(
            ToolCall(str(call_id) if call_id else f"call_{index}", well_formed(function["name"]), well_formed(text))
        )
    return tuple(found)


def _count(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 0 <= value <= MOST_TOKENS or value != value // 1:
        return None
    return int(value)


def _first_count(usage: Mapping[str, Any], *names: str) -> int | None:
    return next((count for name in names if (count := _count(usage.get(name))) is not None), None)


def _detail(usage: Mapping[str, Any], group: str, name: str) -> int | None:
    details = usage.get(group)
    return _count(details.get(name)) if isinstance(details, dict) else None
