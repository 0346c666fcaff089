"""The lines of a JSONL file, each of which is read when it is needed."""

from __future__ import annotations

import codecs
import hashlib
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import overload

from agentopt.core.errors import TaskError
from agentopt.taskfile.table import Placed
from agentopt.taskfile.text_rows import file_text, json_line

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
        starts: Where each row begins.
        numbers: The number of the line of each row.
    """

    def __init__(self, path: Path, where: str) -> None:
        self.path, self._where = path, where
        self.starts, self.numbers = array("Q"), array("Q")
        with path.open("rb") as file:
            self._stamp = _stamp(file)
            self.is_wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._stamp[1]

    def digest(self) -> str:
        """Return the SHA-256 of the content.

        Raises:
            TaskError: The file has changed.
        """
        with self._open() as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if _stamp(file) != self._stamp:
                raise self._changed("has changed while it was read")
        return found

    def forget(self) -> None:
        """Forget where the rows are."""
        del self.starts[:], self.numbers[:]

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
                if self._is_row(number, text):
                    self.starts.append(start)
                    self.numbers.append(number)
                    yield self._placed(number, text)
                start += len(line)
                if number % EACH == 0 or start == self.size:
                    progress(start, self.size)

    def __len__(self) -> int:
        return len(self.starts)

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
                start = self.starts[place]
                end = self.starts[place + 1] if place + 1 < len(self) else self.size
                line = os.pread(file.fileno(), end - start, start).partition(b"\n")[0]
                yield self._placed(self.numbers[place], self._text(line, start))

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

    def _is_row(self, number: int, text: str) -> bool:
        return bool(text.strip())

    def _placed(self, number: int, text: str) -> Placed:
        place = f"{self.path}:{number}"
        return place, json_line(text, place)


def _stamp(file: BufferedReader) -> tuple[int, int, int, int]:
    """What distinguishes a file from another one, and from a changed one."""
    found = os.fstat(file.fileno())
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_dev
