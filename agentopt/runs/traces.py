"""Traces: what every subtask was sent and answered on an example, from the journal alone.

A trace is found by running the workflow again on the responses in the journal; no model is called. The user's program
and context functions are not run again, so their tasks have no traces.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.errors import AgentoptError
from agentopt.core.records import Answer, Split
from agentopt.core.task import Example, Subtask, Task, Unparsable
from agentopt.models.base import Choice, Message, Request
from agentopt.models.journal import Journal
from agentopt.models.session import open_existing_journal
from agentopt.runs.archive import RunArchive
from agentopt.runs.journal_model import JournalModel
from agentopt.workflow.base import Draw, Prompt
from agentopt.workflow.graph import SubtaskGraph
from agentopt.workflow.parsers import python
from agentopt.workflow.sampling import SubtaskSampler, configured
from agentopt.workflow.tool_calls import read_tool_calls


@dataclass(frozen=True, slots=True)
class SampleTrace:
    """One sample.

    Attributes:
        text: The answer, without thoughts; the tool calls if it has any.
        thought: The thoughts that precede it.
        parsed: The value that the parser read, as text; None if it read none.
        problem: Why the parser read none.
        finish_reason: That of the response.
        tokens: Completion tokens, thoughts included.
    """

    text: str
    thought: str
    parsed: str | None
    problem: str
    finish_reason: str
    tokens: int


@dataclass(frozen=True, slots=True)
class CallTrace:
    """One request of a subtask: its samples, the fusion of them, or a cascade's second model.

    Attributes:
        model: Catalogue name.
        purpose: `samples` or `fusion`.
        messages: (role, text) of each message that was sent.
        samples: The choices, in the order of their repeat index.
        seconds: Duration of the slowest response; 0 if it is not known.
    """

    model: str
    purpose: str
    messages: tuple[tuple[str, str], ...]
    samples: tuple[SampleTrace, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class SubtaskTrace:
    """What one subtask did on one example.

    Attributes:
        subtask: Its name.
        calls: Its requests, in order.
        value: The fused value, as text; None if no sample was parsable.
        note: Why the value is missing.
    """

    subtask: str
    calls: tuple[CallTrace, ...]
    value: str | None
    note: str


Trace = tuple[SubtaskTrace, ...]
"""The subtasks that were called on an example, in the order of the task."""


def why_untraced(task: Task) -> str | None:
    """Why the examples of a task have no traces; None if they have them."""
    if task.program:
        return "the task's program would have to run again"
    if any(subtask.context for subtask in task.subtasks):
        return "the task's context functions would have to run again"
    return None


def traces(
    archive: RunArchive, wanted: Iterable[tuple[int, Split]], *, only: Collection[str] | None = None
) -> dict[tuple[int, Split], dict[str, Trace]]:
    """Replay trials on the examples that they have results for.

    Args:
        archive: The run.
        wanted: Numbers of trials, each with the split.
        only: Ids of examples. Default: all of the split.

    Returns:
        (trial, split) -> example id -> its trace. Examples of which the journal lacks a response have none.
    """

    def replayed() -> dict[tuple[int, Split], dict[str, Trace]]:
        journal = open_existing_journal(archive.run.config.journal)
        if journal is None:
            return {}
        with closing(journal):
            return asyncio.run(Replay.of(archive, journal).all(archive, wanted, only))

    if why_untraced(archive.task):
        return {}
    with ThreadPoolExecutor(1) as pool:  # the caller's thread may have an event loop, as in a notebook
        return pool.submit(replayed).result()


@dataclass
class Replay:
    """Replays candidates; a call that several candidates share is replayed once."""

    task: Task
    model: JournalModel
    draw: Draw
    known: dict[tuple[str, str, SubtaskChoice, str], tuple[SubtaskTrace, Answer]] = field(default_factory=dict)

    @classmethod
    def of(cls, archive: RunArchive, journal: Journal) -> Replay:
        model = JournalModel(journal, archive.specs, journal.refused(archive.run.id))
        return cls(archive.task, model, Draw(archive.run.config.response_seed))

    async def all(
        self, archive: RunArchive, wanted: Iterable[tuple[int, Split]], only: Collection[str] | None
    ) -> dict[tuple[int, Split], dict[str, Trace]]:
        """The traces of several trials; see `traces`.

        Args:
            archive: The run.
            wanted: Numbers of trials, each with the split.
            only: Ids of examples; None for all of the split.
        """
        found: dict[tuple[int, Split], dict[str, Trace]] = {}
        for number, split in wanted:
            trial = archive.trial(number)
            evaluation = archive.tests.get(number) if split == "test" or trial is None else trial.evaluation
            if trial is None or evaluation is None:
                continue
            rows = self.task.splits.get(split, ())
            examples = {example.id: example for example in rows if only is None or example.id in only}
            of_trial = {
                result.id: await self.example(trial.candidate, examples[result.id])
                for result in evaluation.results
                if result.repeat == 0 and result.id in examples
            }
            found[number, split] = {name: trace for name, trace in of_trial.items() if trace is not None}
        return found

    async def example(self, candidate: Candidate, example: Example) -> Trace | None:
        """The trace of one example; None if the journal lacks a response.

        Args:
            candidate: The candidate.
            example: The example.
        """
        called: dict[str, SubtaskTrace] = {}

        async def call(subtask: Subtask, prompt: Prompt, /, *, occurrence: int = 0) -> Answer:
            key = (example.id, subtask.name, candidate[subtask.name], str(prompt))
            if key not in self.known:
                self.known[key] = await self._subtask(candidate[subtask.name], subtask, prompt, example)
            called[subtask.name], answer = self.known[key]
            return answer

        knobs = {s.name: configured(s, candidate[s.name]).knobs for s in self.task.subtasks}
        try:
            await SubtaskGraph(self.task).run(example, call, knobs)
        except AgentoptError:
            return None
        return tuple(called[s.name] for s in self.task.subtasks if s.name in called)

    async def _subtask(
        self, choice: SubtaskChoice, subtask: Subtask, prompt: Prompt, example: Example
    ) -> tuple[SubtaskTrace, Answer]:
        model = JournalModel(self.model.journal, self.model.specs, self.model.refused)
        sampler = SubtaskSampler(model, model.specs, self.task.unit)
        answer = await sampler.answer(subtask, choice, prompt, example.inputs, self.draw.of(subtask.name))
        calls = tuple(_call(configured(subtask, choice), *sent) for sent in model.sent)
        value = None if answer.value is None else _as_text(answer.value)
        return SubtaskTrace(subtask.name, calls, value, answer.note), answer


def _call(subtask: Subtask, request: Request, seconds: float, choices: tuple[Choice, ...]) -> CallTrace:
    messages = tuple((message.role, _content(message)) for message in request.messages)
    samples = tuple(_sample(subtask, choice) for choice in choices)
    return CallTrace(request.model, request.purpose, messages, samples, seconds)


def _content(message: Message) -> str:
    calls = [f"{call.name}({call.arguments})" for call in message.tool_calls]
    return "\n".join(filter(None, (message.content, *calls)))


def _sample(subtask: Subtask, choice: Choice) -> SampleTrace:
    parsed, problem = None, ""
    try:
        if choice.is_only_thought:
            raise Unparsable("expected an answer, got only thoughts")
        parsed = _as_text(read_tool_calls(choice) if choice.tool_calls else python(subtask.parse)(choice.text))
    except Unparsable as error:
        problem = str(error)
    calls = [f"{call.name}({call.arguments})" for call in choice.tool_calls]
    text = "\n".join(filter(None, (choice.text, *calls)))
    return SampleTrace(text, choice.thought, parsed, problem, choice.finish_reason, choice.completion_tokens)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
