"""The data of a task folder: JSONL rows become examples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentopt.core.duplicates import duplicate_share, grouped
from agentopt.core.errors import TaskError
from agentopt.core.json_document import parse_json
from agentopt.core.records import Split
from agentopt.core.task import Example
from agentopt.core.yaml_models import RuleError, as_error, did_you_mean
from agentopt.taskfile.schema import ColumnsSpec

CORRECT_PATH = "correct the path; it is relative to the task folder, or to the working folder if set by -c data="


@dataclass(frozen=True, slots=True)
class Row:
    """An example and its place in a file. `numbered`: its id is its line number."""

    example: Example
    where: str
    numbered: bool


def read_rows(path: Path, columns: ColumnsSpec, *, target_needed: bool, where: str) -> list[Row]:
    """Read a JSONL file; blank lines are skipped.

    Args:
        path: The file.
        columns: How a row becomes an example.
        target_needed: Whether every row must have a target.
        where: The key that names the file, for messages.

    Raises:
        TaskError: With file and line: a row is not a JSON object, has a key twice, lacks a column, or repeats an
            id.
    """
    if path.suffix != ".jsonl":
        rule = f"data must be a .jsonl file (one JSON object per line), but got {path.name}"
        raise TaskError(rule, where=where, remedy="convert it to JSONL")
    rows: list[Row] = []
    lines_by_id: dict[str, str] = {}
    for place, row in json_lines(path, where):
        example, numbered = _example(row, place, columns, target_needed)
        if example.id in lines_by_id:
            rule = f"an id must be given once in a split, but {example.id!r} is also at {lines_by_id[example.id]}"
            raise TaskError(rule, where=place, remedy="give each row its own id")
        lines_by_id[example.id] = place
        rows.append(Row(example, place, numbered))
    if not rows:
        raise TaskError("a split must have at least one example, but the file is empty", where=path, remedy="add rows")
    return rows


def json_lines(path: Path, where: str, remedy: str = CORRECT_PATH) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the object of each line; blank lines are skipped.

    Args:
        path: The file.
        where: The key or the option that names it, for messages.
        remedy: What to do about a file that cannot be read.

    Raises:
        TaskError: The file cannot be read, or a line is not a JSON object or has a key twice.
    """
    for number, line in enumerate(file_content(path, where, remedy).split(b"\n"), 1):
        if line.strip():
            yield f"{path}:{number}", _object(line, f"{path}:{number}")


