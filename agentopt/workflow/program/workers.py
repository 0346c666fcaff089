"""Processes in which functions of a user's file run, one example at a time each. Owns this side of the pipe.

A function that finds its endpoint in the environment needs a process of its own, and imports that take seconds; so a
process is kept for the next example. Its endpoint stays the same, and only what answers there changes: clients that
the file made when it was imported stay right. The other side is `child`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from agentopt.core.task import Value
from agentopt.workflow.program.processes import MOST_PRINTED, ProgramFailedError, complaint, kill_group, until_done


class Worker:
    """One such process for the function `file.py:name` in `folder`. `base_url` is its endpoint for life.

    What it complains of is told without `secrets`.
    """

    def __init__(
        self,
        function: str,
        folder: Path,
        environment: Mapping[str, str],
        base_url: str,
        secrets: Sequence[str] = (),
    ) -> None:
        self.base_url, self.is_ready = base_url, True
        self._secrets = secrets
        self._function, self._folder, self._environment = function, folder, environment
        self._process: asyncio.subprocess.Process | None = None
        self._stderr = TemporaryFile()  # noqa: SIM115 - it lives as long as the process

    async def call(self, inputs: Mapping[str, Any], seconds_left: Callable[[], float]) -> Value:
        """What the function returns for one example.

        Raises `ProgramFailedError` when it raises, or when `seconds_left` falls to 0. `is_ready` then says whether
        the process is of further use.
        """
        self.is_ready = False
        reply = asyncio.ensure_future(self._exchange(json.dumps(dict(inputs), ensure_ascii=True)))
        try:
            await until_done(reply, seconds_left)
        finally:
            reply.cancel()
        answer = json.loads(reply.result())
        self.is_ready = True
        if "error" in answer:
            raise ProgramFailedError(f"raised {answer['error']}")
        return answer["value"]

    async def aclose(self) -> None:
        """End the process and all that it started."""
        process, self._process = self._process, None
        if process and process.stdin:
            kill_group(process.pid)
            process.stdin.close()
            await process.wait()
        self._stderr.close()

    async def _exchange(self, line: str) -> bytes:
        process = self._process = self._process or await self._started()
        assert process.stdin
        assert process.stdout
        with suppress(BrokenPipeError, ConnectionResetError):  # it has ended, as the empty reply will tell
            process.stdin.write(line.encode() + b"\n")
            await process.stdin.drain()
        try:
            reply = await process.stdout.readline()
        except ValueError as error:
            raise ProgramFailedError(f"returned more than {MOST_PRINTED} bytes") from error
        if not reply:
            said = complaint(self._stderr, self._secrets)
            raise ProgramFailedError(f"ended with exit status {await process.wait()}{said}")
        return reply

    async def _started(self) -> asyncio.subprocess.Process:
        file, _, name = self._function.rpartition(":")
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agentopt.workflow.program.child", file, name),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=self._stderr,
            cwd=self._folder,
            env=self._environment,
            start_new_session=True,
            limit=MOST_PRINTED,
        )
