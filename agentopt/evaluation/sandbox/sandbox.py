"""Runs programs in a sandbox: chooses the confinement, enforces the limits, and captures the output.

A program's failure is a `SandboxResult`, never an exception. A machine without a working confinement is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Literal

from agentopt.core.errors import UserError
from agentopt.core.extras import install_command
from agentopt.evaluation.sandbox.confinement import INSIDE, PROGRAM, Confinement, SandboxLimits, available, python_home
from agentopt.evaluation.sandbox.usage import ProcessUsage, usage_below

Ending = Literal["finished", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """How a program ended.

    Attributes:
        ending: `finished` (status 0), `failed` (another status) or `stopped` (by a limit or a signal).
        output: Its output on both streams, in order; a long output is cut in the middle. Folder names and
            addresses, which differ between runs of the same program, are replaced.
        why: The reason if it did not finish.
    """

    ending: Ending
    output: str
    why: str = ""

    @property
    def ok(self) -> bool:
        """Whether the program finished with status 0."""
        return self.ending == "finished"


class Sandbox:
    """Runs Python programs. Results are cached: the same text is not run again.

    Args:
        limits: Resources of one run.
        confinement: How programs are confined; by default the first one that works.
        parallel: Programs that run at the same time.
        shown: Characters of the output that are kept.

    Raises:
        UserError: If no confinement works on this machine.
    """

    def __init__(
        self,
        limits: SandboxLimits | None = None,
        *,
        confinement: Confinement | None = None,
        parallel: int = 2,
        shown: int = 2000,
    ) -> None:
        self.limits = limits or SandboxLimits()
        self.confinement = confinement or working_confinement()
        self._shown = shown
        self._threads = ThreadPoolExecutor(parallel, thread_name_prefix="sandbox")
        self._known: Callable[[str], SandboxResult] = lru_cache(maxsize=1024)(self._run)

    @property
    def kind(self) -> str:
        """The name of the confinement, such as `bubblewrap`."""
        return self.confinement.name

    async def run(self, program: str) -> SandboxResult:
        """Run a program's text as the main file, with empty stdin."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._known, program)

    def run_sync(self, program: str) -> SandboxResult:
        """Blocking version of `run`."""
        return self._known(program)

    def _run(self, program: str) -> SandboxResult:
        with tempfile.TemporaryDirectory(prefix="agentopt-") as name, tempfile.TemporaryFile() as printed:
            folder = Path(name).resolve()
            # Text that cannot be encoded (lone surrogates) must fail in the program, not here.
            (folder / PROGRAM).write_text(program, encoding="utf-8", errors="replace")
            (folder / PROGRAM).chmod(0o644)
            ended = _wait(self.confinement, folder, printed, self.limits)
            return self._result(ended, _tidied(_read(printed, self._shown), folder))

    def _result(self, ended: int | str, output: str) -> SandboxResult:
        """`ended` is the exit status, or the limit that was exceeded."""
        if isinstance(ended, str):
            return SandboxResult("stopped", output, ended)
        status = ended
        if status == 0:
            return SandboxResult("finished", output)
        if status == 128 + signal.SIGXCPU:
            return SandboxResult("stopped", output, _too_busy(self.limits))
        if status == 128 + signal.SIGSYS:
            return SandboxResult("stopped", output, "it made a forbidden call, which its last line names")
        if status < 0 or status > 128:
            return SandboxResult("stopped", output, f"it was ended by signal {abs(status) % 128}")
        return SandboxResult("failed", output, f"it ended with status {status}")


def working_confinement(ways: Iterable[Confinement] | None = None) -> Confinement:
    """Return the first confinement that works on this machine, tested once per process.

    Raises:
        UserError: If none works; untrusted programs are never run unconfined.
    """
    return _probed() if ways is None else _first(ways)


@lru_cache(maxsize=1)
def _probed() -> Confinement:
    return _first(available())


def _first(ways: Iterable[Confinement]) -> Confinement:
    tried = []
    for way in ways:
        with tempfile.NamedTemporaryFile(prefix="agentopt-outside-") as outside:
            probe = _PROBE.format(acts=_ACTS.format(outside=outside.name))
            run = Sandbox(SandboxLimits(wall_seconds=30), confinement=way).run_sync(probe)
        if run.ok and run.output.strip() == "confined":
            return way
        tried.append(f"{way.name} ({' '.join((run.why + ' ' + run.output[-200:]).split())})")
    raise UserError(
        "programs that a model wrote are run in a sandbox only, and none works on this machine"
        f" ({sys.platform}): {'; '.join(tried) or 'none is installed'}",
        remedy=f"on Linux, install bubblewrap, or {install_command('tasks')}, and allow unprivileged user"
        " namespaces or run a kernel with Landlock (6.7 or later); on other systems, use a Linux container",
    )


