"""Resource usage of a running program and all its processes, from Linux's /proc.

Read directly instead of with psutil, which has no state of each thread (`busy` needs it) and scans all processes of the
machine for the children of one. On a kernel without CONFIG_PROC_CHILDREN nothing is counted, and only the kernel's
limits of each process apply.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Usage of some processes.

    Attributes:
        processes: Processes and threads.
        memory_bytes: Resident memory; shared memory is counted for each process.
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
    return sum((_usage(each, of_program=depth >= keepers) for each, depth in _tree(pid)), ProcessUsage())


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
        busy = any(_fields(thread)[0] == "R" for thread in (folder / "task").iterdir())
    except OSError:  # it, or one of its threads, has ended
        return ProcessUsage()
    own, waited_for, threads, pages = fields[11:13], fields[13:15], int(fields[17]), int(fields[21])
    seconds = sum(map(int, [*waited_for, *(own if of_program else [])])) / os.sysconf("SC_CLK_TCK")
    if not of_program:
        return ProcessUsage(cpu_seconds=seconds, busy=busy)
    return ProcessUsage(threads, pages * os.sysconf("SC_PAGE_SIZE"), seconds, busy)


def _fields(folder: Path) -> list[str]:
    """The fields of `stat` from the third on. The name before them is in parentheses, and may contain parentheses."""
    return (folder / "stat").read_text().rpartition(")")[2].split()
