"""Processes that run a function of a user's file, one example at a time. This side of the pipe.

A function that finds its endpoint in the environment needs its own process, and its imports take seconds, so a process
is kept for the next example. Its endpoint stays the same, so clients that the file creates on import stay valid. The
other side is `function_child`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from agentopt.core.json_lines import JsonLinesProcess, NoReply
from agentopt.core.task import Value
from agentopt.workflow.program.processes import MAX_OUTPUT_BYTES, ProgramFailedError, in_thread, stderr_tail, until_done


class FunctionProcess:
    """A process for one function, started on the first call.

    Args:
        function: The function, as `file.py:name` in `folder`.
        folder: The working directory.
        environment: All environment variables of the process.
        base_url: The endpoint of the process, for its whole life.
        secrets: Texts that are redacted from error messages.

    Attributes:
        is_ready: Whether the process can take another call.
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
        self._process: JsonLinesProcess | None = None
        self._stderr = TemporaryFile()  # noqa: SIM115 - it lives as long as the process

    async def call(self, inputs: Mapping[str, Any], seconds_left: Callable[[], float]) -> Value:
        """Call the function on one example.

        Args:
            inputs: The example's inputs.
            seconds_left: The remaining time, polled.

        Raises:
            ProgramFailedError: If the function raises, its process ends, its value is too long, or the time is up.
        """
        self.is_ready = False
        reply = in_thread(self._exchange, dict(inputs))
        try:
            await until_done(reply, seconds_left)
        finally:
            reply.cancel()
        answer = reply.result()
        self.is_ready = True
        if "error" in answer:
            raise ProgramFailedError(f"raised {answer['error']}")
        return answer["value"]

    async def aclose(self) -> None:
        """Kill the process and all that it started."""
        if self._process:
            self._process.close()
        self._stderr.close()

    def _exchange(self, inputs: dict[str, Any]) -> Any:
        process = self._process = self._process or self._started()
        try:
            return process.call(inputs)
        except NoReply as failure:
            if failure.reason == "long":
                raise ProgramFailedError(f"returned more than {MAX_OUTPUT_BYTES} bytes") from failure
            problem = f"ended with exit status {process.wait()}{stderr_tail(self._stderr, self._secrets)}"
            raise ProgramFailedError(problem) from failure

    def _started(self) -> JsonLinesProcess:
        file, _, name = self._function.rpartition(":")
        return JsonLinesProcess(
            [sys.executable, "-m", "agentopt.workflow.program.function_child", file, name],
            max_bytes=MAX_OUTPUT_BYTES,
            stderr=self._stderr,
            cwd=self._folder,
            env=self._environment,
        )
