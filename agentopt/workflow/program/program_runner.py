"""Runs the user's program as the workflow: it receives an example, calls its subtasks through agentopt, and answers.

The program receives the inputs, and an environment in which OPENAI_BASE_URL is the gateway. How it ends decides the
result:

- It succeeds and returns a value: that is the output. Without a value the output is missing, which scores 0.
- One of its calls failed permanently: that failure is raised, whatever the program made of it.
- It fails or exceeds its timeout: `ScorerError`, so the example has no score. If a call had no parsable response
  before, the output is missing instead, which scores 0: the program had nothing to continue with.
- It called no subtask: the note reports it, since such a program most often bypasses the gateway.

Error messages contain no keys: the program inherits the environment and may print it.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import chain
from typing import Any

from agentopt.core.cost import in_sequence
from agentopt.core.errors import ScorerError
from agentopt.core.records import latency
from agentopt.core.task import Endpoint, Example, Program, Task, Unparsable, Value
from agentopt.models.redaction import redact
from agentopt.workflow.base import NO_KNOBS, CallSubtask, Knobs, WorkflowResult
from agentopt.workflow.parsers import python
from agentopt.workflow.program.function_process import FunctionProcess
from agentopt.workflow.program.processes import ProgramFailedError, in_thread, run_command, until_done
from agentopt.workflow.program.program_run import ProgramRun

INPUT = "{input}"
"""Placeholder in a command's words for the inputs as JSON."""

Function = Callable[[Mapping[str, Any], Endpoint], Any]

KNOBS_VARIABLE, KNOBS_HEADER = "AGENTOPT_KNOBS", "agentopt-knobs"
"""The environment variable and the header with the knobs of a candidate: JSON, subtask -> knob -> value."""

LINGER_SECONDS = 5.0
"""Seconds for which the gateway and its processes are kept for the next example."""


class ProgramRunner:
    """Runs a task's program on examples.

    The gateway and its processes exist while they are used and `linger` seconds longer; they end with the event loop
    at the latest.

    Args:
        task: The task whose subtasks the program calls.
        program: The program.
        secrets: Texts that are redacted from error messages, beside the gateway's key.
        linger: Seconds.
    """

    def __init__(
        self, task: Task, program: Program, *, secrets: tuple[str, ...] = (), linger: float = LINGER_SECONDS
    ) -> None:
        self._task, self._program, self._secrets, self._linger = task, program, secrets, linger
        self._slots = asyncio.Semaphore(program.concurrency)
        self._open: _Open | None = None

    async def run(self, example: Example, call: CallSubtask, knobs: Knobs = NO_KNOBS) -> WorkflowResult:
        """Run the program on one example.

        Args:
            example: The example; the program receives its inputs only.
            call: Answers the program's calls.
            knobs: The program receives them as JSON in the environment variable `KNOBS_VARIABLE`; a function that
                takes its endpoint, in the header `KNOBS_HEADER` of the endpoint's `default_headers`.

        Raises:
            ScorerError: If the program failed, or called a subtask that does not exist.
            ModelError: If a call failed permanently.
            BudgetExceeded: If a call reached a cap.
        """
        run = ProgramRun(self._task, example, call)
        written = json.dumps({name: dict(of) for name, of in knobs.items()}) if any(knobs.values()) else ""
        value, note, secrets = None, "", self._secrets
        try:
            async with self._opened() as opened, self._slots:
                secrets = opened.secrets
                run.begin()
                value = await opened.answer(run, written)
        except ProgramFailedError as failure:
            problem = redact(str(failure), secrets)
            note = f"{run.unusable}; the program then {problem}"
            if not run.unusable and not run.failure:
                raise ScorerError(f"the program {problem}, on example {example.id}") from failure
        except Unparsable as error:
            note = f"the program's answer: {redact(str(error), secrets)}"
        if run.failure:
            raise run.failure
        if value is None:
            note = note or run.unusable or "the program gave no answer"
        if not run.uses:
            note = "; ".join(filter(None, [run.no_calls, note]))
        return WorkflowResult(run.outputs, value, run.uses, note, latency(run.uses, in_sequence(run.uses)))

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[_Open]:
        opened = self._open
        if opened is None or opened.closed:
            opened = self._open = _Open(self._program, self._linger, self._secrets)
        with opened.in_use():
            await opened.start()
            yield opened


