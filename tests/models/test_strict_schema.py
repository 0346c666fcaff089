"""Strict forms of JSON schemas."""

from __future__ import annotations

from typing import Any

import pytest

from agentopt.models.strict_schema import strict_schema

TEXT, NULL = {"type": "string"}, {"type": "null"}


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
        object_of(["a"], a={"oneOf": [TEXT]}),
        {"$ref": "#/$defs/n", "$defs": {"n": object_of(["next"], next={"anyOf": [{"$ref": "#/$defs/n"}, NULL]})}},
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
        object_of(["a"], a={"oneOf": [TEXT, TEXT]}),
        object_of(["a"], a={"oneOf": [{"type": "integer"}, {"type": "number"}]}),
        object_of(["a"], a={"oneOf": [TEXT, {"enum": [1]}]}),
        object_of(["a"], a={"allOf": [TEXT, {"type": "string", "minLength": 1}]}),
        object_of(["a"], a={"type": "array", "prefixItems": [TEXT]}),
        object_of(["a"], a={"type": "array", "items": [TEXT]}),
        object_of(["a"], a={"enum": [{"k": 1}]}),
        object_of(["a"], a={"$ref": "http://example.org/x"}),
        object_of(["a"], a={"$ref": "#/$defs/missing"}),
        object_of(["a", "b"], a={"$ref": "#x"}, b={"$anchor": "x", "type": "string"}),
        object_of(["a"], a={"$ref": "#", "description": "the same again"}),
        {**object_of(["a"], a={"$ref": "#/$defs/n", "type": "integer"}), "$defs": {"n": TEXT}},
        {"$ref": "#/$defs/n", "$defs": {"n": {"$ref": "#/$defs/n"}}},
        {"anyOf": [object_of(["a"], a=TEXT), NULL]},
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


@pytest.mark.parametrize(
    ("given", "strict"),
    [
        ({"enum": ["x", "y"]}, {"type": "string", "enum": ["x", "y"]}),
        ({"enum": ["x", 1, None]}, {"type": ["string", "integer", "null"], "enum": ["x", 1, None]}),
        ({"const": True}, {"type": "boolean", "const": True}),
        ({"type": "string", "nullable": True, "x-order": 1, "readOnly": True, "examples": ["a"]}, TEXT),
        ({"anyOf": [TEXT, NULL], "discriminator": {"propertyName": "k"}}, {"anyOf": [TEXT, NULL]}),
        ({"oneOf": [TEXT, {"type": ["integer", "null"]}]}, {"anyOf": [TEXT, {"type": ["integer", "null"]}]}),
        ({"$ref": "#/$defs/n", "default": 1}, {"$ref": "#/$defs/n"}),
        ({"$ref": "#/$defs/n", "description": "how many"}, {"type": "integer", "description": "how many"}),
        ({"allOf": [{"$ref": "#/$defs/n"}]}, {"$ref": "#/$defs/n"}),
        ({"allOf": [{"$ref": "#/$defs/n"}], "title": "N"}, {"type": "integer", "title": "N"}),
    ],
)
def test_a_property_is_rewritten_if_nothing_is_lost(given: dict[str, Any], strict: dict[str, Any]) -> None:
    found = strict_schema({**object_of(["a"], a=given), "$defs": {"n": {"type": "integer"}}})
    assert found
    assert found["properties"] == {"a": strict}


def test_a_schema_without_a_type_but_with_properties_is_that_of_an_object() -> None:
    strict = strict_schema({"properties": {"a": {"properties": {"b": TEXT}, "required": ["b"]}}, "required": ["a"]})
    assert strict
    assert [strict["type"], strict["properties"]["a"]["type"]] == ["object", "object"]
