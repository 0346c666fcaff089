"""Reads tool names and calls in the forms that models write them, and converts them to the form of the schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from agentopt.core.json_text import json_objects, json_values
from agentopt.core.task import Unparsable

Call = dict[str, Any]
_NAMES = ("task", "tool", "name", "api", "function", "id")
_MOST = 8


def calls(response: str) -> list[Call]:
    """Read the calls: a list, a lone object, objects one after another, or a list in an object (`{"calls": [...]}`).

    A call may have other keys, such as an id. Its arguments are a list of names and values, or an object of them; a
    value that is no string is written as JSON.

    Raises:
        Unparsable: If there is no call.
    """
    for value in _values(response):
        if found := list(_calls_in(value)):
            return found[:_MOST]
    raise Unparsable(f"expected tool calls as JSON, got {response[:80]!r}")


def tools(response: str) -> list[str]:
    """Read the names of the tools: a list of names, or of objects with a name.

    Raises:
        Unparsable: If there is no such list.
    """
    for value in _values(response):
        listed = value if isinstance(value, list) else _list_inside(value) or [value]
        names = [name for item in listed if (name := item if isinstance(item, str) else _name(item))]
        if names and len(names) == len(listed):
            return names[:_MOST]
    raise Unparsable(f"expected a JSON list of tools, got {response[:80]!r}")


def _values(response: str) -> Iterator[Any]:
    """The JSON values of the response, likeliest first; objects that follow each other are one list."""
    objects = [json.loads(text) for text in json_objects(response)]
    for value in json_values(response):
        yield objects if isinstance(value, dict) and len(objects) > 1 else value


def _calls_in(value: Any) -> Iterator[Call]:
    if isinstance(value, list):
        for item in value:
            yield from _calls_in(item)
    elif isinstance(value, Mapping):
        name = _name(value)
        if name is None:
            yield from _calls_in(_list_inside(value) or [])
        else:
            yield {"task": name, "arguments": list(_arguments(value.get("arguments", value.get("parameters", []))))}


def _name(value: Any) -> str | None:
    """The tool that an object names; an id is its name only if nothing else is. An argument names no tool."""
    if not isinstance(value, Mapping) or value.keys() == {"name", "value"}:
        return None
    found = [value[key] for key in _NAMES if isinstance(value.get(key), str)]
    return found[0] if found else None


def _list_inside(value: Any) -> list[Any] | None:
    lists = [item for item in value.values() if isinstance(item, list)] if isinstance(value, Mapping) else []
    return lists[0] if len(lists) == 1 else None


def _arguments(given: Any) -> Iterator[dict[str, str]]:
    if isinstance(given, Mapping):
        given = (
            [{"name": given["name"], "value": given["value"]}]
            if given.keys() == {"name", "value"}
            else [{"name": name, "value": value} for name, value in given.items()]
        )
    for argument in given if isinstance(given, list) else ():
        if not isinstance(argument, Mapping):
            continue
        if "name" in argument and "value" in argument:
            yield {"name": str(argument["name"]), "value": written(argument["value"])}
        else:
            yield from ({"name": str(name), "value": written(value)} for name, value in argument.items())


def written(value: Any) -> str:
    """Return an argument's value as text: 1200 and 1200.0 as 1200, an object or a list as JSON."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
