"""Runs first inside the sandbox: sets the resource limits, installs an audit hook, and runs the program.

The kernel refuses forbidden calls, but a program may catch the refusal and continue; the audit hook ends it instead.
Python code cannot remove the hook, but it does not see other programs that are started (`exec`); for those only the
kernel's refusal applies. The source is passed to the sandbox's interpreter as a text, so it imports only the standard
library.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
STREAMS = {"/dev/null", "/dev/tty", "/dev/stdout", "/dev/stderr"}
"""Files outside the folder that may be opened for writing."""

CHANGES = {
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "sqlite3.connect": (0,),
}
"""Audit event to the positions of the paths that it changes; for `open` the flags decide."""

HAS_FOLDER = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink"}
"""Events whose last argument is the folder descriptor of a relative path, or -1."""

NETWORK = {"socket.bind", "socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"}
LOCAL = 1
"""AF_UNIX, of which asyncio creates an unconnected pair."""


def launch(order: str) -> None:
    """Run the program.

    Args:
        order: JSON with `limits` (a name of `resource` to soft and hard limit), `file`, and `uid` or null.
    """
    settings = json.loads(order)
    if settings["uid"] is not None:
        os.setgroups([])
        os.setresgid(settings["uid"], settings["uid"], settings["uid"])
        os.setresuid(settings["uid"], settings["uid"], settings["uid"])
    for name, (soft, hard) in settings["limits"].items():
        resource.setrlimit(getattr(resource, name), (soft, hard))
    sys.excepthook = _print_error
    watch(os.getcwd(), _stop(os.getpid()))
    _run(os.path.abspath(settings["file"]))


def watch(folder: str, stop: Callable[[str], None]) -> None:
    """Call `stop` with a description before Python opens a socket or writes outside `folder`."""
    inside = os.path.realpath(folder) + os.sep

    def outside(path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):  # an open file
            return False
        named = os.fsdecode(path)
        return named not in STREAMS and not (os.path.realpath(named) + os.sep).startswith(inside)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in NETWORK or (event == "socket.__new__" and arguments[1] != LOCAL):
            stop(f"open a socket ({event})")
        for path in _changed(event, arguments):
            if outside(path):
                stop(f"write outside its folder ({event} {path!r})")

    sys.addaudithook(hook)


def _changed(event: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The paths that the event changes."""
    if event == "open":
        return arguments[:1] if arguments[2] & WRITING else ()
    if event in HAS_FOLDER and arguments[-1] != -1:
        return ()
    return tuple(arguments[place] for place in CHANGES.get(event, ()))


def _stop(main: int) -> Callable[[str], None]:
    """A function that ends the program, also from a forked process. `main` is the id of its first process."""

    def stop(act: str) -> None:
        os.write(2, f"\nStopped by the sandbox: a program may not {act}\n".encode(errors="replace"))
        os.kill(main, signal.SIGSYS)
        os._exit(128 + signal.SIGSYS)

    return stop


def _run(file: str) -> None:
    """Run the file as the main module."""
    main = ModuleType("__main__")
    main.__file__ = file
    with open(file, "rb") as source:
        text = source.read()
    sys.argv = [file]
    ours, sys.modules["__main__"] = (
        sys.modules["__main__"],
        main,
    )  # keep ours alive: an unreferenced module is torn down
    exec(compile(text, file, "exec", dont_inherit=True), main.__dict__)  # noqa: S102 - the purpose of the sandbox
    del ours


def _print_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error without the launcher's frames."""
    while trace is not None and trace.tb_frame.f_code.co_filename == launch.__code__.co_filename:
        trace = trace.tb_next
    sys.__excepthook__(kind, error.with_traceback(trace), trace)


if __name__ == "__main__":
    launch(sys.argv[1])
