"""The rules and remedies of pydantic's errors in our words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_RULES = {
    "missing": "must be given",
    "missing_argument": "must be given",
    "extra_forbidden": "unknown key",
    "unexpected_keyword_argument": "unknown key",
    "invalid_key": "must have strings as keys",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a string",
    "string_unicode": "must be a string",
    "string_too_short": "must be a string of at least {min_length} characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "path_type": "must be a path",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "set_type": "must be a list",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "dict_type": "must be a mapping",
    "mapping_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "dataclass_type": "must be a mapping",
    "none_required": "must be null",
}
"""Type of a pydantic error -> the rule; the message of any other type is used as it is."""

IN_YAML: dict[str, str] = {
    "missing": "add `{}: ...`",
    "int": "write a whole number, such as 8",
    "float": "write a number, such as 0.5",
    "finite": "write a number that is not infinite, such as 0.5",
    "bool": "write true or false",
    "string": "write a string; put it in quotes if it looks like a number",
    "path": "write a path, such as models.yaml",
    "model": "write `key: value` lines under it",
    "dataclass": "write `key: value` lines under it",
    "dict": "write `key: value` lines under it",
    "mapping": "write `key: value` lines under it",
    "list": "write a list, such as [a, b]",
    "tuple": "write a list, such as [a, b]",
    "set": "write a list, such as [a, b]",
    "too": "change the number of items",
    "invalid": "put each key in quotes",
    "none": "leave it out",
}
"""First word of the type of a pydantic error -> remedy in a file."""

IN_PYTHON: dict[str, str] = {
    "missing": "pass {}=...",
    "bool": "pass True or False",
    "string": "pass a string, such as 'small'",
    "model": "pass an object of its class, or a dict of its fields",
    "dataclass": "pass an object of its class, or a dict of its fields",
    "dict": "pass a dict, such as {'key': 'value'}",
    "mapping": "pass a dict, such as {'key': 'value'}",
    "list": "pass a list, such as ['a', 'b']",
    "tuple": "pass a list, such as ['a', 'b']",
    "set": "pass a list, such as ['a', 'b']",
    "invalid": "pass keys such as 'key'",
}
"""The remedies that differ in Python."""


def rule_of(detail: Any) -> str:
    """The rule that one of pydantic's error details reports, such as "must be a text"."""
    if rule := _RULES.get(detail["type"]):
        rule = rule.format_map(detail.get("ctx") or {})
        return rule.removesuffix("s") if " 1 " in rule else rule
    message = re.sub(r"^(Value error|Assertion failed), ", "", str(detail["msg"]))
    return re.sub(r"^Input should be", "must be", message)


def is_of_other_type(detail: Any) -> bool:
    """Whether one of pydantic's error details reports a value of the wrong type, or that is none of the literals."""
    kind = detail["type"]
    return kind in {"literal_error", "none_required", "int_from_float"} or kind.endswith(("_type", "_parsing"))


def alternatives(rules: Sequence[str]) -> str:
    """The rules of the branches of a union as one: "must be a list, a number, or true or false"."""
    first, *others = dict.fromkeys(rules)
    if not others:
        return first
    kinds = [rule.removeprefix("must be ") for rule in (first, *others)]
    if "a number" in kinds:
        kinds = [kind for kind in kinds if kind != "a whole number"]
    *kinds, last = sorted(kinds, key=lambda kind: " or " in kind)
    comma = "," if " or " in last else ""
    return f"must be {', '.join(kinds)}{comma} or {last}" if kinds else f"must be {last}"