class _Open:
    """An open gateway and the processes that call it. `secrets` includes the gateway's key."""

    def __init__(self, program: Program, linger: float, secrets: tuple[str, ...]) -> None:
        from agentopt.workflow.program.gateway import (
            Gateway,  # loads a web server, which only tasks with a program need
        )

        self.closed = False
        self._program, self._linger, self._gateway = program, linger, Gateway()
        self.secrets = (self._gateway.key, *secrets)
        self._idle: dict[str, list[FunctionProcess]] = {}
        self._users, self._changed = 0, asyncio.Event()
        self._starting = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        self._users += 1
        self._changed.set()
        try:
            yield
        finally:
            self._users -= 1
            self._changed.set()

    async def start(self) -> None:
        async with self._starting:
            if self._keeper is None:
                await self._gateway.start()
                self._keeper = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        """Close after `linger` seconds without a user; the end of the event loop cancels the wait."""
        try:
            while not await self._is_unused():
                pass
        finally:
            self.closed = True
            for process in chain.from_iterable(self._idle.values()):
                await process.aclose()
            await self._gateway.stop()

    async def _is_unused(self) -> bool:
        self._changed.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), None if self._users else self._linger)
            return False
        return not self._users

    async def answer(self, run: ProgramRun, knobs: str) -> Value | None:
        """The program's answer for the run's example. Raises `ProgramFailedError` and `Unparsable`."""
        function = self._program.function
        if isinstance(function, str):
            return await self._by_process(function, run, knobs)
        endpoint = {"base_url": self._gateway.address(), "api_key": self._gateway.key}
        with self._admitted(run, endpoint["base_url"]):
            if function:
                headers = {"default_headers": {KNOBS_HEADER: knobs}} if knobs else {}
                return await self._by_call(function, run, {**endpoint, **headers})
            printed = await self._by_command(run, endpoint, knobs)
        try:
            return python(self._program.parse)(printed) if printed.strip() else None
        except ScorerError as error:
            raise ProgramFailedError(f"printed an answer that cannot be read: {error}") from error

    @contextmanager
    def _admitted(self, run: ProgramRun, base_url: str) -> Iterator[None]:
        self._gateway.admit(run, base_url)
        try:
            yield
        finally:
            self._gateway.dismiss(base_url)

    async def _by_call(self, function: Function, run: ProgramRun, endpoint: Endpoint) -> Value | None:
        running = asyncio.ensure_future(_value_of(function, dict(run.example.inputs), endpoint))
        try:
            await until_done(running, self._seconds_left(run))
            return running.result()
        except ProgramFailedError:
            raise
        except Exception as error:  # a user's function may raise anything; it is reported as its failure
            raise ProgramFailedError(f"raised {type(error).__name__}: {error}") from error
        finally:
            running.cancel()

    async def _by_process(self, function: str, run: ProgramRun, knobs: str) -> Value | None:
        # A file may read its environment on import, so a process keeps its knobs.
        idle = self._idle.setdefault(knobs, [])
        process = idle.pop() if idle else self._new_process(function, knobs)
        try:
            with self._admitted(run, process.base_url):
                return await process.call(run.example.inputs, self._seconds_left(run))
        finally:
            if process.is_ready and not self.closed:
                idle.append(process)
            else:
                await process.aclose()

    def _new_process(self, function: str, knobs: str) -> FunctionProcess:
        endpoint = {"base_url": self._gateway.address(), "api_key": self._gateway.key}
        environment = environment_of(endpoint, os.environ, knobs)
        return FunctionProcess(function, self._program.folder, environment, endpoint["base_url"], self.secrets)

    async def _by_command(self, run: ProgramRun, endpoint: Endpoint, knobs: str) -> str:
        inputs = json.dumps(dict(run.example.inputs), ensure_ascii=False)
        return await run_command(
            [word.replace(INPUT, inputs) for word in self._program.command],
            inputs,
            folder=self._program.folder,
            environment=environment_of(endpoint, os.environ, knobs),
            seconds_left=self._seconds_left(run),
            secrets=self.secrets,
        )

    def _seconds_left(self, run: ProgramRun) -> Callable[[], float]:
        return lambda: run.seconds_left(self._program.timeout)


async def _value_of(function: Function, inputs: Mapping[str, Any], endpoint: Endpoint) -> Value:
    """The function's value, whether it is async, returns an awaitable, or blocks a thread."""
    is_async = inspect.iscoroutinefunction(function)
    try:
        value = function(inputs, endpoint) if is_async else await in_thread(function, inputs, endpoint)
        return await value if inspect.isawaitable(value) else value
    except SystemExit as error:  # of `sys.exit`, which would end the event loop
        raise ProgramFailedError(f"raised SystemExit: {error}") from error


def environment_of(endpoint: Endpoint, environ: Mapping[str, str], knobs: str = "") -> dict[str, str]:
    """Return `environ` with all OpenAI variables replaced, so that OpenAI clients call `endpoint`.

    Args:
        endpoint: The endpoint.
        environ: The environment of this process.
        knobs: The value of `KNOBS_VARIABLE`; the variable is not set if it is empty.
    """
    kept = {name: value for name, value in environ.items() if not name.upper().startswith("OPENAI_")}
    direct = ",".join(filter(None, [environ.get("NO_PROXY") or environ.get("no_proxy"), "127.0.0.1"]))
    ours = {
        "OPENAI_BASE_URL": endpoint["base_url"],
        "OPENAI_API_BASE": endpoint["base_url"],
        "OPENAI_API_KEY": endpoint["api_key"],
    }
    return {**kept, **ours, "NO_PROXY": direct, "no_proxy": direct, **({KNOBS_VARIABLE: knobs} if knobs else {})}
