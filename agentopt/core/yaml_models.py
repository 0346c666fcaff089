"""Validates the content of files against pydantic models.

Every mistake in a file is reported in one form: file, key, rule, value, remedy. It is raised as the `UserError` that
the caller names.
"""

from __future__ import annotations

import difflib
import re
from bisect import bisect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema

from agentopt.core.errors import ConfigError, UserError
from agentopt.core.number_schema import without_booleans
from agentopt.core.plain_text import unstorable_in
from agentopt.core.pydantic_errors import IN_PYTHON, IN_YAML, alternatives, is_of_other_type, rule_of

Model = TypeVar("Model", bound=BaseModel)
Key = tuple[str | int, ...]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """Base of every model of a file: frozen; unknown keys are refused, and booleans for numbers.

    `model_validate` raises pydantic's error, which `validate` reports with its place in the file. The constructor,
    which users call in Python, raises `mistake`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    mistake: ClassVar[type[UserError]] = ConfigError
    """Class of the exception for wrong arguments of the constructor."""

    def __init__(self, /, *positional: Any, **fields: Any) -> None:
        name = type(self).__name__
        if positional:
            rule = f"takes settings by name, but got {shown(positional[0])}"
            raise self.mistake(rule, where=name, remedy=f"write {name}(key=value), or {name}(**settings)")
        for key, value in fields.items():
            if what := unstorable_in(value):
                raise self.mistake(f"text must not contain {what}", where=f"{name}.{key}", remedy="remove it")
        try:
            super().__init__(**fields)
        except ValidationError as problem:
            raise as_error(explain(problem, type(self), fields, in_file=False), name, self.mistake) from problem

    # With this mark of BaseModel's own constructor, validation of nested data does not call ours.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return without_booleans(handler(source))

    def __setattr__(self, name: str, value: Any) -> None:
        rule = f"is frozen, but `{name}` was set to {shown(value)}"
        raise self.mistake(rule, where=type(self).__name__, remedy="build a new object with the changed value")


def validate(
    model_type: type[Model],
    data: Any,
    where: Path | str,
    error: type[UserError],
    *,
    key: Key = (),
    context: object = None,
) -> Model:
    """Validate data against a model.

    Args:
        model_type: The model.
        data: The content of a file, or a part of it.
        where: The file, for messages.
        error: Class of the exception to raise.
        key: Keys of the file that lead to `data`.
        context: Passed to the validators of the model.

    Raises:
        UserError: `error`, with every mistake: key, rule, value, remedy.
    """
    try:
        return model_type.model_validate(data, context=context)
    except ValidationError as problem:
        raise as_error(explain(problem, model_type, data, key=key), where, error) from problem


@dataclass(frozen=True, slots=True)
class Mistake:
    """One broken rule: `key` is the dotted path, `rule` the rule and the value that breaks it."""

    key: str
    rule: str
    remedy: str


class RuleError(UserError, ValueError):
    """Broken rules, raised inside a validator. `explain` prefixes their keys with the place of the value."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        rules = "; ".join(f"{m.key}: {m.rule}" if m.key else m.rule for m in mistakes)
        super().__init__(rules, remedy="; ".join(m.remedy for m in mistakes))


def broken_rule(rule: str, remedy: str) -> RuleError:
    """Return the exception to raise from a validator that checks one rule."""
    return RuleError([Mistake("", rule, remedy)])


def explain(
    problem: ValidationError, model_type: type[BaseModel], data: Any, *, key: Key = (), in_file: bool = True
) -> list[Mistake]:
    """Convert a pydantic error to mistakes, one per key; the branches of a union are listed as alternatives.

    A validator gives its own remedy by raising `RuleError`, or `PydanticCustomError(kind, message, {"remedy": text})`.
    The general remedies are in YAML, or in Python unless the data is `in_file`.

    Args:
        problem: The error of pydantic.
        model_type: The model that was validated.
        data: The data that breaks it.
        key: Keys that lead to the data, for the messages.
        in_file: Whether the data comes from a file, so that remedies are written in YAML.
    """
    found: dict[Key, list[Any]] = {}
    mistakes: list[Mistake] = []
    details = [(_place(d["loc"], data, d["type"]), d) for d in problem.errors(include_url=False)]
    for place, detail in details:
        # A list from which pydantic dropped its wrong items is not too short; a value with mistakes inside is of the
        # type of one branch of its union, so that the other branches do not matter.
        inside = any(len(other) > len(place) and other[: len(place)] == place for other, _ in details)
        if inside and (detail["type"] == "too_short" or is_of_other_type(detail)):
            continue
        inner = (detail.get("ctx") or {}).get("error")
        if isinstance(inner, UserError):
            own = inner.mistakes if isinstance(inner, RuleError) else [Mistake("", inner.message, inner.remedy or "")]
            at = (*key, *_named(place, data))
            keyed = [replace(m, key=dotted((*at, m.key) if m.key else at)) for m in own]
            mistakes += [_spaced(m, place, detail["input"], in_file) for m in keyed]
        else:
            found.setdefault(place, []).append(detail)
    remedies = IN_YAML if in_file else IN_YAML | IN_PYTHON
    for place, at_place in found.items():
        other = _mistake((*key, *_named(place, data)), at_place, _fields_at(model_type, place), remedies)
        mistakes.append(_spaced(other, place, at_place[0]["input"], in_file))
    return mistakes


