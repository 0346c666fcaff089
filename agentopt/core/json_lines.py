"""A child process that is called with lines of JSON: one request per line on stdin, one reply per line on stdout."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from io import BufferedReader
from typing import IO, Any, Literal, cast

from agentopt.core.errors import AgentoptError


class NoReply(AgentoptError):  # noqa: N818 - the outcome of a call, handled by its caller
    """A call without a usable reply.

    Attributes:
        reason: `ended`: the child has ended; `late`: the timeout passed; `long`: the reply exceeds the limit.
    """

    def __init__(self, reason: Literal["ended", "late", "long"]) -> None:
        self.reason = reason
        super().__init__(f"the child process gave no reply: {reason}")


class JsonLinesProcess:
    """A child process in a separate process group. Calls block and run one at a time; use a thread from async code.

    Args:
        command: The program and its arguments.
        max_bytes: Longest reply.
        options: Passed to `subprocess.Popen`, such as `cwd`, `env` and `stderr`.
    """

    def __init__(self, command: Sequence[str], *, max_bytes: int = 2**22, **options: Any) -> None:
        self._max_bytes, self._closed = max_bytes, False
        self._lock = threading.Lock()
        pipe = subprocess.PIPE
        self._process: subprocess.Popen[bytes] = subprocess.Popen(  # noqa: S603 - the command is ours
            command, stdin=pipe, stdout=pipe, start_new_session=True, **options
        )
        assert self._process.stdin
        assert self._process.stdout
        self._stdin: IO[bytes] = self._process.stdin
        self._stdout = cast(BufferedReader, self._process.stdout)

    @property
    def pid(self) -> int:
        """The child's process id, which is also its group's."""
        return self._process.pid

    def wait(self) -> int:
        """Wait for the child to end, and return its exit status."""
        return self._process.wait()

    def call(self, request: Any, seconds: float | None = None) -> Any:
        """Send a request and return the reply. The child cannot be used after `NoReply`.

        Args:
            request: A JSON value.
            seconds: The most to wait for the reply; None for no limit.

        Raises:
            NoReply: The child ends, the timeout passes, or the reply is too long.
        """
        with self._lock:
            try:
                return self._exchange(json.dumps(request).encode() + b"\n", seconds)
            finally:
                if self._closed:
                    self._stdout.close()

    def _exchange(self, line: bytes, seconds: float | None) -> Any:
        with suppress(BrokenPipeError):  # the child has ended, which the empty reply shows
            self._stdin.write(line)
            self._stdin.flush()
        return json.loads(self._reply(seconds))

    def _reply(self, seconds: float | None) -> bytes:
        """Read one line. A child may write a part of it and stop, so the time counts for each part."""
        deadline, reply = None if seconds is None else time.monotonic() + seconds, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while not reply.endswith(b"\n"):
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not selector.select(left):
                    raise NoReply("late")
                part = self._stdout.read1(self._max_bytes + 1 - len(reply))
                if not part:
                    raise NoReply("ended")
                reply += part
                if len(reply) > self._max_bytes:
                    raise NoReply("long")
        return reply

    def close(self) -> None:
        """Kill the child and its process group."""
        self._closed = True
        with suppress(ProcessLookupError, PermissionError):  # the group is empty, or has only zombies
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(BrokenPipeError):
            self._stdin.close()
        self._process.wait()
        # A reading thread closes the pipe itself; a process that left the group may keep it waiting.
        if self._lock.acquire(timeout=0.1):
            self._stdout.close()
            self._lock.release()


def serve(answer: Callable[[Any], Any], requests: Iterable[str], replies: IO[str]) -> None:
    """The child's side: answer every line of `requests` with a line in `replies`, until the requests end.

    Args:
        answer: Function of a request that returns its reply.
        requests: Lines of JSON.
        replies: The file to write replies to.
    """
    for line in requests:
        print(json.dumps(answer(json.loads(line)), default=str), file=replies, flush=True)
