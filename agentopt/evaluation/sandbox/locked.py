"""Runs a command under Landlock and seccomp, with sandlock; the exit status is the command's.

This is a separate program because sandlock's supervisor forks, which is unsafe in a process with threads, and because
it adopts and kills all processes that the command leaves behind. The only importer of sandlock.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36


def run(order: str) -> int:
    """Run a command. SIGTERM kills all its processes.

    Args:
        order: JSON with `command`; `folder`, the only writable one; `readable` paths; and the limits.

    Returns:
        The exit status; 128 plus the signal's number if a signal ended it.
    """
    settings = json.loads(order)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, _end_now)
    process = _sandbox(settings).popen(settings["command"])
    results: list[Any] = []
    # In a thread: Python could not handle a signal while the library waits.
    waiter = threading.Thread(target=lambda: results.append(process.wait()), daemon=True)
    waiter.start()
    while waiter.is_alive():
        waiter.join(0.02)
    end_children()
    return _status(results[0]) if results else 128 + signal.SIGKILL


def end_children() -> None:
    """Kill every child, and those that this process adopts, until there are none."""
    while children := _children():
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        time.sleep(0.005)


def _children() -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it may have ended just now
                # The name is in parentheses, and may contain parentheses.
                if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                    found.append(int(folder.name))
    return found


def _end_now(*_: object) -> None:
    end_children()
    os._exit(128 + signal.SIGTERM)


def _sandbox(settings: dict[str, Any]) -> Any:
    from sandlock import Sandbox

    return Sandbox(
        fs_readable=settings["readable"],
        fs_writable=[settings["folder"], "/dev/null"],
        cwd=settings["folder"],
        env=settings["environment"],
        clean_env=True,
        max_memory=settings["memory"],
        max_processes=settings["processes"],
        no_coredump=True,
        workdir=settings["folder"],
        max_disk=settings["folder_bytes"],
        on_exit="abort",
        on_error="abort",
    )


def _status(result: Any) -> int:
    """The signal is -1 if there was none; a negative status means that the supervisor enforced a limit."""
    status, ended_by = int(result.exit_code), int(result.signal)
    if ended_by > 0:
        return 128 + ended_by
    return status if status >= 0 else 128 + signal.SIGKILL


if __name__ == "__main__":
    sys.exit(run(sys.argv[1]))
