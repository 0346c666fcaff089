"""What a chat call means: the workflow or one subtask, with the candidate that is in use when the call comes.

A call keeps the candidate that it began with. Its samples are its own: each call has a seed that no other call of this
server has, so the journal, through which every call goes, has no answer to it yet. Where seeds are not given, the
questions are those of an evaluation, and what the journal knows is not asked again.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from agentopt.core.candidate import Candidate
from agentopt.core.errors import ApiError
from agentopt.core.records import Answer, SubtaskUse
from agentopt.core.task import Example, Subtask, Task, Value
from agentopt.evaluation.evaluator import MOST_REPEATS
from agentopt.models.base import ChatModel
from agentopt.models.catalog import ModelSpec
from agentopt.models.openai_format import NO_RETRY, ChatCall, Completion, no_such_model
from agentopt.models.redaction import secrets_of
from agentopt.workflow.graph import Prompt, run_workflow
from agentopt.workflow.inputs import columns_of_task, inputs_in
from agentopt.workflow.program.program_run import PREFIX, with_settings
from agentopt.workflow.program.runner import ProgramRunner
from agentopt.workflow.sampling import Scaling
from agentopt.workflow.templates import written

SEEDS = 2**30
"""Seeds stay below this: some endpoints take 32 bits."""

OnAnswer = Callable[[str, str, SubtaskUse, float], None]
"""Told the subtask, its model, what its answer used, and the seconds it took."""


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
class Draw:
    """Which samples are drawn: the seed of their questions, and the repeat."""

    seed: int
    repeat: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer: its value (None: nothing was usable, and `note` says why), and what its subtasks used."""

    value: Value | None
    uses: tuple[SubtaskUse, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Served:
    """The answer to one call, and the candidate that gave it."""

    completion: Completion
    candidate: Candidate


class Desk:
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
        on_answer: OnAnswer = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current = current
        self._clock = clock
        self._task, self._seeds, self._on_answer = task, seeds, on_answer
        self._scaling = Scaling(model, specs, task.unit, seed)
        self._columns = columns_of_task(task)
        secrets = secrets_of(specs.values())
        self._program = ProgramRunner(task, task.program, secrets=secrets) if task.program else None
        self._subtasks = {f"{task.name}/{s.name}": s for s in task.subtasks}
        # A program that was optimised behind the gateway finds its subtasks here under the same names.
        self._subtasks |= {PREFIX + s.name: s for s in task.subtasks}
        self.models = [task.name, *self._subtasks]

    async def answer(self, call: ChatCall) -> Served:
        """The answers to one call. Raises `ApiError`, and what the models and the user's functions raise."""
        candidate = self.current()
        if call.model == self._task.name:
            _check_format(call, None if self._program else self._task[self._task.output_subtask])
            example = Example("served", inputs_in(call.messages, self._columns))
            asked = [self._workflow(candidate, example, self._draw(i)) for i in range(call.n)]
        elif call.model in self._subtasks:
            subtask = _without_inputs(with_settings(self._subtasks[call.model], call))
            _check_format(call, subtask)
            asked = [self._one(candidate, subtask, call.messages, self._draw(i)) for i in range(call.n)]
        else:
            raise no_such_model(call.model, self.models)
        return Served(_completion(call, await asyncio.gather(*asked)), candidate)

    def _draw(self, number: int) -> Draw:
        """Where the samples of a call's answer `number` come from."""
        return Draw(self._scaling.seed, number) if self._seeds is None else Draw(next(self._seeds), 0)

    async def _workflow(self, candidate: Candidate, example: Example, draw: Draw) -> Outcome:
        async def ask(subtask: Subtask, prompt: Prompt, of: Example, *, occurrence: int = 0) -> Answer:
            return await self._ask(
                candidate, subtask, prompt, of, replace(draw, repeat=draw.repeat + MOST_REPEATS * occurrence)
            )

        if self._program:
            result = await self._program.run(example, ask)
        else:
            result = await run_workflow(self._task, example, ask)
        return Outcome(result.output, tuple(result.uses.values()), result.note)

    async def _one(self, candidate: Candidate, subtask: Subtask, prompt: Prompt, draw: Draw) -> Outcome:
        answer = await self._ask(candidate, subtask, prompt, Example("served", {}), draw)
        return Outcome(answer.value, (answer.use,), answer.note)

    async def _ask(
        self, candidate: Candidate, subtask: Subtask, prompt: Prompt, example: Example, draw: Draw
    ) -> Answer:
        choice, started = candidate[subtask.name], self._clock()
        scaling = replace(self._scaling, seed=draw.seed)
        answer = await scaling.answer(subtask, choice, prompt, example, repeat=draw.repeat)
        self._on_answer(subtask.name, choice.model, answer.use, self._clock() - started)
        return answer


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


def _completion(call: ChatCall, outcomes: Sequence[Outcome]) -> Completion:
    """What is sent. Raises `ApiError` where none of the answers has a value."""
    texts = [written(outcome.value) for outcome in outcomes if outcome.value is not None]
    if not texts:
        note = outcomes[0].note or "no answer was usable"
        raise ApiError(422, note, type="api_error", code="unparsable_answer", headers=NO_RETRY)
    uses = [use for outcome in outcomes for use in outcome.uses]
    prompt = sum(use.prompt_tokens for use in uses)
    return Completion(call.model, texts, prompt, sum(use.completion_tokens + use.fusion_tokens for use in uses))