def _spaced(mistake: Mistake, place: Key, value: Any, in_file: bool) -> Mistake:
    """The mistake, with another remedy if YAML read a key with its value, such as `kind:vote`, as one key."""
    pairs = value.items() if isinstance(value, Mapping) else [(place[-1], value)] if place else []
    for key, inner in pairs if in_file else []:
        if inner is None and (parts := re.fullmatch(r"(\w+):((?!//)\S.*)", str(key))):
            written = shortened(f"{parts[1]}: {parts[2]}")
            return replace(mistake, remedy=f"write `{written}`: YAML needs a space after the colon")
    return mistake


def dotted(place: Key, data: Any = None) -> str:
    """Return a place in the content of a file in the form of messages, such as `subtasks.find.models.0`.

    Args:
        place: Keys of mappings, and positions in lists.
        data: The content. An item of one of its lists that has a `name` of its own is called by it, as in the settings
            of the command line; any other item by its position.
    """
    return ".".join(map(str, _named(place, data)))


LONGEST_NAME = 40
"""Most characters of an item's name in a key; an item with a longer name is called by its position."""


def _named(place: Key, data: Any) -> Key:
    """`place` with the names of list items instead of their positions."""
    named: list[str | int] = []
    for segment in place:
        inside = data[segment] if _reaches(data, segment) else None
        named.append(_item_name(inside, data) or segment)
        data = inside
    return tuple(named)


def _item_name(item: Any, items: Any) -> str | None:
    """The name by which `item` is known among `items`, if they are a list and no other has it."""
    if not isinstance(items, list | tuple) or not isinstance(item, Mapping):
        return None
    name = item.get("name")
    # A number would read as the position of another item.
    if not isinstance(name, str) or not name or name.isdecimal() or len(name) > LONGEST_NAME:
        return None
    others = [other for other in items if isinstance(other, Mapping) and other.get("name") == name]
    return None if others[1:] else name


LONGEST_LIST = 800
"""Most characters of the mistakes that one message lists."""

LONGEST_REST = 100
"""Of those, the most for the line on the mistakes that do not fit."""


def as_error(mistakes: Sequence[Mistake], where: Path | str, error: type[UserError]) -> UserError:
    """Combine mistakes into one exception; `where` is the file that has them.

    Args:
        mistakes: At least one.
        where: The file, or another place, that has them.
        error: Class of the exception.
    """
    if len(mistakes) == 1:
        (only,) = mistakes
        place = ": ".join(part for part in (str(where), shortened(within(only.key))) if part)
        return error(only.rule, where=place, remedy=only.remedy)
    lines = [f"\n  {shortened(within(mistake.key))}: {mistake.rule} ({mistake.remedy})" for mistake in mistakes]
    lengths = list(accumulate(map(len, lines)))
    if lengths[-1] > LONGEST_LIST:
        count = max(1, bisect(lengths, LONGEST_LIST - LONGEST_REST))
        keys = shortened(", ".join(mistake.key for mistake in mistakes[count:]))
        lines[count:] = [f"\n  and {len(mistakes) - count} more: {keys}"]
    return error(f"{len(mistakes)} mistakes{''.join(lines)}", where=where)


def within(key: str) -> str:
    """Return a key inside of a value, for messages; the position of an item that it begins with as an index."""
    head, dot, rest = key.partition(".")
    return f"[{head}]{dot}{rest}" if head.isdecimal() else key


MOST_LISTED = 20
"""Most names that one message lists."""


