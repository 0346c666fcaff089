"""Workers that are processes of this machine."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from agentopt.core.errors import CallsFailError
from agentopt.core.events import Observer

STORAGE_VARIABLE = "AGENTOPT_STORAGE"
"""Environment variable that has the storage of a worker, which other users of a host do not see."""
END_SECONDS = 20.0
"""Seconds that a worker has to end, beyond the time-out of its calls in flight, before it is killed."""
FIRST_POLL, LONGEST_POLL = 0.02, 0.2
"""Seconds between two looks whether the workers have ended."""
MOST_CHARACTERS = 2000
"""Length of the part of a worker's messages that is shown if it cannot work."""
MOST_STARTS = 50
"""Starts of one worker until the run ends: something ends them."""


class ProcessPlacement:
    """Workers that are processes of this machine.

    Args:
        place: The storage.
        run: The run.
        workers: Number of workers.
        call_seconds: The longest time-out of a call.
        end_seconds: Seconds that a worker has to end, beyond that time-out, before it is killed.
    """

    def __init__(
        self, place: Path | str, run: str, workers: int, call_seconds: float, *, end_seconds: float = END_SECONDS
    ) -> None:
        self._place, self._run, self._end_seconds = place, run, call_seconds + end_seconds
        self._folder = tempfile.TemporaryDirectory(prefix="agentopt-workers-")
        self._starts = [0] * workers
        self._interrupted = set[int]()
        self._processes = [self._start(i) for i in range(workers)]

    async def started(self, observe: Observer) -> None:
        """Return at once: what a process cannot do is found by `check`."""

    def check(self) -> None:
        """Replace the workers that were killed.

        Raises:
            CallsFailError: A worker cannot work.
        """
        for i, process in enumerate(self._processes):
            code = process.poll()
            if code is None:
                continue
            if code > 0 or self._starts[i] >= MOST_STARTS:
                raise self._failure(i, code)
            self._processes[i] = self._start(i)

    def interrupt(self) -> None:
        """Let the workers send nothing more, and end once their calls in flight are answered."""
        for process in self._processes:
            # A second signal would end a worker at once, as a second Ctrl-C does.
            if process.pid not in self._interrupted and process.poll() is None:
                process.terminate()
                self._interrupted.add(process.pid)

    async def ended(self) -> None:
        """Wait until the workers have ended, or will not end."""
        wait = FIRST_POLL
        with suppress(TimeoutError):
            async with asyncio.timeout(self._end_seconds):
                while any(process.poll() is None for process in self._processes):
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, LONGEST_POLL)

    def kill(self) -> None:
        """Kill the workers that have not ended."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._folder.cleanup()

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "agentopt", "worker", "--run", self._run]

    def _start(self, i: int) -> subprocess.Popen[bytes]:
        self._starts[i] += 1
        with self._log_file(i).open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own module
                self._command(),
                env={**os.environ, STORAGE_VARIABLE: str(self._place)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches the coordinator, which ends the workers
            )

    def _failure(self, i: int, code: int) -> CallsFailError:
        message = f"a worker ended with exit code {code}: {self._message(i)}"
        return CallsFailError(message, remedy="fix the cause and start again")

    def _log_file(self, i: int) -> Path:
        return Path(self._folder.name) / f"{i}.log"

    def _message(self, i: int) -> str:
        """The end of what a worker wrote to stderr."""
        written = self._log_file(i).read_text(errors="replace").strip()
        return written[-MOST_CHARACTERS:] or "it wrote no message"
