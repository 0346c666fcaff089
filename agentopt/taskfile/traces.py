"""Reads recorded model calls: spans of OpenTelemetry's GenAI conventions, a Langfuse export, or an OpenAI chat log.

- OpenTelemetry, JSON lines of OTLP (`resourceSpans`): spans with the attributes `gen_ai.input.messages`,
  `gen_ai.output.messages` and `gen_ai.system_instructions`, as JSON text or structured.
- Langfuse, observations as JSON or JSON lines: `type: GENERATION`, in camel case or snake case; also traces that hold
  them in `observations`.
- OpenAI, a row for each call: `messages` that end with the assistant's, as in fine-tuning files, or `request` and
  `response` with the bodies of both, of chat completions or of responses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from agentopt.core.errors import TaskError
from agentopt.core.yaml_models import listed, validate


@dataclass(frozen=True)
class Call:
    """A recorded call with text as its input and output. `model` is empty if it was not recorded."""

    trace: str
    start: str
    name: str
    system: str
    prompt: str
    output: str
    model: str = ""


def is_traces(row: Mapping[str, Any]) -> bool:
    """Whether a row is of recorded calls rather than of a table."""
    is_langfuse = _is_langfuse(row) or bool(_observations(row))
    return "resourceSpans" in row or isinstance(row.get("messages"), list) or is_langfuse or _exchange(row) is not None


def read_calls(rows: Sequence[Mapping[str, Any]], where: str) -> list[Call]:
    """Read the calls, in the order of their start in each trace.

    Args:
        rows: Rows of which the first `is_traces`.
        where: The source, for messages.

    Raises:
        TaskError: A row has another form, or none has a call with text as its input and output.
    """
    found = [call for number, row in enumerate(rows, 1) for call in _calls(row, number, where)]
    usable = [call for call in found if call.prompt.strip() and call.output.strip()]
    if not usable:
        rule = (
            "traces must have calls with an input and an output as text, but no call of this form was found; the first "
        )
        rule += f"row has {listed(sorted(rows[0]))}"
        remedy = (
            "export spans with gen_ai.input.messages and gen_ai.output.messages, or generations with input and output"
        )
        raise TaskError(rule, where=where, remedy=remedy)
    return sorted(usable, key=lambda call: (call.trace, call.start))


class _Record(BaseModel):
    """A part of an export, in camel case or snake case; its other keys are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class _Attribute(_Record):
    key: str
    value: dict[str, Any] = {}


class _Span(_Record):
    trace_id: str
    span_id: str | None = None
    parent_span_id: str | None = None
    name: str = ""
    start_time_unix_nano: str | int
    attributes: list[_Attribute] = []


class _Scope(_Record):
    spans: list[_Span] = []


class _Resource(_Record):
    scope_spans: list[_Scope] = []


class _Export(_Record):
    """A line of an OTLP file."""

    resource_spans: list[_Resource]


class _Observation(_Record):
    """An observation of Langfuse."""

    type: str
    trace_id: str
    start_time: str | None = None
    name: str | None = None
    input: Any
    output: Any
    model: str | None = None


def _is_langfuse(row: Mapping[str, Any]) -> bool:
    return {"type", "input", "output"} <= set(row) and ("traceId" in row or "trace_id" in row)


def _calls(row: Mapping[str, Any], number: int, where: str) -> Iterator[Call]:
    place = f"{where}: row {number}"
    if "resourceSpans" in row:
        yield from _spans(validate(_Export, row, place, TaskError))
    elif inner := _observations(row):
        for observation in inner:
            yield from _observed({"traceId": row.get("id") or str(number), **observation}, place)
    elif _is_langfuse(row):
        yield from _observed(row, place)
    elif exchange := _exchange(row):
        given, output, model = exchange
        yield _call(str(number), "", "answer", given, output, model)
    elif isinstance(row.get("messages"), list) and row["messages"] and _role(row["messages"][-1]) == "assistant":
        yield _call(str(number), "", "answer", row["messages"][:-1], _text(row["messages"][-1]))


