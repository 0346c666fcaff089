"""Keeps true and false out of the numeric fields of pydantic models, which read them as 1 and 0."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from pydantic_core import CoreSchema, PydanticKnownError, core_schema

_NUMBERS: dict[str, Literal["int_type", "float_type"]] = {"int": "int_type", "float": "float_type"}
_PARTS = {"schema", "fields", "choices", "items_schema", "keys_schema", "values_schema", "extras_schema", "definitions"}
"""Keys of a core schema under which the schemas of parts are."""


def without_booleans(schema: CoreSchema) -> CoreSchema:
    """A core schema of pydantic in which every number, at any depth, refuses true and false."""
    return _refusing(schema)  # type: ignore[no-any-return]


def _refusing(part: Any) -> Any:
    if isinstance(part, list | tuple):
        return type(part)(map(_refusing, part))
    if not isinstance(part, dict):
        return part
    if part.get("type") in _NUMBERS:
        refuse: Callable[[Any], Any] = partial(_number, _NUMBERS[part["type"]])
        return core_schema.no_info_before_validator_function(refuse, part)
    # The fields of a model are a mapping by name, and one of them may be named like a part.
    return {
        key: _named(value) if key == "fields" else _refusing(value) if key in _PARTS else value
        for key, value in part.items()
    }


def _named(fields: Any) -> Any:
    return {name: _refusing(field) for name, field in fields.items()} if isinstance(fields, dict) else _refusing(fields)


def _number(error: Literal["int_type", "float_type"], value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticKnownError(error)
    return value
