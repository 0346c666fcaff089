"""Rows of a large Parquet file: they are copied once to a JSONL file in the cache folder.

Parquet has no quick access to one row, and an evaluation reads rows in a shuffled order.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from agentopt.core.files import write_atomically
from agentopt.taskfile.lines import Lines
from agentopt.taskfile.parquet import parquet_rows, parquet_size
from agentopt.taskfile.row_index import remove_old, used
from agentopt.taskfile.table import Placed, TableRow

LARGE_ROWS = 50_000
"""Rows of a Parquet file from which on they are copied."""

VERSION = "v1"
"""Part of the names of copies: those of another form are not used."""


class CopiedRows(Lines):
    """The place in a Parquet file, and the cells, of each row of its copy. The first line has the names of the columns.

    Args:
        copy: The copy.
        path: The Parquet file.
        where: The key that names it, for messages.
    """

    def __init__(self, copy: Path, path: Path, where: str) -> None:
        super().__init__(copy, where)
        self._table = str(path)
        with copy.open(encoding="utf-8") as file:
            line = file.readline()
        self._columns: list[str] = json.loads(line)["columns"] if line else []  # no row has a value

    def _is_row(self, number: int, text: str) -> bool:
        return number > 1 and super()._is_row(number, text)

    def _placed(self, number: int, text: str) -> Placed:
        return f"{self._table}:{number - 1}", TableRow(json.loads(text), self._columns, self._table)


def copied_rows(path: Path, where: str, folder: Path, large: int, now: float | None = None) -> CopiedRows | None:
    """Copy the rows of a large Parquet file, unless that was done before.

    Args:
        path: The file.
        where: The key that names it, for messages.
        folder: Where copies are.
        large: Bytes of columns from which on a file is large, whatever its number of rows.
        now: The time, for tests.

    Returns:
        The rows; None if the file is not large, or they cannot be copied, as values that JSON does not have.

    Raises:
        TaskError: A row breaks a rule of tables.
    """
    try:
        rows, size = parquet_size(path)
    except ImportError:
        return None
    if size < large and rows < LARGE_ROWS:
        return None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    copy, now = folder / f"{digest[:40]}-{VERSION}.jsonl", time.time() if now is None else now
    try:
        if not copy.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            remove_old(folder, now)
            write_atomically(copy, _json_lines(parquet_rows(path, where)))
        used(copy, now)
        return CopiedRows(copy, path, where)
    except (OSError, TypeError):
        return None


def _json_lines(rows: Iterable[Placed]) -> Iterator[str]:
    """Yield a line for the columns, and one for each row, at the number of the row; those without a value are blank."""
    last = 0
    for place, row in rows:
        if not last and isinstance(row, TableRow):
            yield f"{json.dumps({'columns': row.columns})}\n"
        number = int(place.rpartition(":")[2])
        yield "\n" * (number - last - 1)
        yield f"{json.dumps(row)}\n"
        last = number
