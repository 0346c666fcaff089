"""Makes a JSON schema satisfy the rules for `strict: true` in the OpenAI format, if that loses nothing.

The rules: each object has `additionalProperties: false` and requires every property; keywords that restrict texts,
numbers and lengths are refused by some endpoints; the root is an object with properties.
"""

from __future__ import annotations

from typing import Any

ANNOTATIONS = frozenset({"default", "examples", "$schema", "$id", "$comment"})
"""Keywords without a meaning for validation: dropped."""
REFUSED_KEYWORDS = frozenset(
    {
        *("minLength", "maxLength", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
        *("multipleOf", "minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "patternProperties"),
        *("propertyNames", "contains", "minContains", "maxContains", "unevaluatedItems", "unevaluatedProperties"),
        *("oneOf", "allOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "prefixItems"),
        "additionalItems",
    }
)
"""Refused under strict rules by at least one endpoint."""


def strict_schema(schema: dict[str, Any]) -> dict[str, Any] | None:
    """Return an equivalent schema that satisfies the strict rules; None if there is none.

    A missing `additionalProperties` becomes false: a model then writes the named properties only. Annotations are
    dropped. A schema with an optional property or a refused keyword, such as a length, has no strict form.
    """
    if schema.get("type") != "object" or "properties" not in schema:
        return None
    try:
        return _strict(schema)
    except (ValueError, AttributeError, TypeError):  # also a schema that is not well-formed
        return None


def _strict(schema: Any) -> dict[str, Any]:
    if not isinstance(schema, dict):
        raise ValueError(schema)  # `true` and `false` are schemas too
    kept = {key: value for key, value in schema.items() if key not in ANNOTATIONS}
    if REFUSED_KEYWORDS & kept.keys():
        raise ValueError(schema)
    if not {"type", "enum", "const", "anyOf", "$ref"} & kept.keys():
        raise ValueError(schema)  # a value of any type
    for key in ("$defs", "definitions"):
        if key in kept:
            kept[key] = {name: _strict(inner) for name, inner in kept[key].items()}
    if "anyOf" in kept:
        kept["anyOf"] = [_strict(inner) for inner in kept["anyOf"]]
    types = kept.get("type")
    if "array" in (types if isinstance(types, list) else [types]):
        kept["items"] = _strict(kept.get("items"))
    if "object" in (types if isinstance(types, list) else [types]):
        kept |= _strict_object(kept)
    return kept


def _strict_object(schema: dict[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties or schema.get("additionalProperties", False) is not False:
        raise ValueError(schema)
    if set(schema.get("required", ())) != set(properties):
        raise ValueError(schema)
    return {
        "properties": {name: _strict(inner) for name, inner in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }
