"""What went wrong with the responses of a run: incomplete and unreadable ones, failed calls, examples left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from agentopt.core.candidate import Candidate
from agentopt.core.events import Event, ExampleDone, Observer, ResponsesIncomplete, ResponsesUnparsed
from agentopt.core.intervals import proportion_ends
from agentopt.core.message_text import counted, in_words
from agentopt.core.records import UNUSABLE_SHARE, Evaluation, ExampleResult, Split, SubtaskUse
from agentopt.core.result_file import unparsed_subtasks
from agentopt.core.task import Task

NOTICED_SHARE = 0.25
"""A warning is given during the run once a larger share of a subtask's responses is certainly incomplete.

A weak model among the candidates rambles, which a larger `max_tokens` does not change: the result names it at the end.
"""

HARMLESS_SHARE = 0.1
"""The result is highlighted if a larger share of the best candidate's responses is incomplete, or if none was parsable
for a larger share of its examples."""


@dataclass(frozen=True, slots=True)
class IncompleteResponses:
    """Responses of a subtask that were cut off, at `max_tokens` or by a filter, hold no answer, or were not parsable.

    Attributes:
        subtask: Name of the subtask.
        cut_off: Number of responses that were cut off.
        responses: Number of all responses.
        max_tokens: The subtask's setting; None if its program chooses it.
        only_thought: Number of responses that hold only a thought; one may be cut off too.
        models: The models whose responses they are, the most frequent first.
        of_best: Of the best candidate's responses, the number of incomplete ones and of all; None if there is no best
            one. Results of older versions do not have `models` and `of_best`.
        filtered: Number of responses that the provider's content filter cut off.
        unparsed: Of the best candidate's examples, or of all if there is no best one, the number of those without a
            parsable response and of all; None if at most a tenth has none.
        reason: Why the first of them has none.
    """

    subtask: str
    cut_off: int
    responses: int
    max_tokens: int | None
    only_thought: int = 0
    models: tuple[str, ...] = ()
    of_best: tuple[int, int] | None = None
    filtered: int = 0
    unparsed: tuple[int, int] | None = None
    reason: str = ""

    @property
    def is_harmless(self) -> bool:
        """Whether at most a tenth of the best candidate's responses is incomplete or not parsable."""
        is_complete = self.of_best is not None and self.of_best[0] <= HARMLESS_SHARE * self.of_best[1]
        return is_complete and self.unparsed is None

    @property
    def is_unusable(self) -> bool:
        """Whether more than half of the examples have no parsable response."""
        return self.unparsed is not None and self.unparsed[0] > UNUSABLE_SHARE * self.unparsed[1]

    def __str__(self) -> str:
        limit, now = ("", "") if self.max_tokens is None else (f" {self.max_tokens}", f" (now {self.max_tokens})")
        of = f"of {counted(self.responses, 'response')}"
        cut = f"{self.cut_off} {of} were cut off at max_tokens{limit}"
        thought = f"{self.only_thought} {of} hold only a thought: raise max_tokens{now} or lower reasoning_effort"
        by_filter = f"{self.filtered} {of} were cut off by the provider's content filter"
        counts = ((self.cut_off, cut), (self.filtered, by_filter), (self.only_thought, thought))
        found = [text for count, text in counts if count]
        by = f" ({', '.join(self.models)})" if self.models else ""
        count, responses = self.of_best or (0, 0)
        of_best = f"; of the best candidate's {responses}, {count or 'none'}" if responses else ""
        parts = [f"{'; '.join(found)}{by}{of_best}"] if found else []
        if self.unparsed:
            whose = "the best candidate's " if self.of_best else ""
            count, of = self.unparsed[0], f"{whose}{counted(self.unparsed[1], 'example')}"
            parts.append(f"no response could be parsed for {count} of {of}, such as: {self.reason}")
        return f"{self.subtask}: {'; '.join(parts)}"


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


def incomplete_responses(
    task: Task, evaluations: Iterable[tuple[Candidate, Evaluation]], best: Candidate | None = None
) -> tuple[IncompleteResponses, ...]:
    """The subtasks with responses that were cut off, hold only a thought or could not be parsed.

    Args:
        task: The task.
        evaluations: Each with its candidate.
        best: The best candidate of a run.
    """
    evaluations = list(evaluations)
    chosen = [evaluation for candidate, evaluation in evaluations if best in (None, candidate)]
    found = []
    for subtask in task.subtasks:
        total, by_model, of_best = SubtaskUse(), Counter[str](), (0, 0)
        for candidate, evaluation in evaluations:
            total += _total(subtask.name, evaluation)
            count = sum(map(_incomplete, _uses(subtask.name, evaluation))) if _incomplete(total) else 0
            by_model[candidate[subtask.name].model] += count
            if candidate == best:
                of_best = (of_best[0] + count, of_best[1] + int(evaluation.total("responses", subtask.name)))
        unparsed, reason = _unparsed(subtask.name, chosen)
        if _incomplete(total) or unparsed:
            models = tuple(model for model, count in by_model.most_common() if count)
            limit, shown = _max_tokens(task, subtask.name), of_best if best else None
            counts = (total.cut_off, total.responses, limit, total.only_thought)
            found.append(IncompleteResponses(subtask.name, *counts, models, shown, total.filtered, unparsed, reason))
    return tuple(found)


