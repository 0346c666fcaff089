"""Parses JSON that a person wrote, in which a repeated key is a mistake: `json.loads` keeps the last value silently."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from agentopt.core.yaml_models import Mistake, RuleError, shown


def parse_json(text: str) -> Any:
    """Parse JSON.

    Raises:
        RuleError: An object has a key twice. The mistake's key is the index of the item if the text is a list.
        ValueError: The text is not JSON.
    """
    repeating: list[tuple[str, dict[str, Any]]] = []

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        built = dict(pairs)
        if len(built) < len(pairs):
            repeating.append((_repeated(key for key, _ in pairs), built))
        return built

    value = json.loads(text, object_pairs_hook=build)
    if repeating:
        key, where = repeating[0]
        items = enumerate(value) if isinstance(value, list) else ()
        index = next((str(number) for number, item in items if _holds(item, where)), "")
        rule = f"a key must be given once, but {shown(key)} is given twice"
        raise RuleError([Mistake(index, rule, "remove or rename one of the two")])
    return value


def _repeated(keys: Iterable[str]) -> str:
    seen = set[str]()
    return next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]


def _holds(value: Any, part: dict[str, Any]) -> bool:
    """Whether `part` is `value`, or in it."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value is part or any(_holds(item, part) for item in inside)
