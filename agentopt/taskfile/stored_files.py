"""Rows of a large file: each is read and checked once, and read again when it is needed.

In memory are the place of each row in the file and the hashes that show which rows may be equal, about 50 bytes a row.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from agentopt.core.paths import cache_folder
from agentopt.core.stored_rows import Hashes, StoredRows, repeating
from agentopt.core.task import Example
from agentopt.taskfile.data import Row, RowReader, check_id, no_rows
from agentopt.taskfile.lines import Lines, Progress, no_progress
from agentopt.taskfile.parquet import parquet_rows
from agentopt.taskfile.row_index import KeptIndex, RowIndex
from agentopt.taskfile.schema import ColumnsSpec
from agentopt.taskfile.sources import source_name
from agentopt.taskfile.stored_parquet import copied_rows
from agentopt.taskfile.text_rows import json_lines

LARGE = 8 * 2**20
"""Bytes of a JSONL file from which on its rows stay there."""


class FileRows(StoredRows[Row]):
    """Rows of a JSONL file.

    Args:
        lines: The file.
        reader: Reads a row.
        index: What is known of the rows of the file.
        places: The rows of the file that these are.
        kept: Records which checks they have passed.
    """

    def __init__(
        self, lines: Lines, reader: RowReader, index: RowIndex, places: Sequence[int], kept: KeptIndex | None = None
    ) -> None:
        self._lines, self._reader, self.index_of_file, self._places = lines, reader, index, places
        self._kept = kept

    @cached_property
    def hashes(self) -> Mapping[str, Hashes[int]]:
        every = self.index_of_file.hashes
        if self._places == range(len(self._lines)):
            return every
        return {kind: array("Q", (of[place] for place in self._places)) for kind, of in every.items()}

    @property
    def numbered(self) -> Sequence[int]:
        """For each row 1 if its id is the number of its line, otherwise 0."""
        return bytearray(self.index_of_file.numbered[place] for place in self._places)

    def has_passed(self, how: object) -> bool:
        """Whether these rows have passed a check before.

        Args:
            how: All that the check depends on, beside the rows, as JSON has it; None if that is not known.
        """
        return how is not None and self._kept is not None and self._kept.has(self._named(how))

    def keep_passed(self, how: object) -> None:
        """Record that these rows have passed a check.

        Args:
            how: As for `has_passed`.
        """
        if how is not None and self._kept is not None:
            self._kept.keep(self._named(how))

    def _named(self, how: object) -> str:
        rows = hashlib.sha256(array("Q", self._places)).hexdigest()
        return json.dumps([rows, how], sort_keys=True)

    def __len__(self) -> int:
        return len(self._places)

    def at(self, places: Iterable[int]) -> Iterator[Row]:
        return map(self._reader.row, self._lines.at(self._places[place] for place in places))

    def of(self, places: Sequence[int]) -> FileRows:
        own = self._places
        kept = own[_slice(places)] if isinstance(places, range) else array("Q", (own[place] for place in places))
        return FileRows(self._lines, self._reader, self.index_of_file, kept, self._kept)


class FileExamples(StoredRows[Example]):
    """The examples of rows.

    Args:
        rows: The rows.
    """

    def __init__(self, rows: FileRows) -> None:
        self._rows = rows

    @property
    def hashes(self) -> Mapping[str, Hashes[int]]:
        return self._rows.hashes

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, places: Iterable[int]) -> Iterator[Example]:
        return (row.example for row in self._rows.at(places))

    def of(self, places: Sequence[int]) -> FileExamples:
        return FileExamples(self._rows.of(places))


def _slice(places: range) -> slice:
    """The slice that takes the places of a range that counts upwards."""
    return slice(places.start, places.stop, places.step)


def examples_of(rows: Sequence[Row]) -> Sequence[Example]:
    """Return the examples of rows, without reading those that are in a file.

    Args:
        rows: The rows.
    """
    return FileExamples(rows) if isinstance(rows, FileRows) else tuple(row.example for row in rows)


def read_large_rows(
    source: str,
    folder: Path,
    columns: ColumnsSpec,
    *,
    target_needed: bool,
    where: str,
    progress: Progress = no_progress,
    large: int = LARGE,
) -> FileRows | None:
    """Read and check the examples of a large JSONL or Parquet file, which stay there.

    Args:
        source: The name of a source.
        folder: The task folder.
        columns: How a row becomes an example.
        target_needed: Whether every row must have a target.
        where: The key that names the source, for messages.
        progress: Called now and then.
        large: Bytes from which on a file is large.

    Returns:
        The rows; None if the source is another one, or the file is smaller or in UTF-16.

    Raises:
        TaskError: As by `data.read_rows`.
    """
    path = folder / source
    lines = _large(path, where, large)
    if lines is None:
        return None
    again = json_lines if path.suffix.lower() == ".jsonl" else parquet_rows
    reader = RowReader(columns, target_needed, lambda: again(path, where))
    kept = KeptIndex(cache_folder() / "rows", lines, {"columns": columns.model_dump(), "target": target_needed})
    if index := kept.read(lines):
        return FileRows(lines, reader, index, range(len(lines)), kept)
    index = RowIndex()
    for placed in lines.scan(progress):
        index.add(reader.row(placed))
    if not len(lines):
        raise no_rows(source_name(source, folder))
    rows, places_by_id = FileRows(lines, reader, index, range(len(lines)), kept), dict[str, str]()
    for row in repeating(rows, ["id"]):
        check_id(row, places_by_id)
    kept.write(lines, index)
    return rows


def _large(path: Path, where: str, large: int) -> Lines | None:
    """The lines of a large file; None if it is small, in UTF-16, or of another kind."""
    suffix = path.suffix.lower()
    if suffix not in (".jsonl", ".parquet") or not os.path.isfile(path):
        return None
    if suffix == ".parquet":
        return copied_rows(path, where, cache_folder() / "rows", large)
    lines = Lines(path, where) if path.stat().st_size >= large else None
    return None if lines is None or lines.is_wide else lines