def _observations(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The observations that a trace of Langfuse holds; empty if it is none, or has their ids only."""
    inner = row.get("observations")
    found = [one for one in inner if isinstance(one, dict)] if isinstance(inner, list) else []
    return [one for one in found if {"type", "input", "output"} <= set(one)]


def _observed(row: Mapping[str, Any], place: str) -> Iterator[Call]:
    seen = validate(_Observation, row, place, TaskError)
    if seen.type == "GENERATION":
        given, output = _decoded(seen.input), _texts(_decoded(seen.output))
        yield _call(seen.trace_id, seen.start_time or "", seen.name or "call", given, output, seen.model)


def _exchange(row: Mapping[str, Any]) -> tuple[Any, str, Any] | None:
    """The messages of a logged request, the text of its response, and its model; None if the row has another form."""
    request, response = (_body(row.get(name)) for name in ("request", "response"))
    given = (request or row).get("messages", (request or {}).get("input"))
    answer = response or row
    choices = answer.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        written = choices[0].get("message", choices[0])
    else:
        written = answer.get("output") if response else None
    if not isinstance(given, list | str) or not isinstance(written, list | dict):
        return None
    instructions = (request or {}).get("instructions")
    before = [{"role": "system", "content": instructions}] if isinstance(instructions, str) else []
    messages = [*before, *(given if isinstance(given, list) else [given])]
    return messages, _text(written), (request or row).get("model")


def _body(part: Any) -> dict[str, Any] | None:
    """A request or a response, or the body in it; it may be JSON text."""
    found = _decoded(part)
    inner = _decoded(found.get("body")) if isinstance(found, dict) else None
    return inner if isinstance(inner, dict) else found if isinstance(found, dict) else None


def _spans(export: _Export) -> Iterator[Call]:
    spans = [span for resource in export.resource_spans for scope in resource.scope_spans for span in scope.spans]
    names = {span.span_id: span.name for span in spans}
    for span in spans:
        values = {pair.key: _attribute(pair.value) for pair in span.attributes}
        if "gen_ai.input.messages" in values and "gen_ai.output.messages" in values:
            # The conventions name a span by its operation and model; its parent has the name of the step.
            generic = f"{values.get('gen_ai.operation.name')} {values.get('gen_ai.request.model')}" == span.name
            name = (names.get(span.parent_span_id) or values.get("gen_ai.agent.name")) if generic else span.name
            system = _texts(_decoded(values.get("gen_ai.system_instructions", "")))
            given = _decoded(values["gen_ai.input.messages"])
            messages = [{"role": "system", "content": system}] * bool(system)
            messages += given if isinstance(given, list) else [given]
            output = _texts(_decoded(values["gen_ai.output.messages"]))
            start = str(span.start_time_unix_nano).zfill(20)
            model = values.get("gen_ai.request.model")
            yield _call(span.trace_id, start, str(name or "call"), messages, output, model)


def _attribute(value: Any) -> Any:
    """The value of an OTLP attribute, which is a mapping from its type to it; None if it has another form."""
    kind, content = next(iter(value.items()), ("", None)) if isinstance(value, dict) else ("", None)
    inner = content.get("values") if isinstance(content, dict) else None
    items = [item for item in inner if isinstance(item, dict)] if isinstance(inner, list) else []
    if kind == "arrayValue":
        return [_attribute(item) for item in items]
    if kind == "kvlistValue":
        return {str(pair.get("key")): _attribute(pair.get("value")) for pair in items}
    return content


def _decoded(value: Any) -> Any:
    """A value that may be JSON text, as exports have it."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{", '"')):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):  # text that only begins like JSON
        return value


def _call(trace: str, start: str, name: str, given: Any, output: str, model: Any = None) -> Call:
    messages = given.get("messages", given) if isinstance(given, dict) else given
    parts = messages if isinstance(messages, list) else [messages]
    systems = [_text(part) for part in parts if _role(part) in ("system", "developer")]
    others = [part for part in parts if _role(part) not in ("system", "developer")]
    several = len(others) > 1
    prompt = "\n\n".join(f"{_role(part)}: {_text(part)}" if several else _text(part) for part in others)
    identifier = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return Call(
        trace,
        start,
        identifier if identifier[:1].isalpha() else f"call_{identifier}",
        "\n".join(systems),
        prompt,
        output,
        model if isinstance(model, str) else "",
    )


def _role(message: Any) -> str:
    return str(message.get("role", "user")) if isinstance(message, dict) else "user"


def _texts(value: Any) -> str:
    """The text of one or several messages; of several choices, the first."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and "role" in value[0]:
        return _text(value[0])
    return _text(value)


def _text(value: Any) -> str:
    """The text of a message, of its parts, or of a value."""
    if isinstance(value, dict):
        inner = next((value[key] for key in ("content", "parts", "text", "output") if value.get(key) is not None), None)
        return "" if inner is None else _text(inner)
    if isinstance(value, list):
        return "\n".join(filter(None, map(_text, value)))
    return value if isinstance(value, str) else ""
