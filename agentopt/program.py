"""The user's own program as the workflow: it is given an example, asks agentopt for its subtasks, and answers.

Owns what a program is given (the inputs on stdin or as an argument, an environment in which OPENAI_BASE_URL is
ours), and what its end means:

- it ended well and printed something: that is the answer; where it printed nothing there is none, which scores 0;
- one of its calls failed for good: that failure, whatever the program made of it;
- it failed, or took too long: an error of the example, which stays unscored. Only where before that a subtask had
  no response of the form that its `parse` asks for, it is a missing answer, which scores 0: the program was given
  nothing to go on with.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from agentopt.errors import ScorerError
from agentopt.processes import ProgramFailedError, in_thread, run_command, until_done
from agentopt.task import Endpoint, Example, Program, Task, Unparsable, Value
from agentopt.visit import AskAgain, Visit
from agentopt.workflow import WorkflowResult

if TYPE_CHECKING:
    from agentopt.gateway import Gateway

INPUT = "{input}"
"""What in a command's words stands for the inputs as JSON."""


class ProgramRunner:
    """Runs a task's program on examples. The gateway is there while at least one of them runs."""

    def __init__(self, task: Task, program: Program) -> None:
        self._task, self._program = task, program
        self._places = asyncio.Semaphore(program.concurrency)
        self._running, self._lock = 0, asyncio.Lock()
        self._gateway: Gateway | None = None

    async def run(self, example: Example, ask: AskAgain) -> WorkflowResult:
        """One example through the program. Raises what a call of it raised, and `ScorerError` where it failed."""
        visit = Visit(self._task, example, ask)
        note = ""
        try:
            async with self._opened() as gateway, self._places:
                value = await self._run(visit, gateway)
        except ProgramFailedError as failure:
            value, note = None, f"{visit.unusable}; the program then {failure}"
            if not visit.unusable and not visit.failure:
                raise ScorerError(f"the program {failure} on example {example.id}") from failure
        except Unparsable as complaint:
            value, note = None, f"the program's answer: {complaint}"
        if visit.failure:
            raise visit.failure
        if value is None:
            note = note or visit.unusable or "the program gave no answer"
        return WorkflowResult(visit.outputs, value, visit.uses, note)

    async def _run(self, visit: Visit, gateway: Gateway) -> Value | None:
        base_url = gateway.admit(visit)
        endpoint = {"base_url": base_url, "api_key": gateway.key}
        try:
            if self._program.function:
                return await self._call(visit, endpoint)
            printed = await self._execute(visit, endpoint)
        finally:
            gateway.dismiss(base_url)
        return self._program.parse(printed) if printed.strip() else None

    async def _call(self, visit: Visit, endpoint: Endpoint) -> Value | None:
        function = self._program.function
        assert function
        inputs = dict(visit.example.inputs)
        if inspect.iscoroutinefunction(function):
            running: asyncio.Future[Value] = asyncio.ensure_future(function(inputs, endpoint))
        else:
            running = in_thread(function, inputs, endpoint)
        try:
            await until_done(running, lambda: visit.seconds_left(self._program.timeout))
            return running.result()
        except ProgramFailedError:
            raise
        except Exception as error:  # a user's function may raise anything; it is told as its failure
            raise ProgramFailedError(f"raised {type(error).__name__}: {error}") from error
        finally:
            running.cancel()

    async def _execute(self, visit: Visit, endpoint: Endpoint) -> str:
        given = json.dumps(dict(visit.example.inputs), ensure_ascii=False)
        return await run_command(
            [word.replace(INPUT, given) for word in self._program.command],
            given,
            folder=self._program.folder,
            environment=environment_of(endpoint, os.environ),
            seconds_left=lambda: visit.seconds_left(self._program.timeout),
        )

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Gateway]:
        from agentopt.gateway import Gateway  # a web server, which only tasks with a program need

        async with self._lock:
            if self._gateway is None:
                self._gateway = Gateway()
                await self._gateway.start()
            self._running += 1
            gateway = self._gateway
        try:
            yield gateway
        finally:
            self._running -= 1
            if self._running == 0:
                self._gateway = None
                await gateway.stop()


def environment_of(endpoint: Endpoint, environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` with nothing in it that would lead an OpenAI client elsewhere than to `endpoint`."""
    kept = {name: value for name, value in environ.items() if not name.upper().startswith("OPENAI_")}
    direct = ",".join(filter(None, [environ.get("NO_PROXY") or environ.get("no_proxy"), "127.0.0.1"]))
    ours = {
        "OPENAI_BASE_URL": endpoint["base_url"],
        "OPENAI_API_BASE": endpoint["base_url"],
        "OPENAI_API_KEY": endpoint["api_key"],
    }
    return {**kept, **ours, "NO_PROXY": direct, "no_proxy": direct}
