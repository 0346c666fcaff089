"""Reads the labels that people gave to outputs, from a CSV or JSONL file."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentopt.core.errors import TaskError
from agentopt.evaluation.outputs import as_text
from agentopt.taskfile.data import file_content, json_lines

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
    """Read the columns `id`, `output` (one of the two may be missing) and `label` or `score`.

    Args:
        path: A .csv file with a header, or a .jsonl file.

    Raises:
        TaskError: With file and line: the file cannot be read, a row lacks a column or has no score, or two rows are
            about one output.
    """
    if path.suffix not in (".csv", ".jsonl"):
        rule = f"labels must be a .csv or .jsonl file, but got {path.name}"
        raise TaskError(rule, where="--labels", remedy="convert it; it needs the columns id, output and label")
    rows = _csv_rows(path) if path.suffix == ".csv" else json_lines(path, "--labels")
    labels = [_label(row, place) for place, row in rows]
    if not labels:
        raise TaskError("there must be at least one label, but the file is empty", where=path, remedy="add rows")
    seen: dict[tuple[str | None, str | None], str] = {}
    for label in labels:
        other = seen.setdefault((label.example, label.output), label.where)
        if other != label.where:
            rule = f"an output must have one label, but it has another one at {other}"
            raise TaskError(rule, where=label.where, remedy="write the mean of several people's scores")
    return labels


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = file_content(path, "--labels").decode("utf-8")
    except UnicodeDecodeError as error:
        raise TaskError(f"is not UTF-8: {error}", where=path, remedy="save the file as UTF-8") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            yield f"{path}:{reader.line_num}", {name: value for name, value in row.items() if name and value}
    except csv.Error as error:
        raise TaskError(f"is not CSV: {error}", where=f"{path}:{reader.line_num}", remedy="quote the text") from error


def _label(row: dict[str, Any], place: str) -> Label:
    example, output = row.get("id"), row.get("output")
    scores = [row[name] for name in ("label", "score") if row.get(name) is not None]
    if len(scores) != 1:
        rule = f"a row must have either `label` or `score`, but got the columns {', '.join(row) or 'none'}"
        raise TaskError(rule, where=place, remedy="write one number from 0 to 1, or yes or no")
    if example is None and output is None:
        rule = f"a row must have `id` or `output`, but got the columns {', '.join(row)}"
        raise TaskError(rule, where=place, remedy="add the id of the example that was labelled")
    return Label(
        None if example is None else as_text(example),
        None if output is None else as_text(output),
        _score(scores[0], place),
        place,
    )


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
        raise TaskError(rule, where=place, remedy="divide by the highest score: 4 of 5 is 0.8")
    return number
