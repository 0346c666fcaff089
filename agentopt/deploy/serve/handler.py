"""What a chat call means: the workflow or one subtask, with the candidate that is in use when the call comes.

A call keeps the candidate that it began with. Its samples are its own: each call has a seed that no other call of this
server has, so the journal, through which every call goes, has no answer to it yet. Where seeds are not given, the
questions are those of an evaluation, and what the journal knows is not asked again.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from agentopt.core.candidate import Candidate
from agentopt.core.errors import ApiError
from agentopt.core.records import Answer
from agentopt.core.task import Example, Subtask, Task
from agentopt.models.base import ChatModel
from agentopt.models.catalog import ModelSpec
from agentopt.models.openai_format import ChatCall, Completion, no_such_model
from agentopt.workflow.base import Draw, OnAnswer
from agentopt.workflow.chat_calls import PREFIX, completion_of, with_settings
from agentopt.workflow.graph import Workflow
from agentopt.workflow.inputs import columns_of_task, inputs_in

SEEDS = 2**30
"""Seeds stay below this: some endpoints take 32 bits."""


def fresh_seeds(start: int) -> Iterator[int]:
    """Every number below `SEEDS`, each once, in an order in which neighbours are far apart.

    The samples of a call have the seeds that follow its own, so near seeds would share samples.
    """
    # Odd, so that every number has its turn; and no simple fraction of SEEDS, so that no two near turns are near.
    step = 0x1E3779B1
    while True:
        start = (start + step) % SEEDS
        yield start


@dataclass(frozen=True, slots=True)
class Served:
    """The answer to one call, and the candidate that gave it."""

    completion: Completion
    candidate: Candidate


class ChatHandler:
    """Answers calls, for any of `models`.

    `current` gives the candidate in use. `seeds` are those of fresh samples; None where those of evaluations, which
    have `seed`, will do.
    """

    def __init__(
        self,
        task: Task,
        current: Callable[[], Candidate],
        model: ChatModel,
        specs: Mapping[str, ModelSpec],
        *,
        seed: int = 0,
        seeds: Iterator[int] | None = None,
        on_answer: OnAnswer = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current = current
        self._task, self._seed, self._seeds, self._on_answer = task, seed, seeds, on_answer
        self._workflow = Workflow(task, model, specs, clock=clock)
        self._columns = columns_of_task(task)
        self._subtasks = {f"{task.name}/{s.name}": s for s in task.subtasks}
        # A program that was optimised behind the gateway finds its subtasks here under the same names.
        self._subtasks |= {PREFIX + s.name: s for s in task.subtasks}
        self.models = [task.name, *self._subtasks]

    async def answer(self, call: ChatCall) -> Served:
        """The answers to one call. Raises `ApiError`, and what the models and the user's functions raise."""
        candidate = self.current()
        if call.model == self._task.name:
            _check_format(call, None if self._task.program else self._task[self._task.output_subtask])
            example = Example("served", inputs_in(call.messages, self._columns))
            answers = [self._whole(candidate, example, self._draw(i)) for i in range(call.n)]
        elif call.model in self._subtasks:
            subtask = _without_inputs(with_settings(self._subtasks[call.model], call))
            _check_format(call, subtask)
            answers = [
                self._workflow.answer(
                    candidate, subtask, call.messages, self._draw(i), inputs={}, on_answer=self._on_answer
                )
                for i in range(call.n)
            ]
        else:
            raise no_such_model(call.model, self.models)
        return Served(completion_of(call, await asyncio.gather(*answers)), candidate)

    def _draw(self, number: int) -> Draw:
        """The samples of a call's answer `number`."""
        return Draw(self._seed, number) if self._seeds is None else Draw(next(self._seeds))

    async def _whole(self, candidate: Candidate, example: Example, draw: Draw) -> Answer:
        return (await self._workflow.run(candidate, example, draw, on_answer=self._on_answer)).answer


def _without_inputs(subtask: Subtask) -> Subtask:
    """The subtask, unless it cannot be asked by itself: the judge of best_of reads the example's inputs."""
    if subtask.fusion.method == "best_of":
        rule = f"the answers of {subtask.name} are judged by the task's inputs; ask for the whole task instead"
        raise ApiError(400, rule, param="model", code="unsupported_parameter")
    return subtask


def _check_format(call: ChatCall, subtask: Subtask | None) -> None:
    """Raise `ApiError` where a form is asked for that the answers of the subtask (None: of the program) have not."""
    if call.json_schema is None:
        return
    asked, kept = json.loads(call.json_schema), json.loads((subtask and subtask.json_schema) or "{}")
    # What asks for any object is content with one that follows a schema of its own.
    if kept and (asked == kept or asked == {"type": kept.get("type")} == {"type": "object"}):
        return
    rule = f"the form of an answer of {call.model} is the task's; leave response_format out, or ask for text"
    raise ApiError(400, rule, param="response_format", code="unsupported_parameter")
