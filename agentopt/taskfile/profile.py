"""Infers from the rows of a data file which columns are the inputs and the target, and what an answer is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from agentopt.core.column_report import MOST_LABELS
from agentopt.core.errors import TaskError
from agentopt.core.yaml_models import did_you_mean, listed

TARGETS = (
    *("target", "answer", "answers", "label", "expected", "reference", "gold", "output", "response", "completion"),
    *("category", "class", "intent", "sentiment", "solution", "result", "reply"),
)
"""Names of a target column, in any case; the first that the data has is taken, otherwise the last column."""

SHORT = 5
"""Most words of a short answer, in the median."""

Row = Mapping[str, Any]
AnswerKind = Literal["label", "number", "short", "long"]


@dataclass(frozen=True)
class Profile:
    """How rows become examples.

    Attributes:
        id: Column of the id; None: the number of the row is it.
        inputs: Name in templates -> column.
        target: Column of the expected answer.
        kind: What an answer is.
        labels: The answers, if they are labels.
        unused: A column called id that does not identify the rows, which no template reads; None without one.
    """

    id: str | None
    inputs: dict[str, str]
    target: str
    kind: AnswerKind
    labels: tuple[str, ...] = ()
    unused: str | None = None


def profile_of(rows: Sequence[Row], target: str | None, where: str) -> Profile:
    """Infer the columns of a table.

    Args:
        rows: Its rows.
        target: The column of the expected answer; inferred unless given.
        where: The source, for messages.

    Raises:
        TaskError: There are fewer than two columns, or none is called `target`.
    """
    if not rows:
        raise TaskError("data must have at least one row, but has none", where=where, remedy="add rows")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if len(columns) < 2:
        rule = f"data must have a column to read and one with the expected answer, but got {listed(columns)}"
        raise TaskError(rule, where=where, remedy="add the expected answers as a column")
    if target is not None and target not in columns:
        raise TaskError(f"there is no column {target!r}", where="--target", remedy=did_you_mean(target, columns))
    lowered = {name.lower(): name for name in columns}
    named = next((lowered[name] for name in TARGETS if name in lowered), columns[-1])
    target = target or named
    ids = lowered.get("id")
    id_column = ids if ids and ids != target and _identifies(rows, ids) else None
    others = [name for name in columns if name not in (target, ids)]
    unused = ids if ids and others and ids not in (target, id_column) else None
    inputs = _names(others or [name for name in columns if name != target])
    answers = [row[target] for row in rows if row.get(target) is not None]
    kind = answer_kind(answers)
    labels = tuple(dict.fromkeys(map(str, answers))) if kind == "label" else ()
    return Profile(id_column, inputs, target, kind, labels, unused)


def _identifies(rows: Sequence[Row], column: str) -> bool:
    values = [row.get(column) for row in rows]
    usable = all(isinstance(value, str | int) and not isinstance(value, bool) and value != "" for value in values)
    return usable and len(set(map(str, values))) == len(values)


def _names(columns: Sequence[str]) -> dict[str, str]:
    """An identifier for each column, by which templates read it."""
    found: dict[str, str] = {}
    for column in columns:
        plain = re.sub(r"[^a-z0-9]+", "_", column.lower()).strip("_")
        name = plain if re.match("[a-z]", plain) else f"column_{plain}".rstrip("_")
        name = name if name not in (*found, "target", "id") else f"{name}_{len(found) + 1}"
        found[name] = column
    return found


def answer_kind(answers: Sequence[Any]) -> AnswerKind:
    """What the expected answers are, such as labels."""
    if all(_is_number(answer) for answer in answers):
        return "number"
    if not all(isinstance(answer, str | bool | int) for answer in answers):
        return "short"
    distinct = {str(answer).strip().lower() for answer in answers}
    words = median(len(str(answer).split()) for answer in answers)
    if 2 <= len(distinct) <= min(MOST_LABELS, len(answers) // 2) and words <= SHORT:
        return "label" if len(distinct) == len({str(answer) for answer in answers}) else "short"
    return "short" if words <= SHORT else "long"


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"\s*[-+]?\d+(\.\d+)?\s*", value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)