def _total(subtask: str, evaluation: Evaluation) -> SubtaskUse:
    """The counts of a subtask's responses, over all examples."""
    counts = ("responses", "cut_off", "only_thought", "filtered")
    return SubtaskUse(**{name: int(evaluation.total(name, subtask)) for name in counts})


def _uses(subtask: str, evaluation: Evaluation) -> Iterator[SubtaskUse]:
    return (result.subtasks[subtask] for result in evaluation.results if subtask in result.subtasks)


def _unparsed(subtask: str, evaluations: Sequence[Evaluation]) -> tuple[tuple[int, int] | None, str]:
    """The examples of which no response was parsable and all that were called, and why the first has none."""
    if not any(subtask in unparsed_subtasks(evaluation.results) for evaluation in evaluations):
        return None, ""
    called, count, first = 0, 0, ""
    for result in (r for evaluation in evaluations for r in evaluation.results if subtask in r.subtasks):
        reason = _reason(subtask, result)
        called, count, first = called + 1, count + bool(reason), first or reason or ""
    return ((count, called), first) if count > HARMLESS_SHARE * called else (None, "")


def _reason(subtask: str, result: ExampleResult) -> str | None:
    """Why no response was parsable; None if one was, or if all were incomplete, which is counted as that."""
    use = result.subtasks.get(subtask, SubtaskUse())
    if subtask not in result.unparsed or _incomplete(use) >= use.responses:
        return None
    return result.unparsed[subtask].removeprefix(f"{subtask}: ")


def left_out(evaluations: Iterable[Evaluation]) -> tuple[LeftOut, ...]:
    """The examples that any of the evaluations left out, each once."""
    found = {
        (evaluation.split, example): LeftOut(evaluation.split, example, failure.kind, failure.reason)
        for evaluation in evaluations
        for example, failure in evaluation.left_out.items()
    }
    return tuple(found.values())


def left_out_notes(found: Iterable[LeftOut]) -> list[str]:
    """A sentence for each split and reason, which names the examples."""
    named: dict[tuple[str, str], list[str]] = {}
    for one in found:
        named.setdefault((one.split, f"{one.kind}: {one.reason}"), []).append(one.example)
    return [
        f"{split} {f'example {in_words(ids)} was' if len(ids) == 1 else f'examples {in_words(ids)} were'} "
        f"left out of every comparison: {reason}"
        for (split, reason), ids in named.items()
    ]


def failure_reasons(evaluations: Iterable[Evaluation]) -> dict[str, int]:
    """Number of examples with a failed call, by kind and the provider's words; the most frequent first."""
    reasons = Counter(
        f"{failure.kind}: {failure.reason}" for evaluation in evaluations for failure in evaluation.failures.values()
    )
    return dict(reasons.most_common())


def _incomplete(use: SubtaskUse) -> int:
    """Number of incomplete responses: one that is cut off may hold only a thought."""
    return max(use.cut_off + use.filtered, use.only_thought)


def _max_tokens(task: Task, subtask: str) -> int | None:
    found = task[subtask]
    varies = "max_tokens" in found.left_to_program or any(axis.name == "max_tokens" for axis in found.settings)
    return None if varies else found.max_tokens


@dataclass
class IncompleteWarnings:
    """An observer that warns once for each subtask if more than a quarter of its responses is incomplete, and once if
    more than a quarter of its examples has no parsable response.

    The share is tested after each example, so its 95% interval has to lie above a quarter.

    Attributes:
        task: The task.
        observer: Receives every event, and the warnings.
    """

    task: Task
    observer: Observer
    _uses: dict[str, SubtaskUse] = field(default_factory=dict)
    _examples: Counter[str] = field(default_factory=Counter)
    _reasons: dict[str, list[str]] = field(default_factory=dict)
    _warned: set[str] = field(default_factory=set)
    _warned_of_unparsed: set[str] = field(default_factory=set)

    def __call__(self, event: Event) -> None:
        self.observer(event)
        if isinstance(event, ExampleDone):
            for name, use in event.result.subtasks.items():
                self._uses[name] = self._uses.get(name, SubtaskUse()) + use
                if name not in self._warned:
                    self._warn(name, self._uses[name])
            self._examples.update(event.result.subtasks.keys())
            for name in event.result.unparsed:
                if reason := _reason(name, event.result):
                    self._reasons.setdefault(name, []).append(reason)
                    self._warn_of_unparsed(name, self._reasons[name])

    def _warn(self, name: str, use: SubtaskUse) -> None:
        count = _incomplete(use)
        if count and proportion_ends(count, use.responses)[0] > NOTICED_SHARE:
            self._warned.add(name)
            limit = _max_tokens(self.task, name)
            counts = (use.cut_off, use.responses, limit, use.only_thought, use.filtered)
            self.observer(ResponsesIncomplete(name, *counts))

    def _warn_of_unparsed(self, name: str, reasons: list[str]) -> None:
        is_new = name not in self._warned_of_unparsed
        if is_new and proportion_ends(len(reasons), self._examples[name])[0] > NOTICED_SHARE:
            self._warned_of_unparsed.add(name)
            self.observer(ResponsesUnparsed(name, len(reasons), self._examples[name], reasons[0]))
