"""What went wrong with the responses of a run: incomplete ones, failed calls, and examples that were left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from agentopt.core.events import Event, ExampleDone, Observer, ResponsesIncomplete, TrialDone
from agentopt.core.records import Evaluation, Split, SubtaskUse
from agentopt.core.task import Task

NOTICED_SHARE = 0.1
"""A warning is given during the run if a larger share of a subtask's responses is incomplete."""

NOTICED_RESPONSES = 10
"""Responses of a subtask before the share is looked at, except at the end of a trial."""


@dataclass(frozen=True, slots=True)
class IncompleteResponses:
    """Responses of a subtask that ended at `max_tokens`, or that hold a thought and no answer; one may be both.

    Attributes:
        subtask: Name of the subtask.
        cut_off: Number of responses that were cut off.
        responses: Number of all responses.
        max_tokens: The subtask's setting; None if its program chooses it.
        only_thought: Number of responses that hold only a thought.
    """

    subtask: str
    cut_off: int
    responses: int
    max_tokens: int | None
    only_thought: int = 0

    def __str__(self) -> str:
        limit, now = ("", "") if self.max_tokens is None else (f" {self.max_tokens}", f" (now {self.max_tokens})")
        cut = f"{self.cut_off} of {self.responses} responses were cut off at max_tokens{limit}"
        thought = (
            f"{self.only_thought} of {self.responses} responses hold only a thought: raise max_tokens{now} or lower "
            "reasoning_effort"
        )
        found = [text for count, text in ((self.cut_off, cut), (self.only_thought, thought)) if count]
        return f"{self.subtask}: {'; '.join(found)}"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An example that was left out of every comparison, because the fault is its own.

    Attributes:
        split: Its split.
        example: Its id.
        kind: Kind of the failure, such as `content filter`.
        reason: The provider's words.
    """

    split: Split
    example: str
    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.split} example {self.example} was left out of every comparison: {self.kind}: {self.reason}"


def incomplete_responses(task: Task, evaluations: Iterable[Evaluation]) -> tuple[IncompleteResponses, ...]:
    """The subtasks with responses that were cut off or hold only a thought, counted over the evaluations."""
    evaluations = list(evaluations)
    found = []
    for subtask in task.subtasks:
        cut, thought, responses = (
            int(sum(evaluation.total(measure, subtask.name) for evaluation in evaluations))
            for measure in ("cut_off", "only_thought", "responses")
        )
        if cut or thought:
            limit = _max_tokens(task, subtask.name)
            found.append(IncompleteResponses(subtask.name, cut, responses, limit, thought))
    return tuple(found)


def left_out(evaluations: Iterable[Evaluation]) -> tuple[LeftOut, ...]:
    """The examples that any of the evaluations left out, each once."""
    found = {
        (evaluation.split, example): LeftOut(evaluation.split, example, failure.kind, failure.reason)
        for evaluation in evaluations
        for example, failure in evaluation.left_out.items()
    }
    return tuple(found.values())


def failure_reasons(evaluations: Iterable[Evaluation]) -> dict[str, int]:
    """Number of examples with a failed call, by kind and the provider's words; the most frequent first."""
    reasons = Counter(
        f"{failure.kind}: {failure.reason}" for evaluation in evaluations for failure in evaluation.failures.values()
    )
    return dict(reasons.most_common())


def _max_tokens(task: Task, subtask: str) -> int | None:
    return None if "max_tokens" in task[subtask].left_to_program else task[subtask].max_tokens


@dataclass
class IncompleteWarnings:
    """An observer that warns once for each subtask of which more than a tenth of the responses is incomplete.

    Attributes:
        task: The task.
        observer: Receives every event, and the warnings.
    """

    task: Task
    observer: Observer
    _uses: dict[str, SubtaskUse] = field(default_factory=dict)
    _warned: set[str] = field(default_factory=set)

    def __call__(self, event: Event) -> None:
        self.observer(event)
        if isinstance(event, ExampleDone):
            for name, use in event.result.subtasks.items():
                self._uses[name] = self._uses.get(name, SubtaskUse()) + use
            self._warn(NOTICED_RESPONSES)
        elif isinstance(event, TrialDone):
            self._warn(1)

    def _warn(self, least: int) -> None:
        for name, use in self._uses.items():
            most = NOTICED_SHARE * use.responses
            if name not in self._warned and use.responses >= least and max(use.cut_off, use.only_thought) > most:
                self._warned.add(name)
                limit = _max_tokens(self.task, name)
                self.observer(ResponsesIncomplete(name, use.cut_off, use.responses, limit, use.only_thought))
