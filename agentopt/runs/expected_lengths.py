"""The token lengths that a dry run expects of each subtask and model, and their source. Makes no model call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal

from agentopt.core.candidate import Candidate
from agentopt.core.errors import AgentoptError
from agentopt.core.message_text import in_words
from agentopt.core.records import SubtaskUse
from agentopt.core.task import Example, Subtask, Task
from agentopt.models.catalog import ModelSpec
from agentopt.models.journal import Journal
from agentopt.models.journal_lengths import ResponseLengths, response_lengths
from agentopt.runs.journal_model import JournalModel
from agentopt.runs.traces import why_untraced
from agentopt.runs.worst_case import longest_prompt
from agentopt.search.base import BYTES_PER_TOKEN
from agentopt.workflow.base import Draw, SubtaskAnswer
from agentopt.workflow.graph import Workflow

ROWS = 20
"""Rows whose prompts are measured, and that are enough for a mean of recorded responses."""

MOST_ROWS = 200
"""Rows of the validation split whose responses are looked up."""

LEAST_RESPONSES = 10
"""Responses of a model to other tasks whose mean length is used; fewer are no estimate."""

RESPONSE = 0.5
"""Share of `max_tokens` that a response is expected to take if the task has no `tokens`."""

THOUGHTS = 0.5
"""Share of the rest of `max_tokens` that the thoughts of a model that thinks are expected to take."""

Source = Literal["task", "model", "assumed"]
"""The responses of this task, those of the model to any task, or neither."""


@dataclass(frozen=True, slots=True)
class CallLengths:
    """Mean tokens of one call.

    Attributes:
        prompt: Tokens of the prompt.
        answer: Tokens of one response, without thoughts.
        thoughts: Tokens of its thoughts.
        source: Where the length of the response is from.
    """

    prompt: float
    answer: float
    thoughts: float
    source: Source


@dataclass(frozen=True, slots=True)
class ExpectedLengths:
    """The token lengths of every subtask with every model, measured ones where the journal has responses.

    Attributes:
        task: The task.
        specs: Catalogue name -> entry.
        recorded: (subtask, model) -> the means of the responses of this task.
        of_models: Model -> the means of its responses to any task.
    """

    task: Task
    specs: Mapping[str, ModelSpec]
    recorded: Mapping[tuple[str, str], CallLengths] = field(default_factory=dict)
    of_models: Mapping[str, ResponseLengths] = field(default_factory=dict)
    _prompts: dict[str, float] = field(default_factory=dict, init=False)

    def of(self, subtask: Subtask, model: str) -> CallLengths:
        """The lengths of one subtask with one model.

        Without responses of this task, an answer has the task's `tokens`, or else the mean of the model's responses to
        other tasks, or else half of `max_tokens`; the thoughts are the mean of the model's, or else, if it is known to
        think, half of the rest of `max_tokens`.

        Args:
            subtask: One of the task's subtasks.
            model: Catalogue name.
        """
        if found := self.recorded.get((subtask.name, model)):
            return found
        if subtask.name not in self._prompts:
            self._prompts[subtask.name] = prompt_tokens(self.task, subtask)
        prompt, answer = self._prompts[subtask.name], completion_tokens(subtask)
        if seen := self.of_models.get(model):
            if subtask.tokens is None:
                answer = min(max(seen.completion - seen.thoughts, 1.0), float(subtask.max_tokens))
            thoughts = min(seen.thoughts, max(0.0, subtask.max_tokens - answer))
            return CallLengths(prompt, answer, thoughts, "model")
        thinks = _thinks(self.specs[model], subtask.effort)
        thoughts = THOUGHTS * max(0.0, subtask.max_tokens - answer) if thinks else 0.0
        return CallLengths(prompt, answer, thoughts, "assumed")

    def notes(self) -> Iterator[str]:
        """Yield the sources of the lengths, and of the thoughts of the models that may think."""
        by_source: dict[Source, dict[str, list[str]]] = {}
        for subtask in self.task.subtasks:
            for model in subtask.models:
                by_source.setdefault(self.of(subtask, model).source, {}).setdefault(model, []).append(subtask.name)
        assumed = "`tokens` of the task" if all(s.tokens for s in self.task.subtasks) else "half of max_tokens"
        words: dict[Source, str] = {
            "task": "the means of this task's responses in the journal",
            "model": "for thoughts, the means of the model's responses to other tasks",
            "assumed": assumed,
        }
        if any(s.tokens is None for s in self.task.subtasks):
            words["model"] = "the means of the model's responses to other tasks"
        parts = [
            f"{words[source]} ({in_words(self._named(by_source[source]))})" for source in words if source in by_source
        ]
        yield f"expected token lengths: {'; '.join(parts)}"
        measured = {m for source in ("task", "model") for m in by_source.get(source, ())} - {
            *by_source.get("assumed", ())
        }
        if thinking := [name for name, spec in self.specs.items() if _thinks(spec) and name not in measured]:
            rule = f"{in_words(thinking)} may think before answering"
            yield f"{rule}: the expected case counts thoughts of half of the rest of max_tokens, which may be far off"

    def _named(self, subtasks: Mapping[str, Sequence[str]]) -> list[str]:
        """The models, each with its subtasks unless these are all that may use it."""
        everywhere = {m: sum(m in s.models for s in self.task.subtasks) for m in subtasks}
        return [m if len(of) == everywhere[m] else f"{m} in {in_words(list(of))}" for m, of in subtasks.items()]


def _thinks(spec: ModelSpec, effort: str | None = None) -> bool:
    """Whether a model may think before it answers; Anthropic's models do if an effort is sent."""
    is_on_request = (spec.litellm or "").startswith("anthropic/")
    return spec.has_effort and bool(effort or spec.reasoning_effort or not is_on_request)


