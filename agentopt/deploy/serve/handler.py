"""Request handler: runs the workflow, or one subtask, with the candidate current at arrival.

A call keeps its candidate to the end. Each call has its own seed, so that no response is taken from the journal;
without seeds, requests equal those of an evaluation, and recorded responses are reused.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from agentopt.core.candidate import Candidate
from agentopt.core.errors import ApiError
from agentopt.core.records import Answer
from agentopt.core.task import Example, Subtask, Task
from agentopt.deploy.pareto_front import FrontCandidate
from agentopt.deploy.serve.request_budget import candidate_under
from agentopt.models.base import ChatModel
from agentopt.models.catalog import ModelSpec
from agentopt.models.openai_completion import Completion
from agentopt.models.openai_format import ChatCall, no_such_model
from agentopt.workflow.base import Draw, OnAnswer
from agentopt.workflow.chat_calls import completion_of, subtasks_by_model, with_settings
from agentopt.workflow.graph import Workflow
from agentopt.workflow.inputs import columns_of_task, inputs_in

SEEDS = 2**30
"""Upper bound of seeds: some endpoints accept 32 bits only."""


def fresh_seeds(start: int) -> Iterator[int]:
    """Yield every number below `SEEDS` once, consecutive ones far apart.

    The samples of a call use the seeds after its own, so calls with adjacent seeds would share samples.
    """
    # Odd, so that every number occurs; not close to a simple fraction of SEEDS, so that close turns are far apart.
    step = 0x1E3779B1
    while True:
        start = (start + step) % SEEDS
        yield start


class ChatHandler:
    """Answers chat calls to any of `models`.

    Args:
        task: The task.
        current: Returns the current candidate.
        model: The model client.
        specs: Catalogue name -> entry, of the models that may be called.
        seed: Seed of evaluations; used without `seeds`.
        seeds: Seeds of fresh samples; None to reuse recorded responses.
        on_answer: Called after each answer of a subtask.
        front: Candidates for requests with a budget.
        clock: A monotonic clock, in seconds.

    Attributes:
        models: Names that a call may use as `model`.
        current: See above.
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
        front: Sequence[FrontCandidate] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current, self._front = current, front
        self._task, self._seed, self._seeds, self._on_answer = task, seed, seeds, on_answer
        self._workflow = Workflow(task, model, specs, clock=clock)
        self._columns = columns_of_task(task)
        self._subtasks = {f"{task.name}/{s.name}": s for s in task.subtasks}
        # A program calls its subtasks by these names in an optimisation; they are the same here.
        self._subtasks |= subtasks_by_model(task)
        self.models = [task.name, *self._subtasks]

    def candidate_for(self, call: ChatCall, budget: float | None) -> Candidate:
        """Return the current candidate, or the one that a request with a budget gets.

        Args:
            call: The call.
            budget: Most USD of the request, on average; None if it has no budget.

        Raises:
            ApiError: No candidate is within the budget.
        """
        if budget is None:
            return self.current()
        return candidate_under(self._front, budget, call.model, self._task.name)

    def no_such_model(self, name: str) -> ApiError:
        """The refusal of a model that is not served, with the names that are."""
        with_budget = [f"{self._task.name}@0.002usd (with the budget of a request)"] if self._front else []
        return no_such_model(name, [*self.models, *with_budget])

    def is_live(self, call: ChatCall) -> bool:
        """Whether the text of the answer may be sent while it is generated: it is one subtask's, and the only one."""
        return call.n == 1 and call.model in self._subtasks

    async def answer(self, call: ChatCall, candidate: Candidate) -> Completion:
        """Answer one call.

        Args:
            call: The call.
            candidate: The candidate that was current when the call arrived.

        Raises:
            ApiError: The call is not valid, or no answer could be parsed.
            AgentoptError: A model or a function of the task failed.
        """
        if call.model == self._task.name:
            _check_format(call, None if self._task.program else self._task[self._task.output_subtask])
            _check_plain(call)
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
            raise self.no_such_model(call.model)
        tasks = [asyncio.create_task(one) for one in answers]
        try:
            return completion_of(call, await asyncio.gather(*tasks))
        finally:
            for task in tasks:  # of a call that failed: the other answers are not paid for
                task.cancel()

    def _draw(self, number: int) -> Draw:
        """The draw of a call's answer `number`."""
        return Draw(self._seed, number) if self._seeds is None else Draw(next(self._seeds))

    async def _whole(self, candidate: Candidate, example: Example, draw: Draw) -> Answer:
        return (await self._workflow.run(candidate, example, draw, on_answer=self._on_answer)).answer


def _without_inputs(subtask: Subtask) -> Subtask:
    """The subtask, if it can run without the task's inputs. Raises `ApiError` if a judge or a check reads them."""
    if subtask.fusion.method == "best_of" or (subtask.cascade and subtask.cascade.check):
        rule = f"the answers of {subtask.name} are judged by the task's inputs; call the whole task instead"
        raise ApiError(400, rule, param="model", code="unsupported_parameter")
    return subtask


def _check_plain(call: ChatCall) -> None:
    """Raise `ApiError` if a call of the whole task has tools, or content that is not text."""
    remedy = "call one of its subtasks instead"
    if call.has_tools:
        rule = f"{call.model} is the whole task, which takes inputs and no tools; {remedy}"
        raise ApiError(400, rule, param="tools", code="unsupported_parameter")
    if any(message.parts for message in call.messages):
        rule = f"{call.model} is the whole task, which takes inputs as text; {remedy}"
        raise ApiError(400, rule, param="messages", code="unsupported_parameter")


def _check_format(call: ChatCall, subtask: Subtask | None) -> None:
    """Raise `ApiError` for a response format other than that of the subtask (None: of a program)."""
    if call.json_schema is None:
        return
    requested, own = json.loads(call.json_schema), json.loads((subtask and subtask.json_schema) or "{}")
    # A request for any object is satisfied by one that follows the subtask's schema.
    if own and (requested == own or requested == {"type": own.get("type")} == {"type": "object"}):
        return
    rule = f"the answer format of {call.model} is fixed by the task; omit response_format, or set it to text"
    raise ApiError(400, rule, param="response_format", code="unsupported_parameter")
