"""The types of the fields of what a user builds in Python, checked when an object is built.

The type of most fields follows from their annotation. `FIELDS` has the others, such as those of a container.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, fields
from functools import cache
from os import PathLike
from typing import Any

from agentopt.core.axes import is_value
from agentopt.core.errors import UserError
from agentopt.core.plain_text import unstorable_in
from agentopt.core.yaml_models import shown


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of field.

    Attributes:
        fits: Whether a value is of the type.
        phrase: The type in words, after "must be".
        remedy: What to write instead; `NAME` is replaced by the name of the field.
    """

    fits: Callable[[Any], bool]
    phrase: str
    remedy: str


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _json_object(value: Any) -> bool:
    try:
        return isinstance(value, str) and isinstance(json.loads(value), dict)
    except ValueError:
        return False


def _or_none(kind: Kind) -> Kind:
    return Kind(lambda value: value is None or kind.fits(value), f"{kind.phrase} or None", kind.remedy)


def _each(kind: Kind, phrase: str, remedy: str) -> Kind:
    return Kind(lambda values: isinstance(values, tuple) and all(map(kind.fits, values)), phrase, remedy)


def _mapping(kind: Kind, phrase: str, remedy: str) -> Kind:
    def fits(value: Any) -> bool:
        return isinstance(value, Mapping) and all(isinstance(k, str) and kind.fits(v) for k, v in value.items())

    return Kind(fits, phrase, remedy)


def instance_of(name: str) -> Kind:
    """An instance of the class of that name, which is not given as a class because the classes import this module."""
    article = "an" if name[0] in "AEIOU" else "a"
    return Kind(lambda v: any(c.__name__ == name for c in type(v).__mro__), f"{article} {name}", f"write {name}(...)")


_ANY = Kind(lambda value: True, "anything", "")
_TEXT = Kind(lambda value: isinstance(value, str), "a string", 'pass a string, such as NAME="..."')
_NAME = Kind(lambda value: isinstance(value, str) and bool(value), "a string of at least one character", _TEXT.remedy)
_TEXTS = _each(_TEXT, "a tuple or a list of strings", 'pass strings, such as NAME=("...",)')
_YES_NO = Kind(lambda value: isinstance(value, bool), "True or False", "pass NAME=True or NAME=False")
_WHOLE = Kind(_whole, "a whole number", "pass a whole number, such as NAME=8")
_COUNT = Kind(lambda value: _whole(value) and value >= 1, "a whole number of at least 1", _WHOLE.remedy)
_NUMBER = Kind(_number, "a number", "pass a finite number, such as NAME=0.5")
_POSITIVE = Kind(lambda v: _number(v) and v > 0, "a number above 0", "pass a positive number, such as NAME=64")
_FUNCTION = Kind(callable, "a function", "pass a function as `NAME`")
_COLUMNS = _mapping(_ANY, "a mapping of strings to values", 'pass NAME={"column": value}')
_PATH = Kind(lambda value: isinstance(value, str | PathLike), "a path", 'pass NAME="folder"')

