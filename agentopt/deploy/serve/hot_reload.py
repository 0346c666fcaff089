"""A file that may be replaced while it is in use: what it says now, at the cost of one `stat`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from agentopt.core.errors import UserError

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Watched(Generic[T]):
    """The value that `load` makes of a file, made again when the file is another.

    The first load raises what is wrong with it. Later, while the file is missing or `load` raises `UserError`, the last
    good value stays in use; `problem` says why, and so does the log, once.
    """

    def __init__(self, path: Path, load: Callable[[Path], T]) -> None:
        self.problem = ""
        self._path, self._load = path, load
        # What the file was is noted before it is read: should it be replaced in between, it is read once more.
        self._seen = self._state()
        self._value = load(path)

    def __call__(self) -> T:
        """What the file says now."""
        state = self._state()
        if state != self._seen:
            self._seen = state
            self._read_again()
        return self._value

    def _read_again(self) -> None:
        try:
            self._value, self.problem = self._load(self._path), ""
        except UserError as error:
            self.problem = str(error)
            _log.warning("what was read before stays in use: %s", error)

    def _state(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
