"""Reloads a file when it is replaced, at the cost of one `stat` per read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from agentopt.core.errors import UserError

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Watched(Generic[T]):
    """The value loaded from a file; calling it returns the current one.

    The first load may raise. Later, while the file is missing or `load` raises `UserError`, the last valid value is
    kept, and the reason is logged once.

    Args:
        path: The file.
        load: Loads the value.

    Attributes:
        problem: Why the last valid value is kept; empty if it is current.
    """

    def __init__(self, path: Path, load: Callable[[Path], T]) -> None:
        self.problem = ""
        self._path, self._load = path, load
        # The state is taken before reading: if the file is replaced in between, it is loaded again.
        self._seen = self._state()
        self._value = load(path)

    def __call__(self) -> T:
        """The current value."""
        state = self._state()
        if state != self._seen:
            self._seen = state
            self._reload()
        return self._value

    def _reload(self) -> None:
        try:
            self._value, self.problem = self._load(self._path), ""
        except UserError as error:
            self.problem = str(error)
            _log.warning("the previous content stays in use: %s", error)

    def _state(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