FIELDS: Mapping[str, Mapping[str, Kind]] = {
    "Example": {"inputs": _COLUMNS, "metadata": _COLUMNS},
    "Fusion": {"method": _NAME, "options": _mapping(_ANY, "a mapping of options", 'pass NAME={"option": value}')},
    "TokenLengths": {"prompt": _POSITIVE, "completion": _POSITIVE},
    "Unit": {"parameters": _POSITIVE, "prompt_tokens": _POSITIVE, "completion_tokens": _POSITIVE},
    "Subtask": {
        "render": Kind(
            callable,
            "a function of (inputs, outputs)",
            'pass a function, or NAME=agentopt.template("{{ inputs.question }}")',
        ),
        "models": _each(
            _NAME,
            "a tuple or a list of catalogue names",
            'pass names, such as NAME=("small", "large"); a ModelSpec goes into Config(models=[...])',
        ),
        "parse": _FUNCTION,
        "fusion": instance_of("Fusion"),
        "json_schema": _or_none(
            Kind(_json_object, "the JSON text of a schema, which is an object", "pass NAME=json.dumps({...})")
        ),
        "reads": _each(_NAME, "a tuple or a list of names of subtasks", 'pass names, such as NAME=("find",)'),
        "tokens": _or_none(instance_of("TokenLengths")),
        "context": _or_none(_FUNCTION),
        "left_to_program": Kind(
            lambda value: isinstance(value, Set) and all(isinstance(name, str) for name in value),
            "a frozenset of strings",
            'pass NAME=frozenset({"max_tokens"})',
        ),
        "effort": _or_none(_NAME),
        "cascade": _or_none(instance_of("Cascade")),
        "demos": _or_none(instance_of("Demos")),
        "knobs": _mapping(
            Kind(is_value, "", ""),
            "a mapping of names to strings, numbers or truth values",
            'pass NAME={"passages": 5}',
        ),
    },
    "Program": {
        "command": _each(_NAME, "a tuple or a list of words", 'pass words, such as NAME=("python", "program.py")'),
        "function": _or_none(
            Kind(
                lambda value: callable(value) or (isinstance(value, str) and ":" in value),
                "a function, or the name of one",
                'pass a function, or NAME="file.py:name"',
            )
        ),
        "folder": _PATH,
        "parse": _FUNCTION,
        "models": _mapping(
            _TEXT, "a mapping of the program's model names to subtasks", 'pass NAME={"gpt-4o": "subtask"}'
        ),
    },
    "Metric": {"subtask": _NAME, "scorer": _FUNCTION},
    "Task": {
        "name": _NAME,
        "subtasks": _each(instance_of("Subtask"), "a tuple or a list of Subtasks", "write NAME=[Subtask(...)]"),
        "scorer": _FUNCTION,
        "splits": _mapping(_ANY, "a mapping of splits to examples", 'pass NAME={"validation": [...], "test": [...]}'),
        "unit": instance_of("Unit"),
        "max_units": _or_none(_POSITIVE),
        "cost_measure": _or_none(
            Kind(lambda value: value in ("usd", "seconds", "units"), "usd, seconds or units", 'pass NAME="usd"')
        ),
        "max_usd": _or_none(_POSITIVE),
        "max_seconds": _or_none(_POSITIVE),
        "program": _or_none(instance_of("Program")),
        "metrics": _mapping(_ANY, "a mapping of names to Metrics", 'pass NAME={"metric": Metric(...)}'),
        "file": _or_none(_PATH),
    },
    "SubtaskChoice": {
        "model": Kind(_NAME.fits, "a catalogue name", 'pass the name as a string, such as NAME="small"'),
        "num_samples": _WHOLE,
        "demos": _each(instance_of("Demo"), "a tuple of Demos", "pass NAME=(Demo(prompt, response),)"),
    },
}
"""Class -> field -> type, for the fields whose annotation does not say what they must be. Ranges and rules between
fields follow in `task_rules`."""
ANNOTATED: Mapping[str, Kind] = {
    "str": _TEXT,
    "int": _WHOLE,
    "float": _NUMBER,
    "bool": _YES_NO,
    "tuple[str, ...]": _TEXTS,
}
"""Annotation -> type. One that ends in `| None` allows None, too."""


def check_fields(built: Any, where: str, error: type[UserError]) -> None:
    """Raise `error` unless every field of `built` is of its type.

    Args:
        built: An instance of one of the dataclasses in `FIELDS`.
        where: The object, for messages.
        error: Class of the exception to raise.
    """
    for name, kind in kinds_of(built.__class__).items():
        if not kind.fits(value := getattr(built, name)):
            raise _wrong(value, kind, name, where, error)
        if isinstance(value, str | tuple) and (what := unstorable_in(value)):
            raise error(f"`{name}` must not contain {what}, but got {shown(value)}", where=where, remedy="remove it")


@cache
def kinds_of(built: type) -> Mapping[str, Kind]:
    """Return field -> type of a dataclass in `FIELDS`, or of one derived from it."""
    annotated = {field.name: _annotated(str(field.type)) for field in fields(built) if field.init}
    named = next(FIELDS[c.__name__] for c in built.__mro__ if c.__name__ in FIELDS)
    return {**{name: kind for name, kind in annotated.items() if kind}, **named}


def _annotated(annotation: str) -> Kind | None:
    plain = annotation.removesuffix(" | None")
    kind = ANNOTATED.get(plain)
    return kind if kind is None or plain == annotation else _or_none(kind)


def check_kind(value: Any, kind: Kind, name: str, where: str, error: type[UserError]) -> None:
    """Raise `error` unless `value` is of the type.

    Args:
        value: The value.
        kind: The type.
        name: The field's name, for the error.
        where: The place of the value, for the error.
        error: Class of the exception.
    """
    if not kind.fits(value):
        raise _wrong(value, kind, name, where, error)


def _wrong(value: Any, kind: Kind, name: str, where: str, error: type[UserError]) -> UserError:
    rule = f"`{name}` must be {kind.phrase}, but got {shown(value)}"
    return error(rule, where=where, remedy=kind.remedy.replace("NAME", name))
