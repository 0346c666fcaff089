"""Settings of a subtask that a search may vary: their names, their types, and the axes of allowed values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from agentopt.core.errors import TaskError
from agentopt.core.yaml_models import did_you_mean, shown

SettingValue = bool | int | float | str
"""The value of one setting. A whole float is kept as an integer, so that equal values have one form."""

Settings = tuple[tuple[str, SettingValue], ...]
"""(name, value) pairs, sorted by name."""

AxisKind = Literal["numeric", "ordinal", "categorical"]
"""numeric: close numbers are alike; ordinal: neighbours in the list are alike; categorical: no two values are."""

KNOBS = "knobs"
"""The name under which templates read knobs, as `knobs.passages`; so is the setting called."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A setting with a meaning of its own."""

    kind: AxisKind
    fits: Callable[[Any], bool]
    phrase: str


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


MOST_SAMPLES = 10_000
"""Most samples of one call: more are a mistake, and a list of all counts up to it must stay small."""

MOST_TOKENS = 10_000_000
"""Largest `max_tokens`: more than any model writes, and small enough for the worst case to be computed."""

KNOWN: Mapping[str, _Known] = {
    "temperature": _Known("numeric", lambda v: _number(v) and 0 <= v <= 2, "numbers from 0 to 2"),
    "max_tokens": _Known(
        "numeric",
        lambda v: _number(v) and 1 <= v <= MOST_TOKENS and v == int(v),
        f"whole numbers from 1 to {MOST_TOKENS:,}",
    ),
    "effort": _Known("ordinal", lambda v: isinstance(v, str) and bool(v), "levels such as low"),
}
"""Settings that are a field of `Subtask`, too: its value unless a candidate has another."""

STOP = "fuse.stop"
"""The setting of the option `stop` of a vote."""


def is_stop(value: Any) -> bool:
    """Whether a vote may stop by this rule: when it is decided, or at a level above one half."""
    return value == "decided" or (_number(value) and 0.5 < value < 1)


CASCADE, OFF = "cascade.below", "off"
"""The setting of a cascade's threshold, and its value without one."""


DEMOS = "demos"
"""The setting of the number of demonstrations."""


def _is_threshold(value: Any) -> bool:
    return value == OFF or (_number(value) and 0 <= value <= 1)


_OTHERS: Mapping[str, _Known] = {
    STOP: _Known("ordinal", is_stop, "`decided`, or levels above 0.5 and below 1"),
    CASCADE: _Known("ordinal", _is_threshold, "`off`, or numbers from 0 to 1"),
    DEMOS: _Known("ordinal", lambda v: _number(v) and v >= 0 and v == int(v), "whole numbers of at least 0"),
}


@dataclass(frozen=True, slots=True)
class Axis:
    """A setting that a search varies.

    Attributes:
        name: `temperature`, `max_tokens`, `effort`, `demos`, `fuse.stop`, `cascade.below`, or `knobs.NAME`.
        values: The allowed values. The first is the baseline's, and that of a candidate without the setting.
        kind: Which values the search expects to have similar scores.

    Raises:
        TaskError: The name is unknown, or the values are not of the setting's type or not distinct.
    """

    name: str
    values: tuple[SettingValue, ...]
    kind: AxisKind = "categorical"

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(canonical(value) for value in self.values))
        known = _known(self.name)
        if wrong := [value for value in self.values if not known.fits(value)]:
            rule = f"`{self.name}` must be {known.phrase}, but got {shown(wrong[0])}"
            raise TaskError(rule, remedy="correct the value, or remove it")
        if self.kind == "numeric" and not all(map(_number, self.values)):
            rule = f"`{self.name}` is numeric, but got {shown(list(self.values))}"
            raise TaskError(rule, remedy="give numbers, or another kind")
        if not self.values or len(set(self.values)) < len(self.values):
            rule = f"`{self.name}` must have at least one value, none twice, but got {shown(list(self.values))}"
            raise TaskError(rule, remedy="list each value once")

    @property
    def ordered(self) -> tuple[SettingValue, ...]:
        """The values so that neighbours are alike: numbers by size, others as given."""
        return tuple(sorted(self.values, key=float)) if self.kind == "numeric" else self.values


THRESHOLDS = (0.0, 0.5, 0.75, 1.0)
"""The thresholds of a cascade that gives none."""


@dataclass(frozen=True, slots=True)
class Cascade:
    """A small model answers first, and a big one, once, if the small one's samples are not reliable.

    An example escalates if no sample can be parsed, the check fails, or the samples agree less than a threshold. The
    search varies the threshold of choices of the small model; without one, as in the baseline, nothing escalates.

    Attributes:
        small: Catalogue name of the model that answers first.
        big: Catalogue name of the other one.
        below: The thresholds to try: the smallest agreement that is kept, from 0 (any answer) to 1 (equal samples).
        check: Function of the inputs and the small model's value that returns whether it is acceptable.
    """

    small: str
    big: str
    below: tuple[float, ...] = THRESHOLDS
    check: Callable[[Mapping[str, Any], Any], bool] | None = None


def threshold_of(subtask: Any, choice: Any) -> float | None:
    """The smallest agreement that the cascade of a choice keeps; None if nothing escalates.

    Args:
        subtask: The `Subtask`.
        choice: The `SubtaskChoice`.
    """
    below = dict(choice.settings).get(CASCADE, OFF)
    if subtask.cascade is None or choice.model != subtask.cascade.small or below == OFF:
        return None
    return float(below)


