"""Runs first inside the sandbox: sets the limits, refuses system calls, installs an audit hook, runs the program.

The kernel refuses forbidden calls, but a program may catch the refusal and continue; the audit hook ends it instead.
Python code cannot remove the hook, but it does not see other programs that are started (`exec`); for those only the
kernel's refusal applies. The source is passed to the sandbox's interpreter as a text, so it imports only the standard
library.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import signal
import struct
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

REFUSED = {
    # Memory that no limit counts.
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # Namespaces and mounts.
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "mount": (165, 40),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    # The kernel's interfaces that have had holes, and those that avoid this filter.
    "add_key": (248, 217),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "ptrace": (101, 117),
    "process_vm_writev": (311, 271),
}
"""System calls that fail with EPERM: their numbers on x86-64 and on AArch64."""

MACHINES = {"x86_64": (0, 0xC000003E, 56), "aarch64": (1, 0xC00000B7, 220)}
"""Machine: the place of its numbers, the kernel's constant for it, and its number of `clone`."""

CLONE3 = 435
NAMESPACES = 0x7E020000
"""The flags of `clone` that make namespaces."""

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
    refuse_system_calls(platform.machine())
    sys.excepthook = _print_error
    watch(os.getcwd(), _stop(os.getpid()))
    _run(os.path.abspath(settings["file"]))


def refuse_system_calls(machine: str) -> None:
    """Install a seccomp filter. On other machines than those of `MACHINES` nothing is refused.

    Raises:
        OSError: The kernel has no seccomp.
    """
    if machine not in MACHINES:
        return
    program = _filter(*MACHINES[machine])
    code = ctypes.create_string_buffer(program)
    filled = ctypes.create_string_buffer(struct.pack("HL", len(program) // 8, ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    no_new_privileges, set_seccomp, by_filter = 38, 22, 2
    for act in ((no_new_privileges, 1, 0, 0, 0), (set_seccomp, by_filter, ctypes.byref(filled), 0, 0)):
        if prctl(*act) != 0:
            raise OSError(ctypes.get_errno(), "the kernel refuses a seccomp filter")


def _filter(place: int, machine: int, clone: int) -> bytes:
    """The filter in the kernel's form (BPF): a system call's number is compared with each refused one in turn."""
    load, equal, at_least, has_any, end = 0x20, 0x15, 0x35, 0x45, 0x06
    kill, no_such_call, not_permitted, allowed = 0x80000000, 0x00050026, 0x00050001, 0x7FFF0000
    number, architecture, first_argument = 0, 4, 16
    steps = [(load, 0, 0, architecture), (equal, 1, 0, machine), (end, 0, 0, kill), (load, 0, 0, number)]
    # Numbers from 2**30 on are those of another interface, x32.
    steps += [(at_least, 0, 1, 0x40000000), (end, 0, 0, kill)]
    for numbers in REFUSED.values():
        steps += [(equal, 0, 1, numbers[place]), (end, 0, 0, not_permitted)]
    # The flags of clone3 are in memory, which a filter cannot read; the C library then uses clone.
    steps += [(equal, 0, 1, CLONE3), (end, 0, 0, no_such_call)]
    steps += [(equal, 0, 3, clone), (load, 0, 0, first_argument), (has_any, 0, 1, NAMESPACES)]
    steps += [(end, 0, 0, not_permitted), (end, 0, 0, allowed)]
    return b"".join(struct.pack("HBBI", *step) for step in steps)


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
