"""Typed column access for dataset readers.

A row without the column raises `ColumnError`, which is reported with the row's place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentopt.core.errors import AgentoptError, TaskError
from agentopt.core.yaml_models import did_you_mean


class ColumnError(AgentoptError, ValueError):
    """A row lacks a column, or has one of another type. The reader reports it as a `TaskError` with the row's place."""


class DatasetRow(dict[str, Any]):
    """A row whose `row[name]` raises `MissingColumnError` for a missing column."""

    def __missing__(self, name: object) -> Any:
        raise MissingColumnError(self, str(name))


class MissingColumnError(ColumnError, KeyError):
    """The row has none of the columns `names`. Also a `KeyError`, for readers that expect one."""

    def __init__(self, row: Mapping[str, Any], *names: str) -> None:
        super().__init__(f"the row must have the column {' or '.join(map(repr, names))}; {did_you_mean(names[0], row)}")


def column(row: Mapping[str, Any], *names: str) -> Any:
    """Return the first column that the row has.

    Args:
        row: The row.
        names: Names of the column in the public forms of the dataset.

    Raises:
        MissingColumnError: The row has none of them.
    """
    return row[_name(row, names)]


def text(row: Mapping[str, Any], *names: str) -> str:
    """Return the first column that the row has, a string. Raises `ColumnError`."""
    value: str = _of_kind(row, names, str, "a string")
    return value


def items(row: Mapping[str, Any], *names: str) -> list[Any]:
    """Return the first column that the row has, a list. Raises `ColumnError`."""
    value: list[Any] = _of_kind(row, names, list, "a list")
    return value


def number(row: Mapping[str, Any], *names: str) -> str | int | float:
    """Return the first column that the row has, a number, or a string that contains one. Raises `ColumnError`."""
    value: str | int | float = _of_kind(row, names, (str, int, float), "a number or a string")
    return value


def at_least_one(option: str, value: int) -> None:
    """Raise `TaskError` if the reader's option is below 1."""
    if value < 1:
        raise TaskError(f"{option} must be at least 1, but got {value}", remedy=f"set data.options.{option}")


def _of_kind(row: Mapping[str, Any], names: tuple[str, ...], kind: Any, called: str) -> Any:
    name = _name(row, names)
    value = row[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        shown = json.dumps(value, ensure_ascii=False, default=str)
        shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
        raise ColumnError(f"the column {name!r} must be {called}, but is {shown}")
    return value


def _name(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        if name in row:
            return name
    raise MissingColumnError(row, *names)
