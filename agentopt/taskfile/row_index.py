"""What is known of the rows of a large file, and a copy of it in the cache folder: the next run need not read them all.

The name of a copy is a hash of the content of the file and of how its rows are read, so it is never out of date.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from array import array
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import agentopt
from agentopt.core.duplicates import normalised
from agentopt.core.files import write_atomically
from agentopt.core.stored_rows import Hashes, hash_of
from agentopt.taskfile.data import Row
from agentopt.taskfile.lines import Lines

KINDS = ("id", "inputs", "group", "text")

KEPT_SECONDS = 30 * 24 * 3600
"""Files of the folder that were not used for so long are removed when another one is written."""

VERSION = "v1"
"""Part of the names: indexes of another form are not used."""


@dataclass(frozen=True)
class RowIndex:
    """What is known of the rows of a file.

    Attributes:
        hashes: See `StoredRows`.
        numbered: For each row 1 if its id is the number of its line, otherwise 0.
        known: The input columns of all rows, those with empty cells included.
        everywhere: The input columns that every row has.
    """

    hashes: dict[str, Hashes[int]] = field(default_factory=lambda: {kind: array("Q") for kind in KINDS})
    numbered: array[int] = field(default_factory=lambda: array("B"))
    known: set[str] = field(default_factory=set)
    everywhere: set[str] = field(default_factory=set)

    def add(self, row: Row) -> None:
        """Add what is known of a row.

        Args:
            row: The next row of the file.
        """
        example, of = row.example, self.hashes
        inputs, keys = example.inputs.keys(), dict(example.same_as)
        self.everywhere.intersection_update(inputs) if self.numbered else self.everywhere.update(inputs)
        self.known.update(inputs, row.empty)
        self.numbered.append(row.numbered)
        of["id"].append(hash_of(example.id))
        of["inputs"].append(hash_of(keys["inputs"]))
        of["group"].append(hash_of(keys["group"]) if "group" in keys else 0)
        of["text"].append(hash_of(normalised(example.inputs)))

    def arrays(self, lines: Lines) -> Iterator[array[int]]:
        """Yield the arrays of the index and of its file, in a fixed order.

        Args:
            lines: The file.
        """
        yield from (lines.starts, lines.numbers, *(self.hashes[kind] for kind in KINDS), self.numbered)


class KeptIndex:
    """The copy of the index of a file.

    Args:
        folder: The folder of indexes, which need not exist.
        lines: The file, which is read.
        reading: How its rows are read, as JSON has it.
        now: The time, for tests.

    Raises:
        TaskError: The file has changed.
    """

    def __init__(self, folder: Path, lines: Lines, reading: Mapping[str, object], now: float | None = None) -> None:
        self._folder, self._now = folder, time.time() if now is None else now
        how = {**reading, "version": [VERSION, agentopt.__version__, sys.byteorder], "content": lines.digest()}
        self._name = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()[:40]
        self._place = folder / f"{self._name}.index"

    def has(self, name: str) -> bool:
        """Whether `keep` was called with the name.

        Args:
            name: What is true of the rows.
        """
        with suppress(OSError):
            used(self._noted(name), self._now)
            return True
        return False

    def keep(self, name: str) -> None:
        """Record that something is true of the rows.

        Args:
            name: What it is.
        """
        with suppress(OSError):
            self._noted(name).touch()

    def _noted(self, name: str) -> Path:
        return self._folder / f"{self._name}-{hashlib.sha256(name.encode()).hexdigest()[:40]}"

    def read(self, lines: Lines) -> RowIndex | None:
        """Read the index, and the places of the rows into `lines`; None if there is none, or it is damaged.

        Args:
            lines: The file.
        """
        index = RowIndex()
        try:
            with self._place.open("rb") as file:
                head = json.loads(file.readline())
                found = hashlib.sha256()
                for part in index.arrays(lines):
                    part.fromfile(file, head["rows"])
                    found.update(part)
                is_whole = file.read() == found.digest()
            used(self._place, self._now)
        except (OSError, EOFError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
            is_whole = False
        if not is_whole:
            lines.forget()
            return None
        index.known.update(head["known"])
        index.everywhere.update(head["everywhere"])
        return index

    def write(self, lines: Lines, index: RowIndex) -> None:
        """Write the index. If that fails, the rows are read again the next time.

        Args:
            lines: The file.
            index: What is known of its rows.
        """
        head = {"rows": len(lines), "known": sorted(index.known), "everywhere": sorted(index.everywhere)}
        parts, found = [json.dumps(head).encode() + b"\n"], hashlib.sha256()
        for part in index.arrays(lines):
            found.update(part)
            parts.append(part.tobytes())
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_old(self._folder, self._now)
            write_atomically(self._place, b"".join([*parts, found.digest()]))


def used(file: Path, now: float) -> None:
    """Record that a file of the folder is used, without a change of the time of its content.

    Args:
        file: The file.
        now: The time.

    Raises:
        OSError: The file cannot be changed.
    """
    os.utime(file, ns=(int(now * 1e9), file.stat().st_mtime_ns))


def remove_old(folder: Path, now: float) -> None:
    """Remove the files that were not used for `KEPT_SECONDS`.

    Args:
        folder: Their folder.
        now: The time.
    """
    for file in folder.iterdir():
        with suppress(OSError):
            if now - file.stat().st_atime > KEPT_SECONDS:
                file.unlink()
