"""Rows of text files: JSONL, a JSON list, CSV and TSV, in UTF-8, or in UTF-16 with a byte order mark."""

from __future__ import annotations

import codecs
import csv
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentopt.core.errors import TaskError
from agentopt.core.files import other_than_file
from agentopt.core.json_document import parse_json
from agentopt.core.yaml_models import RuleError, as_error
from agentopt.taskfile.table import Placed, table_rows

CORRECT_PATH = "correct the path; it is relative to the task folder, or to the working folder if set by -c data="
CORRECT_ARGUMENT = "correct the path; it is relative to the working folder"
"""The remedy for the path of an option."""

LONGEST_PATH = 300
"""Characters of a path in a message."""


def json_lines(path: Path, where: str, remedy: str = CORRECT_PATH) -> Iterator[Placed]:
    """Yield the place and the object of each line; blank lines are skipped.

    Args:
        path: The file.
        where: The key or the option that names it, for messages.
        remedy: What to do about a file that cannot be read.

    Raises:
        TaskError: The file cannot be read, or a line is not a JSON object or has a key twice.
    """
    for number, line in enumerate(file_text(path, where, remedy).split("\n"), 1):
        if line.strip():
            place = f"{path}:{number}"
            yield place, json_line(line, place)


def json_line(line: str, place: str) -> dict[str, Any]:
    """Return the object of a line.

    Args:
        line: The line.
        place: Its place, for messages.

    Raises:
        TaskError: It is not a JSON object, or has a key twice.
    """
    return _row(_json(line, place, "write one JSON object per line"), place)


def json_list(path: Path, where: str, remedy: str = CORRECT_PATH) -> Iterator[Placed]:
    """Yield the place and the object of each item of a file that is one JSON list.

    Args:
        path: The file.
        where: The key or the option that names it, for messages.
        remedy: What to do about a file that cannot be read.

    Raises:
        TaskError: The file cannot be read, is not a list, or an item is not an object or has a key twice.
    """
    items = _json(file_text(path, where, remedy), str(path), "write one JSON list of objects")
    if not isinstance(items, list):
        rule = f"a .json dataset must be a list of objects, but got a {type(items).__name__}"
        raise TaskError(rule, where=path, remedy="write [{...}, ...], or one object per line into a .jsonl file")
    for number, item in enumerate(items):
        place = f"{path}: [{number}]"
        yield place, _row(item, place)


def csv_rows(path: Path, where: str, remedy: str = CORRECT_PATH) -> Iterator[Placed]:
    """Yield the place and the cells of each row of a table as text, without the empty cells.

    The first row is the header. In a .csv file, the delimiter is the comma; if the header has none, the semicolon, as
    spreadsheets in many countries write it; if it has neither, the tab, which it always is in a .tsv file.

    Args:
        path: The file.
        where: The key or the option that names it, for messages.
        remedy: What to do about a file that cannot be read.

    Raises:
        TaskError: The file cannot be read, is not CSV, or its header or a row breaks a rule of tables.
    """
    text = file_text(path, where, remedy)
    first = re.sub('"[^"]*"', "", text.lstrip().partition("\n")[0])
    found = next((mark for mark in ",;\t" if mark in first), ",")
    # Strict, because a quote that is never closed would otherwise take the rest of the file as one text.
    delimiter = "\t" if path.suffix.lower() == ".tsv" else found
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, last = list[tuple[str, list[str]]](), 0
    try:
        with _long_cells():
            for row in reader:
                last = reader.line_num
                rows += [(f"{path}:{last}", row)] * any(row)
    except csv.Error as error:
        place, how = f"{path}:{last + 1}", "quote the text, and double each quote inside it"
        raise TaskError(f"is not CSV: {error}", where=place, remedy=how) from error
    if rows:
        yield from table_rows(rows[0][1], rows[1:], rows[0][0])


@contextmanager
def _long_cells() -> Iterator[None]:
    """Allow cells above the limit of the module csv, 131,072 characters, inside the block."""
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def check_is_file(path: Path, where: str, remedy: str = CORRECT_PATH) -> None:
    """Check that the path is a file, since reading a pipe or a device may not end.

    Args:
        path: The path.
        where: The key or the option that names it, for messages.
        remedy: What to do if it cannot be read.

    Raises:
        TaskError: The path is a folder, a pipe or a device, or does not exist.
    """
    try:
        path.stat()
    except (OSError, ValueError) as error:  # a zero byte in the name is a ValueError
        reason = error.strerror if isinstance(error, OSError) else error
        rule = f"the file {_printable(path)} cannot be read: {reason}"
        raise TaskError(rule, where=where, remedy=remedy) from error
    if kind := other_than_file(path):
        rule = f"data must be a file, but {path} is {kind}"
        raise TaskError(rule, where=where, remedy="give the path of a file; write the output of a command to one")


def _printable(path: Path) -> str:
    """The path without control characters, and its end alone if it is very long."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))
    return text if len(text) <= LONGEST_PATH else f"...{text[-LONGEST_PATH:]}"


def file_text(path: Path, where: str, remedy: str = CORRECT_PATH) -> str:
    """The text of a data file, without a byte order mark.

    Args:
        path: The file.
        where: The key or the option that names it, for messages.
        remedy: What to do if it cannot be read.

    Raises:
        TaskError: The path is no file, or the file cannot be read or is not text.
    """
    check_is_file(path, where, remedy)
    try:
        content = path.read_bytes()
    except OSError as error:
        rule = f"the file {path} cannot be read: {error.strerror}"
        raise TaskError(rule, where=where, remedy=remedy) from error
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        rule = f"is not {'UTF-16' if wide else 'UTF-8'}: {error}"
        raise TaskError(rule, where=f"{path}:{line}", remedy="save the file as UTF-8") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise TaskError("must be text, but has a zero byte", where=f"{path}:{line}", remedy="save the file as UTF-8")
    return text


def _json(text: str, place: str, remedy: str) -> Any:
    try:
        return parse_json(text)
    except RuleError as error:
        raise as_error(error.mistakes, place, TaskError) from error
    except (ValueError, RecursionError) as error:
        raise TaskError(f"is not JSON: {error}", where=place, remedy=remedy) from error


def _row(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        rule = f"a row must be a JSON object, but got a {type(row).__name__}"
        raise TaskError(rule, where=place, remedy='write {"column": value, ...}')
    return row
