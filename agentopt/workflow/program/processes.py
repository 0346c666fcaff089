"""Runs a user's command or function until it ends or times out, and kills processes that it leaves running."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from agentopt.core.errors import AgentoptError
from agentopt.models.redaction import redact

MAX_OUTPUT_BYTES = 4 * 2**20
"""Bytes that a program may print or return."""

STDERR_CHARACTERS = 400
"""Characters of stderr that are quoted in an error."""

PYTHON = ("python", "python3")
"""First words of a command that mean the interpreter running agentopt."""


class ProgramFailedError(AgentoptError):
    """A program failed. The message continues `the program ...`; `ProgramRunner.run` handles it."""


async def run_command(
    command: Sequence[str],
    stdin_text: str,
    *,
    folder: Path,
    environment: Mapping[str, str],
    seconds_left: Callable[[], float],
    secrets: Sequence[str] = (),
) -> str:
    """Run a command and return its stdout.

    It runs in a separate process group, which is killed at the end.

    Args:
        command: The program and its arguments.
        stdin_text: Its stdin.
        folder: The working directory.
        environment: All its environment variables.
        seconds_left: The remaining time, polled while it runs.
        secrets: Texts that are redacted from error messages.

    Raises:
        ProgramFailedError: If it cannot be started, ends with another status than 0, prints too much, or times out.
    """
    # Files instead of pipes: a process that inherits a pipe could keep us waiting for its end.
    with TemporaryFile() as stdin, TemporaryFile() as stdout, TemporaryFile() as stderr:
        stdin.write(stdin_text.encode(errors="replace"))
        stdin.seek(0)
        process = await _started(command, stdin=stdin, stdout=stdout, stderr=stderr, cwd=folder, env=environment)
        ended = asyncio.ensure_future(process.wait())

        def left() -> float:
            _check_printed(stdout, stderr)
            return seconds_left()

        try:
            await until_done(ended, left)
        finally:
            kill_group(process.pid)
            await ended
        # Again: a quick program was not checked while it ran, and truncated output is not an answer.
        _check_printed(stdout, stderr)
        if process.returncode:
            raise ProgramFailedError(f"ended with exit status {process.returncode}{stderr_tail(stderr, secrets)}")
        return _content(stdout).decode(errors="replace")


async def _started(command: Sequence[str], **place: Any) -> asyncio.subprocess.Process:
    words = [sys.executable if command[0] in PYTHON else command[0], *command[1:]]
    try:
        return await asyncio.create_subprocess_exec(*words, **place, start_new_session=True)
    except (OSError, ValueError) as error:
        raise ProgramFailedError(f"cannot be started: {error}") from error


async def until_done(running: asyncio.Future[Any], seconds_left: Callable[[], float]) -> None:
    """Wait until `running` is done, whatever its outcome.

    Args:
        running: The work.
        seconds_left: The remaining time, polled at least four times a second.

    Raises:
        ProgramFailedError: If the time is up.
    """
    while not running.done():
        left = seconds_left()
        if left <= 0:
            raise ProgramFailedError("took longer than its timeout allows")
        # The clock is paused while a call is in progress, so poll it.
        await asyncio.wait({running}, timeout=min(max(left, 0.01), 0.25))


def in_thread(function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
    """Run a function in a daemon thread. The thread cannot be stopped, but does not keep the interpreter alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def resolve(value: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(value)
        else:
            # A future cannot hold a StopIteration.
            future.set_exception(RuntimeError(repr(error)) if isinstance(error, StopIteration) else error)

    def run() -> None:
        value, failure = None, None
        try:
            value = function(*arguments)
        except BaseException as error:  # noqa: BLE001 - nothing catches it in a thread; the future carries it
            failure = error
        with suppress(RuntimeError):  # the loop was closed in the meantime
            loop.call_soon_threadsafe(resolve, value, failure)

    threading.Thread(target=run, daemon=True, name="agentopt program").start()
    return future


def _check_printed(*files: IO[bytes]) -> None:
    if any(os.fstat(file.fileno()).st_size > MAX_OUTPUT_BYTES for file in files):
        raise ProgramFailedError(f"printed more than {MAX_OUTPUT_BYTES} bytes")


def kill_group(group: int) -> None:
    """Kill all processes of a process group."""
    # The group is empty, or has only zombies.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def stderr_tail(stderr: IO[bytes], secrets: Sequence[str] = ()) -> str:
    """Return the end of a stderr file on one line, after a colon, with `secrets` redacted; empty if there is none."""
    # Redact before cutting: a secret that is cut in half would not be found.
    text = redact(
        _content(stderr, os.fstat(stderr.fileno()).st_size - MAX_OUTPUT_BYTES).decode(errors="replace"), secrets
    )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    tail = " | ".join(lines[-3:])
    return f": {tail[-STDERR_CHARACTERS:]}" if tail else ""


def _content(file: IO[bytes], start: int = 0) -> bytes:
    file.seek(max(start, 0))
    return file.read(MAX_OUTPUT_BYTES)
