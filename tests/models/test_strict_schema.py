"""Strict forms of JSON schemas."""

from __future__ import annotations

from typing import Any

import pytest

from agentopt.models.strict_schema import strict_schema

TEXT = {"type": "string"}


def object_of(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


@pytest.mark.parametrize(
    "schema",
    [
        object_of(["a"], a=TEXT),
        object_of(["a", "b"], a=object_of(["x"], x={"type": "integer"}), b={"type": "array", "items": TEXT}),
        object_of(["a"], a={"anyOf": [TEXT, {"type": "null"}]}),
        object_of(["a"], a={"enum": ["x", "y"]}),
        {**object_of(["a"], a={"$ref": "#/$defs/n"}), "$defs": {"n": object_of(["b"], b=TEXT)}},
    ],
)
def test_a_schema_without_optional_keys_becomes_strict(schema: dict[str, Any]) -> None:
    strict = strict_schema(schema)
    assert strict is not None
    for found in objects_in(strict):
        assert found["additionalProperties"] is False
        assert set(found["required"]) == set(found["properties"])
    assert strict_schema(strict) == strict


def objects_in(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [found for inner in schema for found in objects_in(inner)]
    if not isinstance(schema, dict):
        return []
    own = [schema] if schema.get("type") == "object" else []
    return own + [found for inner in schema.values() for found in objects_in(inner)]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "array", "items": TEXT},
        object_of(["a"], a=TEXT, b=TEXT),
        object_of(["a"], a={"type": "string", "minLength": 1}),
        object_of(["a"], a={"type": "string", "pattern": "x"}),
        object_of(["a"], a={"type": "array"}),
        object_of(["a"], a={}),
        object_of(["a"], a=True),
        {**object_of(["a"], a=TEXT), "additionalProperties": True},
        {**object_of(["a"], a=TEXT), "additionalProperties": TEXT},
        object_of(["a"], a={"oneOf": [TEXT]}),
        {"type": "object", "properties": [1], "required": ["a"]},
        {**object_of(["a"], a=TEXT), "$defs": 3},
    ],
)
def test_a_schema_that_would_lose_something_has_no_strict_form(schema: dict[str, Any]) -> None:
    assert strict_schema(schema) is None


def test_annotations_are_dropped_and_descriptions_kept() -> None:
    strict = strict_schema(object_of(["a"], a={"type": "string", "default": "x", "description": "what"}))
    assert strict is not None
    assert strict["properties"] == {"a": {"type": "string", "description": "what"}}
