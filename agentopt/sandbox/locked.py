"""Runs a command under Landlock and seccomp, through sandlock, and ends as it ends. A program of its own, because
its supervisor forks, which is not for a process with threads. The only importer of sandlock.
"""

from __future__ import annotations

import json
import signal
import sys


def run(order: str) -> int:
    """Run `command` in `folder`, which is all it may write to; it may read `readable` too.

    Gives the exit status, 128 and more for a signal, as a shell does.
    """
    from sandlock import Sandbox

    asked = json.loads(order)
    sandbox = Sandbox(
        fs_readable=asked["readable"],
        fs_writable=[asked["folder"]],
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
    result = sandbox.popen(asked["command"]).wait()
    status: int = result.exit_code
    ended_by: int = result.signal
    if ended_by > 0:
        return 128 + ended_by
    # A negative status is the supervisor's own end of what passed a limit.
    return status if status >= 0 else 128 + signal.SIGKILL


if __name__ == "__main__":
    sys.exit(run(sys.argv[1]))
