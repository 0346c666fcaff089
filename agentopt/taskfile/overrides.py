"""Sets keys of a task file from the configuration, and names the setting in the errors about its value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentopt.core.errors import AgentoptError, TaskError
from agentopt.core.yaml_models import Key, Mistake, did_you_mean, dotted, shortened, within


class _NoSuchItemError(AgentoptError):
    """No item of a list has that name or number; `names` are those of its items."""

    def __init__(self, item: str, names: Sequence[str]) -> None:
        super().__init__(item)
        self.item, self.names = item, names


class Overrides:
    """Keys of a task file that the configuration sets, applied to its content.

    Args:
        data: The content of the file, which is left as it is.
        given: Dotted key -> value, such as `subtasks.find.max_tokens`. An item of a list is named by its position from
            0, or by its `name`. A value replaces what the file has under its key, but `{find: {max_tokens: 9}}` for
            `subtasks`, or `{max_tokens: 9}` for `subtasks.find`, sets the keys that it has.

    Attributes:
        data: The changed content.

    Raises:
        TaskError: A list has no such item.
    """

    def __init__(self, data: Any, given: Mapping[str, Any]) -> None:
        self.data = data
        self._settings: dict[Key, tuple[str, Any]] = {}
        for key, value in given.items():
            for single, part in _singles(data, key, value):
                self._set(single, part)

    def _set(self, key: str, value: Any) -> None:
        place: list[str | int] = []
        try:
            self.data = _with(self.data, key.split("."), value, place)
        except _NoSuchItemError as error:
            rule = f"there is no {error.item!r} in the list `{dotted(tuple(place), self.data)}`"
            remedy = "use the number of an item, from 0, or its `name`"
            where = _as_given(key, value)
            raise TaskError(rule, where=where, remedy=did_you_mean(error.item, error.names, remedy)) from error
        self._settings[tuple(place)] = key, value

    def explained(self, mistake: Mistake) -> Mistake:
        """The mistake, with the setting in place of the key of a value that it set."""
        return replace(mistake, key=self._setting_at(mistake.key) or mistake.key)

    def relocated(self, error: TaskError, file: Path) -> TaskError:
        """The error, with the setting in place of the file if the setting's value is the cause.

        Args:
            error: An error whose `where` is a key of the file.
            file: The task file.
        """
        key, colon, rest = str(error.where).removeprefix(f"{file}: ").partition(": ")
        setting = self._setting_at(key) if str(error.where).startswith(f"{file}: ") else None
        return TaskError(error.message, where=f"{setting}{colon}{rest}", remedy=error.remedy) if setting else error

    def _setting_at(self, key: str) -> str | None:
        """The setting of the value at `key`, or of a part of it."""
        settings = {dotted(place, self.data): setting for place, setting in self._settings.items()}
        for place, setting in reversed(settings.items()):
            if key == place or key.startswith(f"{place}."):
                return _as_given(*setting, key[len(place) + 1 :])
        # Such as `scorer.kind`, whose value decides which options the scorer has.
        of_options = (setting for place, setting in settings.items() if place.rpartition(".")[0] == key)
        return next((_as_given(*setting) for setting in of_options), None)


def _as_given(key: str, value: Any, inside: str = "") -> str:
    """A setting and a key inside its value, for messages: the keys alone if they do not fit in with the value."""
    whole = ": ".join(filter(None, (f"-c task.{key}={' '.join(str(value).split())}", within(inside))))
    return whole if shortened(whole) == whole else ".".join(filter(None, (f"-c task.{key}", inside)))


def _singles(data: Any, key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The setting, or a setting for each key inside if its value is a mapping for items of a list with names."""
    around, found = None, data
    for part in key.split("."):
        around, found = found, _inside(found, part)
    of_items = isinstance(found, list) and any(_name(item) for item in found)
    of_an_item = isinstance(around, list) and _name(found) is not None
    if isinstance(value, Mapping) and (of_items or (of_an_item and "name" not in value)) and value:
        for inner, part in value.items():
            yield from _singles(data, f"{key}.{inner}", part)
    else:
        yield key, value


def _name(item: Any) -> str | None:
    name = item.get("name") if isinstance(item, Mapping) else None
    return name if isinstance(name, str) else None


def _position(items: Sequence[Any], part: str) -> int | None:
    """The position of the item that a part of a key names."""
    names = [_name(item) for item in items]
    position = names.index(part) if part in names else int(part) if part.isdecimal() else len(items)
    return position if position < len(items) else None


def _inside(data: Any, part: str) -> Any:
    """The value under one part of a key; None if there is none."""
    if isinstance(data, list):
        position = _position(data, part)
        return None if position is None else data[position]
    return data.get(part) if isinstance(data, Mapping) else None


def _with(data: Any, path: Sequence[str], value: Any, place: list[str | int]) -> Any:
    """`data` with the value at `path`, whose keys are appended to `place`."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(data, list):
        position = _position(data, head)
        if position is None:
            raise _NoSuchItemError(head, [name for item in data if (name := _name(item))])
        place.append(position)
        return [_with(item, rest, value, place) if i == position else item for i, item in enumerate(data)]
    place.append(head)
    return {**(data if isinstance(data, Mapping) else {}), head: _with(_inside(data, head), rest, value, place)}
