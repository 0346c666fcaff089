"""A second Ctrl-C, which ends a command at once, whatever its threads wait for."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from agentopt.core.plain_text import visible

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM."""
AT_ONCE_SECONDS = 3.0
"""Seconds in which a command may end its processes after the second Ctrl-C; after a third one it does not wait."""


@contextmanager
def second_interrupt_ends(message: Callable[[], str]) -> Iterator[None]:
    """Let a second Ctrl-C end the process, from the block on: threads that wait for a database would keep it alive.

    Args:
        message: Returns what is printed if the block has not ended by itself.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _Watch(message)
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
    """

    def __init__(self, message: Callable[[], str]) -> None:
        self._message, self.has_message = message, True
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
                deadline = time.monotonic() + AT_ONCE_SECONDS
                self._reader.settimeout(AT_ONCE_SECONDS)
        if self.has_message:
            print(visible(self._message()), file=sys.stderr)  # noqa: T201 - the last words of the command
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(INTERRUPTED)
