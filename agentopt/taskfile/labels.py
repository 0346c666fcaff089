"""Reads the labels that people gave to outputs, from a CSV or JSONL file."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentopt.core.errors import TaskError
from agentopt.core.yaml_models import closest
from agentopt.evaluation.outputs import as_text
from agentopt.taskfile.table import TableRow
from agentopt.taskfile.text_rows import CORRECT_ARGUMENT, csv_rows, json_lines

COLUMNS = ("id", "output", "label", "score")

WORDS = {
    **dict.fromkeys(("true", "yes", "pass", "good", "right", "correct"), 1.0),
    **dict.fromkeys(("false", "no", "fail", "bad", "wrong", "incorrect"), 0.0),
}
"""Words that a label may be, in any case."""


@dataclass(frozen=True, slots=True)
class Label:
    """The score that people gave to an output.

    Attributes:
        example: Id of the example; None if the output identifies it.
        output: The text that was scored; None for the candidate's output.
        score: From 0 (wrong) to 1 (right).
        where: Its place in the file.
    """

    example: str | None
    output: str | None
    score: float
    where: str


def read_labels(path: Path) -> list[Label]:
    """Read the columns `id`, `output` (one of the two may be missing) and `label` or `score`, in any case.

    Args:
        path: A .csv file with a header, or a .jsonl file.

    Raises:
        TaskError: With file and line: the file cannot be read, the header repeats a column, a row has a key twice,
            lacks a column, has more cells than the header or has no score, or two rows are about one output.
    """
    if path.suffix not in (".csv", ".jsonl"):
        rule = f"labels must be a .csv or .jsonl file, but got {path.name}"
        raise TaskError(rule, where="--labels", remedy="convert it; it needs the columns id, output and label")
    read = csv_rows if path.suffix == ".csv" else json_lines
    labels = [_label(row, place) for place, row in read(path, "--labels", CORRECT_ARGUMENT)]
    if not labels:
        raise TaskError("there must be at least one label, but the file is empty", where=path, remedy="add rows")
    check_one_label_each(((label.example, label.output), label) for label in labels)
    return labels


def check_one_label_each(labels: Iterable[tuple[Hashable, Label]]) -> None:
    """Check that no output has two labels.

    Args:
        labels: Each label, after a key that is equal for labels of the same output.

    Raises:
        TaskError: Two labels have equal keys.
    """
    places: dict[Hashable, str] = {}
    for output, label in labels:
        other = places.setdefault(output, label.where)
        if other != label.where:
            rule = f"an output must have one label, but it has another one at {other}"
            raise TaskError(rule, where=label.where, remedy="write the mean of several people's scores")


def _label(given: dict[str, Any], place: str) -> Label:
    row = {**{name.strip().lower(): value for name, value in given.items()}, **given}  # spreadsheets write `ID`
    example, output = row.get("id"), row.get("output")
    scores = [row[name] for name in ("label", "score") if row.get(name) is not None]
    if len(scores) != 1:
        _check_columns(given, ("label", "score"), place, "add the column `label`")
        rule = f"a row must have either `label` or `score`, but has {'both' if scores else 'no value there'}"
        raise TaskError(rule, where=place, remedy="write one number from 0 to 1, or yes or no")
    if example is None and output is None:
        remedy = "add the id of the example that was labelled"
        _check_columns(given, ("id", "output"), place, remedy)
        raise TaskError("a row must have `id` or `output`, but has no value there", where=place, remedy=remedy)
    return Label(
        None if example is None else as_text(example),
        None if output is None else as_text(output),
        _score(scores[0], place),
        place,
    )


def _check_columns(row: dict[str, Any], names: tuple[str, str], place: str, remedy: str) -> None:
    """Check that a row has at least one of two columns, with or without a value."""
    columns, where = (row.columns, row.header) if isinstance(row, TableRow) else (tuple(row), place)
    found = [column.strip().lower() for column in columns]
    if not {*names} & {*found}:
        rule = f"a row must have `{names[0]}` or `{names[1]}`, but got the columns {', '.join(columns) or 'none'}"
        meant = next(filter(None, (closest(column, names) for column in found if column not in COLUMNS)), None)
        raise TaskError(rule, where=where, remedy=f"did you mean '{meant}'?" if meant else remedy)


def _score(value: Any, place: str) -> float:
    known = WORDS.get(str(value).strip().lower())
    if known is not None:
        return known
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        rule = f"a label must be a number from 0 to 1, or one of {', '.join(WORDS)}, but got {value!r}"
        above = 1 < number < math.inf
        remedy = "divide by the highest score: 4 of 5 is 0.8" if above else "correct the label, or remove the row"
        raise TaskError(rule, where=place, remedy=remedy)
    return number
