"""Runs a command under Landlock and seccomp, through sandlock, and ends as it ends. A program of its own, because
its supervisor forks, which is not for a process with threads, and because it adopts and ends all that the command
leaves behind. The only importer of sandlock.
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
    """Run `command` in `folder`, which is all it may write to; it may read `readable` too.

    Gives the exit status, 128 and more for a signal, as a shell does. On SIGTERM everything ends at once.
    """
    asked = json.loads(order)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, _end_now)
    process = _sandbox(asked).popen(asked["command"])
    results: list[Any] = []
    # In a thread: a signal is heard by Python only, which the library's own wait would not let run.
    waiter = threading.Thread(target=lambda: results.append(process.wait()), daemon=True)
    waiter.start()
    while waiter.is_alive():
        waiter.join(0.02)
    end_children()
    return _status(results[0]) if results else 128 + signal.SIGKILL


def end_children() -> None:
    """End every child, and those that become ours when their parent ends, until there are none."""
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
            with suppress(OSError):  # it may have just ended
                # The name stands in parentheses and may hold anything, also a parenthesis.
                if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                    found.append(int(folder.name))
    return found


def _end_now(*_: object) -> None:
    end_children()
    os._exit(128 + signal.SIGTERM)


def _sandbox(asked: dict[str, Any]) -> Any:
    from sandlock import Sandbox

    return Sandbox(
        fs_readable=asked["readable"],
        fs_writable=[asked["folder"], "/dev/null"],
        cwd=asked["folder"],
        env=asked["environment"],
        clean_env=True,
        max_memory=asked["memory"],
        max_processes=asked["processes"],
        no_coredump=True,
        workdir=asked["folder"],
        max_disk=asked["folder_bytes"],
        on_exit="abort",
        on_error="abort",
    )


def _status(result: Any) -> int:
    """The signal is -1 where there was none; a negative status is the supervisor's own end of what passed a limit."""
    status, ended_by = int(result.exit_code), int(result.signal)
    if ended_by > 0:
        return 128 + ended_by
    return status if status >= 0 else 128 + signal.SIGKILL


if __name__ == "__main__":
    sys.exit(run(sys.argv[1]))