def json_list(path: Path, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the object of each item of a file that is one JSON list.

    Args:
        path: The file.
        where: The key that names it, for messages.

    Raises:
        TaskError: The file cannot be read, is not a list, or an item is not an object or has a key twice.
    """
    items = _json(file_content(path, where), str(path), "write one JSON list of objects")
    if not isinstance(items, list):
        rule = f"a .json dataset must be a list of objects, but got a {type(items).__name__}"
        raise TaskError(rule, where=path, remedy="write [{...}, ...], or one object per line into a .jsonl file")
    for number, item in enumerate(items):
        yield f"{path}: {number}", _row(item, f"{path}: {number}")


def file_content(path: Path, where: str, remedy: str = CORRECT_PATH) -> bytes:
    """The bytes of a data file, without a byte order mark.

    Args:
        path: The file.
        where: The key or the option that names it, for messages.
        remedy: What to do if it cannot be read.

    Raises:
        TaskError: The file cannot be read.
    """
    try:
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        rule = f"the file {path} cannot be read: {error.strerror}"
        raise TaskError(rule, where=where, remedy=remedy) from error


def _json(text: bytes, place: str, remedy: str) -> Any:
    try:
        return parse_json(text.decode("utf-8"))
    except RuleError as error:
        raise as_error(error.mistakes, place, TaskError) from error
    except UnicodeDecodeError as error:
        raise TaskError(f"is not UTF-8: {error}", where=place, remedy="save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise TaskError(f"is not JSON: {error}", where=place, remedy=remedy) from error


def _object(line: bytes, place: str) -> dict[str, Any]:
    return _row(_json(line, place, "write one JSON object per line"), place)


def _row(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        rule = f"a row must be a JSON object, but got a {type(row).__name__}"
        raise TaskError(rule, where=place, remedy='write {"column": value, ...}')
    return row


def _example(row: dict[str, Any], place: str, columns: ColumnsSpec, target_needed: bool) -> tuple[Example, bool]:
    """The row as an example, and whether its id is its line number."""
    id_column, target_path = columns.id or "id", columns.target or "target"
    target_column = target_path if target_path in row else target_path.partition(".")[0]
    numbered = columns.id is None and "id" not in row
    wanted = {"columns.metadata": columns.metadata, "columns.inputs": columns.inputs or ()}
    wanted["columns.id"] = (columns.id,) if columns.id else ()
    wanted["columns.group"] = (columns.group,) if columns.group else ()
    wanted["columns.target"] = (target_column,) if columns.target or target_needed else ()
    for key, names in wanted.items():
        for name in names:
            if name not in row:
                rule = f"the row must have the column {name!r} ({key})"
                raise TaskError(rule, where=place, remedy=did_you_mean(name, row))
    used = {id_column, target_column, columns.group, *columns.metadata}
    inputs = [name for name in row if name not in used] if columns.inputs is None else columns.inputs
    example = Example(
        place.rpartition(":")[2] if numbered else _id(row[id_column], place),
        {name: row[name] for name in inputs},
        row.get(target_path) if target_path == target_column else _inside(row, target_path, place),
        {name: row[name] for name in columns.metadata},
        None if columns.group is None else _group(row[columns.group]),
    )
    return example, numbered


def _group(value: Any) -> str | None:
    """The group, or None for null and NaN, which pandas writes for a missing value."""
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def _inside(row: dict[str, Any], path: str, place: str) -> Any:
    """The value at a dotted path such as `answers.text`; of a list, the values of its items."""
    value: Any = row
    for name in path.split("."):
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, dict) and name in item for item in items):
            known = items[0] if items and isinstance(items[0], dict) else {}
            rule = f"the row must have {path!r} (columns.target), but there is no {name!r}"
            raise TaskError(rule, where=place, remedy=did_you_mean(name, known))
        value = [item[name] for item in items] if isinstance(value, list) else value[name]
    return value


def _id(value: Any, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        rule = f"an id must be a text or a whole number, but got {value!r}"
        raise TaskError(rule, where=place, remedy="give the row such an id")
    return str(value)


def check_leaks(splits: Mapping[Split, list[Row]]) -> None:
    """Check that no example is in two splits.

    Raises:
        TaskError: Two splits share an id, equal inputs or a group.
    """
    places: dict[tuple[str, str], tuple[Split, str]] = {}
    for split, rows in splits.items():
        for row in rows:
            ids = () if row.numbered else (("id", row.example.id),)
            for mark in (*ids, *row.example.same_as):
                other, place = places.setdefault(mark, (split, row.where))
                if other != split:
                    rule = f"an example must be in one split only, but its {mark[0]} is also in {other}, at {place}"
                    raise TaskError(rule, where=row.where, remedy="remove it from one of the two splits")


def check_duplicates(split: Split, examples: Sequence[Example], most: float, where: str) -> None:
    """Check that not too many examples of a split repeat the inputs of an earlier one.

    Args:
        split: Name of the split.
        examples: Its examples.
        most: Largest share of repeating examples.
        where: The place of the value, for the error.

    Raises:
        TaskError: Their share is above `most`.
    """
    repeated = duplicate_share(grouped({example.id: example.inputs for example in examples}))
    if repeated > most:
        rule = f"at most {most:.0%} of a split's rows may repeat the inputs of an earlier row, but "
        rule += f"{round(repeated * len(examples))} of {len(examples)} {split} rows do"
        remedy = f"remove the repeated rows, or set data.duplicates: {math.ceil(100 * repeated) / 100:g}"
        raise TaskError(rule, where=where, remedy=remedy)
