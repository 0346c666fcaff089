"""Rows of a large JSONL file: each is read and checked once, and read again when it is needed.

In memory are the place of each row in the file and the hashes that tell which rows may be equal, about 50 bytes a row.
"""

from __future__ import annotations

import codecs
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import overload

from agentopt.core.duplicates import normalised
from agentopt.core.errors import TaskError
from agentopt.core.stored_rows import Hashes, StoredRows, hash_of, repeating
from agentopt.core.task import Example
from agentopt.taskfile.data import Row, RowReader, check_id, no_rows
from agentopt.taskfile.schema import ColumnsSpec
from agentopt.taskfile.sources import source_name
from agentopt.taskfile.table import Placed
from agentopt.taskfile.text_rows import check_is_file, file_text, json_line, json_lines

LARGE = 8 * 2**20
"""Bytes of a JSONL file from which on its rows stay there."""

Progress = Callable[[int, int], None]
"""Called with the bytes that are read and those of the file."""


def no_progress(done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


EACH = 2_000
"""Rows between two calls of `Progress`."""


class Lines(Sequence[Placed]):
    """The place and the object of each line that is not blank.

    Args:
        path: The file.
        where: The key that names it, for messages.

    Attributes:
        is_wide: Whether it is in UTF-16.
    """

    def __init__(self, path: Path, where: str) -> None:
        self.path, self._where = path, where
        self._starts, self._numbers = array("Q"), array("Q")
        with path.open("rb") as file:
            self._stamp = _stamp(file)
            self.is_wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._stamp[1]

    def scan(self, progress: Progress) -> Iterator[Placed]:
        """Yield all rows, and keep where each of them is.

        Args:
            progress: Called now and then.

        Raises:
            TaskError: The file is not UTF-8, or a line is not a JSON object or has a key twice.
        """
        start = 0
        with self._open() as file:
            for number, line in enumerate(file, 1):
                text = self._text(line.removesuffix(b"\n"), start)
                if text.strip():
                    self._starts.append(start)
                    self._numbers.append(number)
                    yield self._placed(number, text)
                start += len(line)
                if number % EACH == 0 or start == self.size:
                    progress(start, self.size)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> Placed: ...
    @overload
    def __getitem__(self, index: slice) -> list[Placed]: ...
    def __getitem__(self, index: int | slice) -> Placed | list[Placed]:
        places = range(len(self))[index]
        return next(self.at([places])) if isinstance(places, int) else list(self.at(places))

    def __iter__(self) -> Iterator[Placed]:
        return self.at(range(len(self)))

    def at(self, places: Iterable[int]) -> Iterator[Placed]:
        """Read the rows at some places, in one opening of the file.

        Args:
            places: Indices of rows, from 0.

        Raises:
            TaskError: The file has changed.
        """
        with self._open() as file:
            for place in places:
                start = self._starts[place]
                end = self._starts[place + 1] if place + 1 < len(self) else self.size
                line = os.pread(file.fileno(), end - start, start).partition(b"\n")[0]
                yield self._placed(self._numbers[place], self._text(line, start))

    def _open(self) -> BufferedReader:
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise self._changed(f"cannot be read any more: {error.strerror}") from error
        if _stamp(file) != self._stamp:
            file.close()
            raise self._changed("has changed since its rows were checked")
        return file

    def _changed(self, problem: str) -> TaskError:
        return TaskError(f"the file {self.path} {problem}", where=self._where, remedy="start again with the new file")

    def _text(self, line: bytes, start: int) -> str:
        if b"\0" not in line:
            try:
                return (line.removeprefix(codecs.BOM_UTF8) if start == 0 else line).decode()
            except UnicodeDecodeError:
                pass
        file_text(self.path, self._where)  # raises the error, which names the place in the whole file
        raise self._changed("has changed while it was read")

    def _placed(self, number: int, text: str) -> Placed:
        place = f"{self.path}:{number}"
        return place, json_line(text, place)


def _stamp(file: BufferedReader) -> tuple[int, int, int, int]:
    """What tells a file from another one, and from a changed one."""
    found = os.fstat(file.fileno())
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_dev


@dataclass(frozen=True)
class _Index:
    """What is known of the rows of a file.

    Attributes:
        hashes: See `StoredRows`.
        numbered: For each row 1 if its id is the number of its line, otherwise 0.
        known: The input columns of all rows, those with empty cells included.
        everywhere: The input columns that every row has.
    """

    hashes: dict[str, Hashes[int]] = field(
        default_factory=lambda: {kind: array("Q") for kind in ("id", "inputs", "group", "text")}
    )
    numbered: bytearray = field(default_factory=bytearray)
    known: set[str] = field(default_factory=set)
    everywhere: set[str] = field(default_factory=set)

    def add(self, row: Row) -> None:
        example, of = row.example, self.hashes
        inputs = example.inputs.keys()
        self.everywhere.intersection_update(inputs) if self.numbered else self.everywhere.update(inputs)
        self.known.update(inputs, row.empty)
        self.numbered.append(row.numbered)
        of["id"].append(hash_of(example.id))
        keys = dict(example.same_as)
        of["inputs"].append(hash_of(keys["inputs"]))
        of["group"].append(hash_of(keys["group"]) if "group" in keys else 0)
        of["text"].append(hash_of(normalised(example.inputs)))


class FileRows(StoredRows[Row]):
    """Rows of a JSONL file.

    Args:
        lines: The file.
        reader: Reads a row.
        index: What is known of the rows of the file.
        places: The rows of the file that these are.
    """

    def __init__(self, lines: Lines, reader: RowReader, index: _Index, places: Sequence[int]) -> None:
        self._lines, self._reader, self.index_of_file, self._places = lines, reader, index, places

    @cached_property
    def hashes(self) -> Mapping[str, Hashes[int]]:
        every = self.index_of_file.hashes
        if self._places == range(len(self._lines)):
            return every
        return {kind: array("Q", (of[place] for place in self._places)) for kind, of in every.items()}

    @property
    def numbered(self) -> bytearray:
        """For each row 1 if its id is the number of its line, otherwise 0."""
        return bytearray(self.index_of_file.numbered[place] for place in self._places)

    def __len__(self) -> int:
        return len(self._places)

    def at(self, places: Iterable[int]) -> Iterator[Row]:
        return map(self._reader.row, self._lines.at(self._places[place] for place in places))

    def of(self, places: Sequence[int]) -> FileRows:
        own = self._places
        kept = own[_slice(places)] if isinstance(places, range) else array("Q", (own[place] for place in places))
        return FileRows(self._lines, self._reader, self.index_of_file, kept)


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
    """Read and check the examples of a large JSONL file, which stay there.

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
    if path.suffix.lower() != ".jsonl" or not path.is_file() or path.stat().st_size < large:
        return None
    check_is_file(path, where)
    lines = Lines(path, where)
    if lines.is_wide:
        return None
    reader = RowReader(columns, target_needed, lambda: json_lines(path, where))
    index = _Index()
    for placed in lines.scan(progress):
        index.add(reader.row(placed))
    if not len(lines):
        raise no_rows(source_name(source, folder))
    rows = FileRows(lines, reader, index, range(len(lines)))
    places_by_id: dict[str, str] = {}
    for row in repeating(rows, ["id"]):
        check_id(row, places_by_id)
    return rows
