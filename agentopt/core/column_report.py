"""The columns of a task's data: type, share of missing values, and the labels of the target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from agentopt.core.task import Task

MOST_LABELS = 12
"""A target has labels if it has at most so many values, each in two rows on average."""

_KINDS: dict[type, str] = {str: "text", bool: "truth value", int: "whole number", float: "number", list: "list"}


@dataclass(frozen=True)
class Column:
    """One column of the examples of all splits."""

    name: str
    use: Literal["input", "target", "metadata"]
    kind: str
    """Types of its values, the most frequent first."""
    missing: float
    """Share of examples without a value."""
    labels: dict[str, int] | None = None
    """Value -> number of examples, the most frequent first; None unless it is a target of few values."""


def columns_of(task: Task) -> tuple[Column, ...]:
    """Summarise the inputs, the target and the metadata of a task's examples, over all splits."""
    examples = [example for rows in task.splits.values() for example in rows]
    targets = [example.target for example in examples]
    target = Column("target", "target", _kind(targets), _missing(targets), _labels(targets))
    inputs = _summaries("input", [dict(example.inputs) for example in examples])
    return (*inputs, target, *_summaries("metadata", [dict(example.metadata) for example in examples]))


def _summaries(use: Literal["input", "metadata"], rows: list[dict[str, Any]]) -> Iterator[Column]:
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        yield Column(name, use, _kind(values), _missing(values))


def _kind(values: Iterable[Any]) -> str:
    kinds = Counter(_KINDS.get(type(value), "structure") for value in values if value is not None)
    return " or ".join(name for name, _ in kinds.most_common()) or "none"


def _missing(values: list[Any]) -> float:
    return sum(value is None for value in values) / len(values)


def _labels(values: list[Any]) -> dict[str, int] | None:
    given = [value for value in values if value is not None]
    if not given or not all(isinstance(value, str | bool | int) for value in given):
        return None
    counts = Counter(map(str, given))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return dict(ordered) if len(counts) <= min(MOST_LABELS, len(given) // 2) else None
