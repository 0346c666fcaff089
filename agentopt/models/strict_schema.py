"""Makes a JSON schema satisfy the rules for `strict: true` in the OpenAI format, if that loses nothing.

The rules: each object has `additionalProperties: false` and requires every property; keywords that restrict texts,
numbers and lengths are refused by some endpoints; the root is an object with properties.
"""

from __future__ import annotations

from typing import Any

KEPT = frozenset(
    {
        *("type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "$ref", "$defs"),
        *("definitions", "title", "description"),
    }
)
"""Keywords of a strict schema. The others, unless they are refused, have no meaning for validation: dropped."""
REFUSED_KEYWORDS = frozenset(
    {
        *("minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
        *("multipleOf", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "patternProperties"),
        *("propertyNames", "contains", "minContains", "maxContains", "unevaluatedItems", "unevaluatedProperties"),
        *("oneOf", "allOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "prefixItems"),
        *("additionalItems", "dependencies", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef"),
    }
)
"""Refused under strict rules by at least one endpoint."""
TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
"""Type of a constant -> the schema's type; of other constants there is no strict form."""


def strict_schema(schema: dict[str, Any]) -> dict[str, Any] | None:
    """Return an equivalent schema that satisfies the strict rules; None if there is none.

    A missing `additionalProperties` becomes false: a model then writes the named properties only. The type of constants
    is added, what a `$ref` beside other keywords or at the root refers to is put in its place, `oneOf` of different
    types becomes `anyOf`, `allOf` of one schema is joined, and annotations are dropped. A schema with an optional
    property or a refused keyword, such as a length, has no strict form.
    """
    try:
        root = _in_place(schema, schema)
        if "properties" not in root or root.get("type", "object") != "object":
            return None
        return _strict(root, schema)
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):  # also if it is not well-formed
        return None


def _strict(schema: Any, root: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(schema, dict):
        raise ValueError(schema)  # `true` and `false` are schemas too
    schema = _plain(schema, root)
    if REFUSED_KEYWORDS & schema.keys():
        raise ValueError(schema)
    kept = {key: value for key, value in schema.items() if key in KEPT}
    if "$ref" in kept:
        _referred(kept["$ref"], root)
        return {"$ref": kept["$ref"]}
    for key in ("$defs", "definitions"):
        if key in kept:
            kept[key] = {name: _strict(inner, root) for name, inner in kept[key].items()}
    if "anyOf" in kept:
        kept["anyOf"] = [_strict(inner, root) for inner in kept["anyOf"]]
    elif "type" not in kept:
        kept["type"] = _type_of(kept)
    types = _types(kept)
    if "array" in types:
        kept["items"] = _strict(kept.get("items"), root)
    if "object" in types:
        kept |= _strict_object(kept, root)
    return kept


def _plain(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """The schema without `oneOf`, `allOf` and references beside other keywords, where that loses nothing."""
    only = schema.get("allOf")
    if isinstance(only, list) and len(only) == 1 and not only[0].keys() & schema.keys():
        schema = {key: value for key, value in schema.items() if key != "allOf"} | only[0]
    branches = schema.get("oneOf")
    if isinstance(branches, list) and "anyOf" not in schema:
        of_each = [_types(_in_place(branch, root)) for branch in branches]
        types = [kind for kinds in of_each for kind in kinds]
        if not all(of_each) or len(set(types)) < len(types) or {"integer", "number"} <= set(types):
            raise ValueError(schema)  # a value may follow several of them
        schema = {key: value for key, value in schema.items() if key != "oneOf"} | {"anyOf": branches}
    return _in_place(schema, root) if "$ref" in schema and len(KEPT & schema.keys()) > 1 else schema


def _in_place(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """The schema with what its `$ref` refers to in place of it."""
    if "$ref" not in schema:
        return schema
    referred = _referred(schema["$ref"], root)
    beside = {key: value for key, value in schema.items() if key != "$ref"}
    if referred is root or "$ref" in referred or beside.keys() & referred.keys() - {"title", "description"}:
        raise ValueError(schema)
    return referred | beside


def _referred(reference: str, root: dict[str, Any]) -> dict[str, Any]:
    """What a reference within the document refers to."""
    path = reference.removeprefix("#")
    if path == reference or (path and not path.startswith("/")):
        raise ValueError(reference)
    found: Any = root
    for part in path.split("/")[1:]:
        found = found[part.replace("~1", "/").replace("~0", "~")]
    if not isinstance(found, dict):
        raise ValueError(reference)
    return found


def _types(schema: dict[str, Any]) -> list[str]:
    types = schema.get("type")
    return types if isinstance(types, list) else [types] if isinstance(types, str) else []


def _type_of(schema: dict[str, Any]) -> str | list[str]:
    """The type that a schema without `type` has by its constants or properties."""
    if "properties" in schema:
        return "object"
    values = schema["enum"] if "enum" in schema else [schema["const"]]
    types = list(dict.fromkeys(TYPES[type(value)] for value in values))
    return types[0] if len(types) == 1 else types


def _strict_object(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties or schema.get("additionalProperties", False) is not False:
        raise ValueError(schema)
    if set(schema.get("required", ())) != set(properties):
        raise ValueError(schema)
    return {
        "properties": {name: _strict(inner, root) for name, inner in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }
