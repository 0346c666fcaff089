"""Runs a user's command or function to its end, or to the end of its time. Owns what these leave behind."""

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

from agentopt.models.redaction import redact

MAX_OUTPUT_BYTES = 4 * 2**20
"""Bytes that a program may print."""

STDERR_CHARACTERS = 400
"""Characters of what a program complained of that are told."""

PYTHON = ("python", "python3")
"""As the first word of a command: the interpreter that runs agentopt."""


class ProgramFailedError(Exception):
    """A program that did not end well. Reads on from `the program`. Data at `ProgramRunner.run`."""


async def run_command(
    command: Sequence[str],
    given: str,
    *,
    folder: Path,
    environment: Mapping[str, str],
    seconds_left: Callable[[], float],
    secrets: Sequence[str] = (),
) -> str:
    """What the command prints on stdout when it is given a text on stdin.

    It runs in a process group of its own, which is killed at the end, with all that the command left running. Raises
    `ProgramFailedError` when it cannot be started, exits with another status than 0, prints too much, or when
    `seconds_left` falls to 0. What it complained of is told without `secrets`.
    """
    # Files instead of pipes: whoever inherits one cannot keep us waiting for its end.
    with TemporaryFile() as stdin, TemporaryFile() as stdout, TemporaryFile() as stderr:
        stdin.write(given.encode(errors="replace"))
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
        # Once more: what ended quickly was not looked at while it ran, and half an answer is none.
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
    """Wait for `running` to be done; its outcome is not looked at. Raises `ProgramFailedError` when its time is up."""
    while not running.done():
        left = seconds_left()
        if left <= 0:
            raise ProgramFailedError("took longer than its timeout allows")
        # Time may stand still while a call is under way, so it is looked at again.
        await asyncio.wait({running}, timeout=min(max(left, 0.01), 0.25))


def in_thread(function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
    """What the function returns or raises. Its thread cannot be stopped, but does not keep the process alive."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def tell(value: Any, error: BaseException | None) -> None:
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
        except BaseException as error:  # noqa: BLE001 - a thread has nobody above it; the future hands it on
            failure = error
        with suppress(RuntimeError):  # the run has ended meanwhile, and its loop is closed
            loop.call_soon_threadsafe(tell, value, failure)

    threading.Thread(target=run, daemon=True, name="agentopt program").start()
    return future


def _check_printed(*files: IO[bytes]) -> None:
    if any(os.fstat(file.fileno()).st_size > MAX_OUTPUT_BYTES for file in files):
        raise ProgramFailedError(f"printed more than {MAX_OUTPUT_BYTES} bytes")


def kill_group(group: int) -> None:
    """Kill every process that is left in the group."""
    # Nobody is left in it, or nobody but a zombie.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def stderr_tail(stderr: IO[bytes], secrets: Sequence[str] = ()) -> str:
    """The end of what was written to stderr, on one line and without `secrets`."""
    # Of a worker that has run for long, the end. Secrets are struck out before anything shorter is cut from it: a
    # secret that is cut off at its beginning could not be found any more.
    text = redact(
        _content(stderr, os.fstat(stderr.fileno()).st_size - MAX_OUTPUT_BYTES).decode(errors="replace"), secrets
    )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = " | ".join(lines[-3:])
    return f": {said[-STDERR_CHARACTERS:]}" if said else ""


def _content(file: IO[bytes], start: int = 0) -> bytes:
    file.seek(max(start, 0))
    return file.read(MAX_OUTPUT_BYTES)
