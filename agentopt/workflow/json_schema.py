"""JSON Schema with bounds on the time of a validation: no pattern and no comparison of items blocks the event loop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from agentopt.core.task import Unparsable

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

PATTERN_SECONDS = 0.5
"""Most seconds for one search of a schema's `pattern`."""


def bounded(kind: type[Validator]) -> type[Validator]:
    """Return a class of validators whose `pattern` has a time-out, and whose `uniqueItems` takes linear time.

    Args:
        kind: The class, such as `jsonschema.Draft202012Validator`.
    """
    from jsonschema import validators

    checks = {"pattern": _pattern, "uniqueItems": _unique}
    extended: type[Validator] = validators.extend(kind, checks)  # type: ignore[no-untyped-call]
    return extended


def _pattern(validator: Validator, pattern: str, instance: Any, _: Any) -> Iterator[Any]:
    import regex  # loaded late, as jsonschema
    from jsonschema import ValidationError

    if not validator.is_type(instance, "string"):
        return
    try:
        found = regex.search(pattern, instance, timeout=PATTERN_SECONDS)
    except TimeoutError as error:
        raise Unparsable(f"the pattern {pattern!r} takes more than {PATTERN_SECONDS:g} s on the response") from error
    if not found:
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _unique(validator: Validator, wanted: bool, instance: Any, _: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if wanted and validator.is_type(instance, "array") and len({_key(item) for item in instance}) < len(instance):
        yield ValidationError(f"{instance!r} has non-unique elements")


def _key(value: Any) -> str:
    """A text that is the same for values that JSON Schema holds equal: 1 and 1.0, but not 1 and true."""
    return json.dumps(_canonical(value), sort_keys=True)


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
