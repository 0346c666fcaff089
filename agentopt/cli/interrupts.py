"""SIGTERM ends a command as Ctrl-C does; a second Ctrl-C ends it at once, whatever its threads wait for."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agentopt.core.plain_text import visible

INTERRUPTED = 128 + signal.SIGINT
"""Exit code after Ctrl-C."""
TERMINATED = 128 + signal.SIGTERM
"""Exit code after SIGTERM, as of a process that SIGTERM ends without a handler."""
AT_ONCE_SECONDS = 3.0
"""Seconds in which a command may end its processes after the second Ctrl-C; after a third one it does not wait."""
SHOW_CURSOR = "\x1b[?25h"
"""What lets a terminal show the cursor, which a progress bar hides."""

_received = set[int]()
"""The signals that `terminable` turned into SIGINT; a handler may interrupt any statement, so no lock guards them."""


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM, as a service manager sends it, end the block as cleanly as Ctrl-C does.

    Raises:
        SystemExit: The block ended with `INTERRUPTED` because of SIGTERM; the code is `TERMINATED`.
    """

    def interrupt(number: int, _: object) -> None:
        _received.add(number)
        os.kill(os.getpid(), signal.SIGINT)

    _received.clear()
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except SystemExit as end:
        if end.code == INTERRUPTED:
            raise SystemExit(interrupted_code()) from None
        raise


def interrupted_code() -> int:
    """Return the exit code of a command that SIGINT ended: that of SIGTERM if this was the reason for it."""
    return TERMINATED if signal.SIGTERM in _received else INTERRUPTED


@contextmanager
def second_interrupt_ends(message: Callable[[], str], *, seconds: float = AT_ONCE_SECONDS) -> Iterator[None]:
    """Let a second Ctrl-C end the process, from the block on: threads that wait for a database would keep it alive.

    Args:
        message: Returns what is printed if the block has not ended by itself.
        seconds: How long the process may take to end after the second Ctrl-C; it has none after the third.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _Watch(message, seconds)
    try:
        yield
    except KeyboardInterrupt:
        watch.has_message = False  # the command prints it; the process may still wait for its threads
        raise
    except BaseException:
        watch.close()
        raise
    else:
        watch.close()


class _Watch:
    """A thread that counts SIGINT. The wake-up socket has it also while the main thread waits in a C library.

    Args:
        message: As for `second_interrupt_ends`.
        seconds: As for `second_interrupt_ends`.
    """

    def __init__(self, message: Callable[[], str], seconds: float) -> None:
        self._message, self._seconds, self.has_message = message, seconds, True
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._count, name="interrupts", daemon=True)
        self._thread.start()

    def close(self) -> None:
        signal.set_wakeup_fd(self._before)
        self._writer.close()
        self._thread.join()
        self._reader.close()

    def _count(self) -> None:
        seen, deadline = 0, float("inf")
        while seen < 3 and time.monotonic() < deadline:
            with suppress(TimeoutError):
                received = self._reader.recv(64)
                if not received:
                    return
                seen += received.count(signal.SIGINT)
            if seen == 2 and deadline == float("inf"):
                deadline = time.monotonic() + self._seconds
                self._reader.settimeout(self._seconds)
        if sys.stderr.isatty():
            sys.stderr.write(SHOW_CURSOR)
        if self.has_message:
            print(visible(self._message()), file=sys.stderr)  # noqa: T201 - the last words of the command
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        _kill_children()
        os._exit(interrupted_code())


def _kill_children() -> None:
    """Kill what this process started and would wait for, such as workers; on Linux, where the system lists it."""
    for children in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            for child in children.read_text().split():
                with suppress(OSError):
                    os.kill(int(child), signal.SIGKILL)