async def expected_lengths(
    task: Task, specs: Mapping[str, ModelSpec], journal: Journal | None, seed: int
) -> ExpectedLengths:
    """Measure the token lengths on the journal's responses; those that it lacks are assumed.

    Args:
        task: The task. Its program and context functions are not run, so with one of them it has no responses.
        specs: Catalogue name -> entry.
        journal: The responses. None: there are none.
        seed: `response_seed` of the configuration.
    """
    if journal is None:
        return ExpectedLengths(task, specs)
    recorded = {} if why_untraced(task) else await _recorded(task, specs, journal, seed)
    of_models = {name: response_lengths(journal, specs[name].identity) for name in task.models}
    enough = {name: found for name, found in of_models.items() if found.responses >= LEAST_RESPONSES}
    return ExpectedLengths(task, specs, recorded, enough)


async def _recorded(
    task: Task, specs: Mapping[str, ModelSpec], journal: Journal, seed: int
) -> dict[tuple[str, str], CallLengths]:
    workflow = Workflow(task, JournalModel(journal, specs, journal.refused_lately("")), specs)
    uses: dict[tuple[str, str], list[SubtaskUse]] = {}

    def keep(found: SubtaskAnswer) -> None:
        if not found.answer.use.escalated:
            uses.setdefault((found.subtask, found.model), []).append(found.answer.use)

    for name, candidate in _to_replay(task):
        place = (name, candidate[name].model)
        for example in task.splits["validation"][:MOST_ROWS]:
            if len(uses.get(place, ())) >= ROWS:
                break
            with suppress(AgentoptError):
                await workflow.run(candidate, example, Draw(seed), on_answer=keep)
    return {place: _means(found, task[place[0]].num_samples[0]) for place, found in uses.items()}


def _to_replay(task: Task) -> Iterator[tuple[str, Candidate]]:
    """Yield each subtask with the candidates that have each of its models: there alone, and wherever it is possible."""
    choices = dict(task.baseline)
    for subtask in task.subtasks:
        for model in subtask.models:
            alone = choices | {subtask.name: replace(choices[subtask.name], model=model)}
            everywhere = {s.name: replace(choices[s.name], model=model) for s in task.subtasks if model in s.models}
            yield subtask.name, Candidate.of(alone)
            yield subtask.name, Candidate.of(choices | everywhere)


def _means(uses: Sequence[SubtaskUse], samples: int) -> CallLengths:
    prompt, completion, thoughts = (
        sum(getattr(use, name) for use in uses) / len(uses)
        for name in ("prompt_tokens", "completion_tokens", "reasoning_tokens")
    )
    return CallLengths(prompt, (completion - thoughts) / samples, thoughts / samples, "task")


def prompt_tokens(task: Task, subtask: Subtask) -> float:
    """The mean tokens of a subtask's prompts on the first rows, by their bytes.

    Args:
        task: The task.
        subtask: One of its subtasks.
    """
    rows = task.splits["validation"][:ROWS]
    sizes = [len((subtask.system_prompt + _prompt(task, subtask, row)).encode()) for row in rows]
    return sum(sizes) / len(sizes) / BYTES_PER_TOKEN


def _prompt(task: Task, subtask: Subtask, row: Example) -> str:
    """The prompt if the earlier outputs are texts of the expected length; the longest one if they cannot be texts."""
    outputs = {name: "x" * int(BYTES_PER_TOKEN * completion_tokens(task[name])) for name in subtask.reads}
    if subtask.context is None:
        with suppress(Exception):  # a user's function
            return subtask.render(row.inputs, outputs)
    return longest_prompt(task, subtask, row)


def completion_tokens(subtask: Subtask) -> float:
    """The assumed tokens of a response without thoughts: the task's `tokens`, or half of `max_tokens`."""
    return subtask.tokens.completion if subtask.tokens else RESPONSE * subtask.max_tokens
