"""Resource usage of a running program and all its processes, from Linux's /proc.

Read directly instead of with psutil, which has no state of each thread (`busy` needs it) and scans all processes of the
machine for the children of one. On a kernel without CONFIG_PROC_CHILDREN nothing is counted, and only the kernel's
limits of each process apply.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

_PROC = Path("/proc")

SHARED = ("/dev/zero", "/memfd:", "/SYSV", "/dev/shm")  # noqa: S108 - names of mappings
"""How the kernel names memory that processes share."""


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Usage of some processes.

    Attributes:
        processes: Processes and threads.
        memory_bytes: Resident memory, and memory that processes share, which may be resident in none.
        cpu_seconds: Processor time, that of ended children included.
        busy: Whether a thread runs, or waits for the processor.
    """

    processes: int = 0
    memory_bytes: int = 0
    cpu_seconds: float = 0.0
    busy: bool = False

    def __add__(self, other: ProcessUsage) -> ProcessUsage:
        return ProcessUsage(
            self.processes + other.processes,
            self.memory_bytes + other.memory_bytes,
            self.cpu_seconds + other.cpu_seconds,
            self.busy or other.busy,
        )


def usage_below(pid: int, keepers: int) -> ProcessUsage:
    """Return the usage of a process tree without its first generations.

    Processor time includes ended processes whose parent has waited for them. The keepers count for `busy`: until they
    are ready the program cannot start.

    Args:
        pid: The root, which is the first generation.
        keepers: Generations that belong to the confinement.
    """
    tree = list(_tree(pid))
    found = sum((_usage(each, of_program=depth >= keepers) for each, depth in tree), ProcessUsage())
    shared: dict[str, int] = {}
    for name, size in chain.from_iterable(_shared(each) for each, depth in tree if depth >= keepers):
        shared[name] = max(size, shared.get(name, 0))
    return replace(found, memory_bytes=found.memory_bytes + sum(shared.values()))


def _tree(pid: int, depth: int = 0) -> Iterator[tuple[int, int]]:
    """The process and its descendants, each with its generation."""
    yield pid, depth
    with suppress(OSError):  # it may have ended just now
        for thread in (_PROC / str(pid) / "task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from _tree(int(child), depth + 1)


def _usage(pid: int, *, of_program: bool) -> ProcessUsage:
    folder = _PROC / str(pid)
    try:
        fields = _fields(folder)
        memory = _resident(pid) if of_program else 0
        busy = any(_fields(thread)[0] == "R" for thread in (folder / "task").iterdir())
    except OSError:  # it, or one of its threads, has ended
        return ProcessUsage()
    own, waited_for, threads = fields[11:13], fields[13:15], int(fields[17])
    seconds = sum(map(int, [*waited_for, *(own if of_program else [])])) / os.sysconf("SC_CLK_TCK")
    if not of_program:
        return ProcessUsage(cpu_seconds=seconds, busy=busy)
    return ProcessUsage(threads, memory, seconds, busy)


def _shared(pid: int) -> Iterator[tuple[str, int]]:
    """The shared memory that a process maps: its identity, and its size up to the end of the mapping.

    A process may map pages that are resident in no process, such as after `madvise`, and they are memory all the same.
    """
    with suppress(OSError):  # it has ended, or belongs to another user
        for line in _lines(_PROC / str(pid) / "maps"):
            addresses, _, offset, device, inode, *name = line.split(maxsplit=5)
            if name and name[0].startswith(SHARED):
                start, _, end = addresses.partition("-")
                yield f"{device} {inode}", int(offset, 16) + int(end, 16) - int(start, 16)


def _resident(pid: int) -> int:
    """The resident memory of a process in bytes, without what it shares with others."""
    for line in _lines(_PROC / str(pid) / "status"):
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0  # it is ending, and has no memory


def _fields(folder: Path) -> list[str]:
    """The fields of `stat` from the third on. The name before them is in parentheses, and may contain parentheses."""
    return (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()


def _lines(file: Path) -> list[str]:
    """The lines of a file. A program may name itself or a mapping with any bytes, of which the kernel escapes `\\n`."""
    return file.read_bytes().decode(errors="replace").split("\n")[:-1]