def escalating(subtask: Any, choice: Any) -> str | None:
    """The model that a choice escalates to; None if it does not. Arguments as of `threshold_of`."""
    return None if threshold_of(subtask, choice) is None else str(subtask.cascade.big)


def as_axes(given: Any) -> tuple[Axis, ...]:
    """Axes from a mapping of names to values, or from several axes.

    Args:
        given: Such as `{"temperature": (0, 0.7), "knobs.passages": (3, 5)}`.

    Raises:
        TaskError: It has another form, or an axis breaks a rule.
    """
    if not isinstance(given, Mapping):
        if isinstance(given, list | tuple) and all(isinstance(axis, Axis) for axis in given):
            return tuple(given)
        rule = f"`settings` must map settings to their values, but got {shown(given)}"
        raise TaskError(rule, remedy='write settings={"temperature": (0, 0.7)}')
    for name, values in given.items():
        if not isinstance(values, list | tuple | range):
            rule = f"the values of `{name}` must be a tuple or a list, but got {shown(values)}"
            raise TaskError(rule, remedy=f'write settings={{"{name}": (..., ...)}}')
    return tuple(Axis(name, tuple(values), _kind(name, values)) for name, values in given.items())


def _kind(name: str, values: Iterable[Any]) -> AxisKind:
    if name in KNOWN or name in _OTHERS:
        return _known(name).kind
    return "numeric" if all(map(_number, values)) else "categorical"


def _known(name: Any) -> _Known:
    if isinstance(name, str) and (known := KNOWN.get(name) or _OTHERS.get(name)):
        return known
    prefix, _, knob = name.partition(".") if isinstance(name, str) else ("", "", "")
    if prefix == KNOBS and is_template_name(knob):
        return _Known("categorical", is_value, "strings, numbers or truth values")
    names = [*KNOWN, *_OTHERS, f"{KNOBS}.NAME"]
    rule = f"a setting must be one of {', '.join(names)}, but got {shown(name)}"
    raise TaskError(rule, remedy=did_you_mean(str(name), names))


def is_template_name(name: Any) -> bool:
    """Whether templates can read something by this name: an identifier; sandboxed templates hide those with a _."""
    return isinstance(name, str) and name.isidentifier() and not name.startswith("_")


def canonical(value: Any) -> Any:
    """The one form of a value: 0.0 is 0, so that equal settings have equal keys."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def is_value(value: Any) -> bool:
    """Whether a setting may have this value."""
    return isinstance(value, str | bool) or _number(value)


def as_pairs(given: Any) -> Any:
    """Settings as sorted pairs, from a mapping or from pairs; anything else as it is."""
    pairs = given.items() if isinstance(given, Mapping) else given
    try:
        return tuple(sorted((name, canonical(value)) for name, value in pairs))
    except (TypeError, ValueError):
        return given


def are_settings(given: Any) -> bool:
    """Whether `as_pairs` returned settings: distinct names, and values of the allowed types."""
    return (
        isinstance(given, tuple)
        and all(isinstance(pair, tuple) and len(pair) == 2 for pair in given)
        and all(isinstance(name, str) and is_value(value) for name, value in given)
        and len({name for name, _ in given}) == len(given)
    )


def fields_for(subtask: Any, settings: Iterable[tuple[str, SettingValue]]) -> dict[str, Any]:
    """The fields of a subtask with these settings, in the types of the fields.

    Args:
        subtask: The `Subtask`, for its other knobs and options.
        settings: Names and values.
    """
    given = dict(settings)
    found: dict[str, Any] = {name: value for name, value in given.items() if name in KNOWN}
    if "temperature" in found:
        found["temperature"] = float(found["temperature"])
    prefix = f"{KNOBS}."
    if knobs := {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}:
        found["knobs"] = {**subtask.knobs, **knobs}
    if STOP in given:
        found["fusion"] = replace(subtask.fusion, options={**subtask.fusion.options, "stop": given[STOP]})
    return found


def first_values(subtask: Any, where: str) -> dict[str, Any]:
    """The fields of a subtask that its axes set: `settings` as axes, and those that have the first value of one.

    Args:
        subtask: The `Subtask`; several levels of its fusion's option `stop` are an axis, too.
        where: The subtask, for messages.

    Raises:
        TaskError: An axis breaks a rule.
    """
    levels = subtask.fusion.options.get("stop")
    try:
        axes = as_axes(subtask.settings) + (as_axes({STOP: levels}) if isinstance(levels, list | tuple) else ())
        if subtask.cascade and CASCADE not in {axis.name for axis in axes}:
            axes += as_axes({CASCADE: (OFF, *subtask.cascade.below)})
        if subtask.demos and DEMOS not in {axis.name for axis in axes}:
            axes += as_axes({DEMOS: subtask.demos.count})
    except TaskError as error:
        raise TaskError(error.message, where=where, remedy=error.remedy) from error
    return {"settings": axes, **fields_for(subtask, ((axis.name, axis.values[0]) for axis in axes))}


def values_of(axes: Iterable[Axis], name: str, own: Any) -> tuple[Any, ...]:
    """The values that candidates may have of a setting; that of the subtask alone if no axis varies it.

    Args:
        axes: The subtask's axes.
        name: Name of the setting.
        own: The subtask's value.
    """
    return next((axis.values for axis in axes if axis.name == name), (own,))