# Audit hooks would stop the probe before the kernel can refuse anything; a new interpreter has none.
_PROBE = """
import os, sys
os.execv(sys.executable, [sys.executable, "-I", "-c", {acts!r}])
"""

_ACTS = """
import ctypes, os, socket
def refused(act):
    try:
        act()
    except OSError:
        return True
    return False
open("inside", "w").write("x")
assert refused(lambda: open({outside!r}, "w")), "it could write outside its folder"
assert refused(lambda: open("/agentopt-probe", "w")), "it could write to /"
assert refused(lambda: socket.create_connection(("192.0.2.1", 9), timeout=0.5)), "it could reach the network"
libc = ctypes.CDLL(None)
assert libc.shmget(0, 4096, 0o1600) == -1, "it could share memory that no limit counts"
assert libc.memfd_create(b"probe", 0) == -1, "it could make a file of memory that no limit counts"
assert libc.unshare(0x10000000) == -1, "it could make a user namespace"
print("confined")
"""
"""A program that tests whether the kernel confines it."""


END_SECONDS = 10.0
"""Seconds that a confinement may take to end all processes of a program."""


POLL_SECONDS = 0.1
"""Seconds between two checks of a program's usage."""

WALL_FACTOR = 6
"""Longest run on a busy machine, as a multiple of the wall time."""


def _wait(confinement: Confinement, folder: Path, printed: IO[bytes], limits: SandboxLimits) -> int | str:
    """Return the exit status, or the limit that was exceeded. Its process group is killed."""
    process = subprocess.Popen(  # noqa: S603 - the command is ours; the program is a file in its folder
        confinement.command(folder, limits),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=printed,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={"PATH": os.environ.get("PATH", os.defpath)},
    )
    start, waited = time.monotonic(), 0.0
    try:
        while True:
            polled = time.monotonic()
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(POLL_SECONDS)
            used, now = usage_below(process.pid, confinement.keepers), time.monotonic()
            # A program that waits for the processor is not idle, so that time is counted less.
            waited = max(waited + (0 if used.busy else now - polled), (now - start) / WALL_FACTOR)
            if exceeded := _exceeded(limits, used, waited):
                return exceeded
    finally:
        _end(process)


def _exceeded(limits: SandboxLimits, used: ProcessUsage, seconds: float) -> str | None:
    """The limit that a program exceeded, as a reason."""
    if used.memory_bytes > limits.total_memory_bytes:
        return f"it took more than {limits.total_memory_bytes // 2**20} MiB of memory"
    if used.processes > limits.processes:
        return f"it had more than {limits.processes} processes and threads"
    if used.cpu_seconds > limits.cpu_seconds:
        return _too_busy(limits)
    return f"it ran for more than {limits.wall_seconds:g} seconds" if seconds > limits.wall_seconds else None


def _too_busy(limits: SandboxLimits) -> str:
    return f"it took more than {limits.cpu_seconds} seconds of processor time"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate the confinement, then kill the remaining processes."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SECONDS)
    with contextlib.suppress(ProcessLookupError):  # the group may be empty
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(printed: IO[bytes], shown: int) -> str:
    """The output; of a long one the beginning and the end, which has the error."""
    size = printed.seek(0, os.SEEK_END)
    printed.seek(0)
    if size <= 4 * shown:
        return _cut(printed.read().decode("utf-8", "replace"), shown)
    head = printed.read(2 * shown)
    printed.seek(size - 2 * shown)
    return _cut((head + printed.read()).decode("utf-8", "replace"), shown)


def _cut(text: str, shown: int) -> str:
    if len(text) <= shown:
        return text
    half = shown // 2
    return f"{text[:half]}\n[...]\n{text[-half:]}"


_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,16}\b")


def _tidied(output: str, folder: Path) -> str:
    """Replace what differs between two runs, so that a prompt made of the output has the same cache key."""
    plain = output.replace(f"{folder}/", "").replace(str(folder), ".").replace(f"{INSIDE}/{PROGRAM}", PROGRAM)
    plain = plain.replace(python_home(), "<python>")
    return _ADDRESS.sub("0x...", plain)