def did_you_mean(wrong: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """Return the remedy for an unknown name.

    Args:
        wrong: The name.
        known: The known names.
        otherwise: The remedy if none of them is close. Default: the list of them, for a rule that does not list them;
            to add the name if there are none.
    """
    names = sorted(known)
    if close := closest(wrong, names):
        return f"did you mean '{shortened(close)}'?"
    return otherwise or (f"known: {listed(names)}" if names else f"there is none yet: add '{shortened(wrong)}'")


def closest(wrong: str, known: Iterable[str]) -> str | None:
    """Return the known name that differs from `wrong` as a misspelling does; None without one."""
    return next(iter(difflib.get_close_matches(wrong, sorted(known), n=1)), None)


def listed(names: Sequence[str]) -> str:
    """Return names separated by commas; of more than 20, the first 20 and the number of the others."""
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return ", ".join(map(shortened, names[:MOST_LISTED])) + more if names else "none"


def _place(loc: Key, data: Any, kind: str) -> Key:
    """`loc` without the segments that pydantic adds to name the branch of a union."""
    place: list[str | int] = []
    current = data
    for position, segment in enumerate(loc):
        if _reaches(current, segment):
            current = current[segment]
        elif not (kind == "missing" and position == len(loc) - 1):
            continue
        place.append(segment)
    return tuple(place)


def _reaches(data: Any, segment: str | int) -> bool:
    if isinstance(data, Mapping):
        return segment in data
    return isinstance(data, list | tuple) and isinstance(segment, int) and segment < len(data)


def _fields_at(model_type: type[BaseModel], place: Key) -> dict[str, FieldInfo]:
    """Key -> field, of the keys that are known beside the last segment of `place`."""
    models = [model_type]
    for segment in place[:-1]:
        fields = [model.model_fields[segment] for model in models if segment in model.model_fields]
        # A list index or the key of a free mapping names no field: the models inside stay the same.
        models = [inner for field in fields for inner in _models_in(field.annotation)] if fields else models
    return {field.alias or name: field for model in models for name, field in model.model_fields.items()}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _mistake(place: Key, details: list[Any], fields: Mapping[str, FieldInfo], remedies: Mapping[str, str]) -> Mistake:
    # A value that is of the type of one branch breaks the rule of that branch.
    details = [detail for detail in details if not is_of_other_type(detail)] or details
    kind = details[0]["type"]
    # A rule between keys names them; the whole mapping is not the value of one.
    all_of_it = not details[0]["loc"] and isinstance(details[0]["input"], Mapping)
    rule = alternatives([rule_of(detail) for detail in details])
    if kind == "string_pattern_mismatch" and (form := _form(fields.get(str(place[-1])))):
        rule = f"must be {form}"
    unshown = all_of_it or kind in {"missing", "extra_forbidden"} or "but got" in rule
    got = "" if unshown else f", but got {shown(details[0]['input'])}"
    return Mistake(dotted(place), rule + got, _remedy(details, place, fields, remedies))


def shown(value: Any) -> str:
    """Return the `repr` of a value on one line of at most 80 characters, for messages."""
    return shortened(repr(value))


def shortened(text: str) -> str:
    """Return a text on one line of at most 80 characters, for messages."""
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:77]}..."


_WITHIN = {
    "ge": "write {:g} or more",
    "gt": "write a number above {:g}",
    "le": "write {:g} or less",
    "lt": "write a number below {:g}",
}
"""Bound of a number, as pydantic names it -> its remedy."""


@dataclass(frozen=True, slots=True)
class Form:
    """Metadata of a field: what its value may be, for the remedies of its mistakes.

    Attributes:
        words: Such as "8, [1, 3, 5] or {max: 8}", or a function that returns them.
    """

    words: str | Callable[[], str]

    def __str__(self) -> str:
        return self.words if isinstance(self.words, str) else self.words()


def _form(field: FieldInfo | None) -> Form | None:
    waiting = [*field.metadata, field.annotation] if field else []
    for part in waiting:
        if isinstance(part, Form):
            return part
        if get_origin(part) in (Annotated, Union, UnionType):
            waiting += [*getattr(part, "__metadata__", ()), *get_args(part)]
    return None


def _remedy(details: list[Any], place: Key, fields: Mapping[str, FieldInfo], remedies: Mapping[str, str]) -> str:
    detail, last = details[0], place[-1] if place else "it"
    kind, context = detail["type"], detail.get("ctx") or {}
    form = _form(fields.get(str(last)))
    if "remedy" in context:
        return str(context["remedy"])
    if kind == "extra_forbidden":
        return did_you_mean(str(last), fields, None if fields else "leave it out")
    if kind == "missing":
        return remedies["missing"].format(last) + (f", which is {form}" if form else "")
    if "expected" in context:
        options = re.findall(r"'([^']*)'", str(context["expected"]))
        return did_you_mean(str(detail["input"]), options, f"write {form}" if form else "use one of these")
    if not place and detail["input"] is None:
        return "write `key: value` lines in it"
    for bound, text in _WITHIN.items():
        if bound in context:
            return text.format(context[bound])
    if form or details[1:]:
        return f"write {form}" if form else "use one of these"
    return remedies.get(kind.split("_")[0], f"change {last} so that the rule holds")
