"""What a running program uses, all its processes together, as Linux tells it in /proc.

Where the kernel does not tell a process's children (CONFIG_PROC_CHILDREN), nothing is counted, and the limits that the
kernel keeps for each process hold alone.
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
    """Threads count as processes. Memory that several processes share is counted for each.

    `busy` says that one of them has the processor, or waits for it.
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
    """What the descendants of `pid` use, without the first `keepers` generations, itself being the first.

    Processor time includes that of processes that have ended, as far as a parent of theirs has waited for them. The
    keepers are counted for `busy`: until they are ready the program cannot begin.
    """
    return sum((_usage(each, of_program=depth >= keepers) for each, depth in _tree(pid)), ProcessUsage())


def _tree(pid: int, depth: int = 0) -> Iterator[tuple[int, int]]:
    """The process and its descendants, each with its generation."""
    yield pid, depth
    with suppress(OSError):  # it may have just ended
        for thread in (_PROC / str(pid) / "task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from _tree(int(child), depth + 1)


def _usage(pid: int, *, of_program: bool) -> ProcessUsage:
    folder = _PROC / str(pid)
    try:
        fields = _fields(folder)
        busy = any(_fields(thread)[0] == "R" for thread in (folder / "task").iterdir())
    except OSError:  # it, or a thread of it, has just ended
        return ProcessUsage()
    own, waited_for, threads, pages = fields[11:13], fields[13:15], int(fields[17]), int(fields[21])
    seconds = sum(map(int, [*waited_for, *(own if of_program else [])])) / os.sysconf("SC_CLK_TCK")
    if not of_program:
        return ProcessUsage(cpu_seconds=seconds, busy=busy)
    return ProcessUsage(threads, pages * os.sysconf("SC_PAGE_SIZE"), seconds, busy)


def _fields(folder: Path) -> list[str]:
    """Of `stat`, from the third: the name before it stands in parentheses and may hold anything, also a parenthesis."""
    return (folder / "stat").read_text().rpartition(")")[2].split()
