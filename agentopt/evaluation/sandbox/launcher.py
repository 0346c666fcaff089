"""What runs first inside the sandbox: sets the limits on itself, watches for what is forbidden, and runs the program.

The kernel refuses what is forbidden, but a program may catch the refusal and go on; the watch ends it at the act. It
rests on Python's audit events, which no Python code can switch off; a program that becomes another one (`exec`) or
starts one is no longer seen, only refused. Its source is handed to the sandbox's interpreter as a text, so it uses the
standard library alone.
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
"""What is outside and may be opened for writing, since nothing comes of it but what the program prints."""

CHANGES = {
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "sqlite3.connect": (0,),
}
"""Which arguments of an event name what is changed; with `open` its flags tell."""

HAS_FOLDER = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink"}
"""Events whose last argument is an open folder that a relative path starts from, or -1."""

NETWORK = {"socket.bind", "socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"}
LOCAL = 1
"""The family AF_UNIX, of which asyncio makes a pair to wake itself. Neither is bound nor connected."""


def launch(order: str) -> None:
    """Run the program. `order` is JSON: `limits` by the names of `resource`, `file`, and `uid` or null."""
    asked = json.loads(order)
    if asked["uid"] is not None:
        os.setgroups([])
        os.setresgid(asked["uid"], asked["uid"], asked["uid"])
        os.setresuid(asked["uid"], asked["uid"], asked["uid"])
    for name, (soft, hard) in asked["limits"].items():
        resource.setrlimit(getattr(resource, name), (soft, hard))
    sys.excepthook = _without_us
    watch(os.getcwd(), _stop(os.getpid()))
    _run(os.path.abspath(asked["file"]))


def watch(folder: str, stop: Callable[[str], None]) -> None:
    """Call `stop`, with what was done, when Python is about to open a socket, or to write outside `folder`."""
    inside = os.path.realpath(folder) + os.sep

    def outside(path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):  # an open file
            return False
        named = os.fsdecode(path)
        return named not in STREAMS and not (os.path.realpath(named) + os.sep).startswith(inside)

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event in NETWORK or (event == "socket.__new__" and arguments[1] != LOCAL):
            stop(f"open a socket ({event})")
        for path in _changed(event, arguments):
            if outside(path):
                stop(f"write outside its folder ({event} {path!r})")

    sys.addaudithook(hear)


def _changed(event: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The paths that the event is about to change."""
    if event == "open":
        return arguments[:1] if arguments[2] & WRITING else ()
    if event in HAS_FOLDER and arguments[-1] != -1:
        return ()
    return tuple(arguments[place] for place in CHANGES.get(event, ()))


def _stop(main: int) -> Callable[[str], None]:
    """A function that ends the program, of which `main` is the first process, also from a process that it forked."""

    def stop(act: str) -> None:
        os.write(2, f"\nStopped by the sandbox: a program may not {act}\n".encode(errors="replace"))
        os.kill(main, signal.SIGSYS)
        os._exit(128 + signal.SIGSYS)

    return stop


def _run(file: str) -> None:
    """Run the file as the main module, as if it had been named on the command line."""
    main = ModuleType("__main__")
    main.__file__ = file
    with open(file, "rb") as source:
        text = source.read()
    sys.argv = [file]
    ours, sys.modules["__main__"] = sys.modules["__main__"], main  # a module that nobody holds is taken down
    exec(compile(text, file, "exec", dont_inherit=True), main.__dict__)  # noqa: S102 - it is what the sandbox is for
    del ours


def _without_us(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Tell an error as if the program had been run without us: the outermost frames are `launch` and its calls."""
    while trace is not None and trace.tb_frame.f_code.co_filename == launch.__code__.co_filename:
        trace = trace.tb_next
    sys.__excepthook__(kind, error.with_traceback(trace), trace)


if __name__ == "__main__":
    launch(sys.argv[1])
