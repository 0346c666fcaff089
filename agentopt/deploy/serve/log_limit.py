"""Bounds the log of a server, so that strangers cannot fill a disk with it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable


class LogLimit(logging.Filter):
    """Keeps at most `most` lines of one kind in `seconds`; the next kept line has the number of those left out.

    Args:
        most: Most lines of one statement.
        seconds: Length of a window.
        clock: Monotonic time in seconds.
    """

    def __init__(self, most: int = 100, seconds: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._most, self._seconds, self._clock = most, seconds, clock
        self._seen: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is kept."""
        kind, now = (record.pathname, record.lineno), self._clock()
        since, count = self._seen.get(kind, (now, 0))
        if now - since >= self._seconds:
            left_out, since, count = count - self._most, now, 0
            if left_out > 0:
                record.msg = f"{record.msg} ({left_out} earlier lines like this were left out)"
        self._seen[kind] = since, count + 1
        return count < self._most
