"""Finds the demonstrations of a run: the baseline's right responses to train examples, and targets."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from agentopt.core.candidate import Candidate
from agentopt.core.demos import Demo, Demos, DemosFrom, shows_targets
from agentopt.core.errors import ConfigError
from agentopt.core.events import Note, Observer
from agentopt.core.files import own_file, write_atomically
from agentopt.core.message_text import counted, in_words
from agentopt.core.records import ExampleResult
from agentopt.core.task import Example, Subtask, Task
from agentopt.core.ties import is_higher
from agentopt.evaluation.evaluator import Evaluator
from agentopt.evaluation.outputs import as_text
from agentopt.models.base import ChatModel, Choice, Request, Response, reject
from agentopt.models.session import Session
from agentopt.runs.config import Config
from agentopt.runs.folder import RunFolder
from agentopt.search.base import BYTES_PER_TOKEN
from agentopt.workflow.base import SubtaskAnswer

TRIED = 10
"""Most train examples that are run for each demonstration wanted."""

Found = Mapping[str, tuple[Demo, ...]]
"""Subtask -> its demonstrations; of every subtask with `demos`."""

_found = TypeAdapter(dict[str, tuple[Demo, ...]])

REASONING = 100
"""A response that is so many characters longer than the target is taken to reason, which the target does not show."""


def examples_to_try(task: Task, seed: int) -> list[Example]:
    """The train examples that may be shown, in a seeded order: at most `TRIED` for each demonstration.

    Each group counts once, and those with a row in another split are left out: their answers would be shown to it.

    Args:
        task: The task.
        seed: Seeds the order.
    """
    examples = list(task.splits.get("train", ()))
    random.Random(f"{seed}:demos").shuffle(examples)
    taken = {key for split, rows in task.splits.items() if split != "train" for row in rows for key in row.same_as}
    most = TRIED * max((subtask.demos.count[-1] for subtask in task.subtasks if subtask.demos), default=0)
    found: list[Example] = []
    for example in examples:
        if len(found) < most and taken.isdisjoint(example.same_as):
            found.append(example)
            taken.update(example.same_as)
    return found


def runs_baseline(task: Task, subtask: Subtask) -> bool:
    """Whether the demonstrations of a subtask need responses of the baseline.

    Args:
        task: The task.
        subtask: One of its subtasks.
    """
    targets = shows_targets(subtask, task.output_subtask)
    return subtask.demos is not None and not (targets and subtask.demos.source == "targets")


def check_train(task: Task) -> None:
    """Raise `ConfigError` if the task has `demos`, but fewer train examples than one of its counts.

    Args:
        task: The task.
    """
    where, rows = f"task {task.name}", len(task.splits.get("train", ()))
    for subtask in (subtask for subtask in task.subtasks if subtask.demos):
        if not rows:
            rule = f"`demos` of subtask {subtask.name} needs train examples, but the task has none"
            raise ConfigError(rule, where=where, remedy="add data.train, or remove `demos`")
        if subtask.demos and (most := subtask.demos.count[-1]) > rows:
            rule = f"`demos` of subtask {subtask.name} has a count of {most:,}, but there are {rows:,} train examples"
            raise ConfigError(rule, where=where, remedy="add rows to the train split, or leave the count out")


def demonstrations_of(run: RunFolder) -> Found:
    """The demonstrations that a run has bootstrapped; none before it has.

    Args:
        run: The run.
    """
    if not run.demos.is_file():
        return {}
    with own_file(run.demos, f"remove the file; `{run.resuming}` finds the demonstrations again, from the journal"):
        return _found.validate_json(run.demos.read_bytes())


def not_shown(candidate: Candidate, train: Sequence[Example]) -> tuple[Example, ...]:
    """The train examples whose inputs a candidate does not show as a demonstration.

    Args:
        candidate: The candidate.
        train: The train examples.
    """
    ids = {demo.example for choice in candidate.values() for demo in choice.demos}
    shown = [example.inputs for example in train if example.id in ids]
    return tuple(example for example in train if example.inputs not in shown)


def unknown_examples(candidate: Candidate) -> str | None:
    """The note that `not_shown` cannot know all that a candidate shows; None if it can.

    Args:
        candidate: The candidate.
    """
    unknown = sum(demo.example is None for choice in candidate.values() for demo in choice.demos)
    if not unknown:
        return None
    return (
        f"{counted(unknown, 'demonstration')} of the candidate {'is' if unknown == 1 else 'are'} without the id of the "
        "train example, so rewards may be drawn on rows that it shows; add `example: ID` to each in its file, or use a "
        "candidate of a new run"
    )


def demo_notes(task: Task, found: Found) -> Iterator[str]:
    """Yield a sentence for each subtask with fewer demonstrations than it wants.

    Args:
        task: The task.
        found: The demonstrations.
    """
    for subtask in task.subtasks:
        if subtask.demos and subtask.name in found and len(found[subtask.name]) < subtask.demos.count[-1]:
            there = len(found[subtask.name])
            left = ", ".join(str(count) for count in subtask.demos.count if count <= there)
            elsewhere, splits = _in_other_splits(task)
            if elsewhere == len(task.splits.get("train", ())):
                rule = f"every train example has the inputs or the group of a row of the {splits}"
                yield f"subtask {subtask.name}: {rule}, so none is shown; add train examples with other inputs"
                continue
            targets = shows_targets(subtask, task.output_subtask)
            right = _RIGHT[subtask.demos.source if targets else "responses"].format(subtask.demos.min_score)
            yield (
                f"subtask {subtask.name}: {counted(there, 'train example')} had {right}, so of `demos` only {left} can "
                "be tried"
                + (
                    f"; {counted(elsewhere, 'train example')} cannot be shown: also in the {splits}"
                    if elsewhere
                    else ""
                )
            )


def _in_other_splits(task: Task) -> tuple[int, str]:
    """Number of train examples that have the inputs or the group of a row of another split, and those splits."""
    keys = {split: {key for row in rows for key in row.same_as} for split, rows in task.splits.items()}
    train = keys.pop("train", set())
    taken = set[tuple[str, str]]().union(*keys.values())
    count = sum(not taken.isdisjoint(row.same_as) for row in task.splits.get("train", ()))
    names = [split for split, own in keys.items() if not own.isdisjoint(train)]
    return count, f"{in_words(names)} split{'s' if len(names) > 1 else ''}"


_RIGHT: Mapping[DemosFrom, str] = {
    "responses": "a right response of the baseline (score of at least {:g})",
    "targets": "a target that is scored as a right response",
    "both": "a right response of the baseline (score of at least {:g}) or a target that is scored as one",
}


@dataclass(frozen=True)
class Bootstrap:
    """Finds demonstrations, and keeps them in the run's folder.

    Attributes:
        task: The task.
        config: The settings of the run, of which `seed` gives the order of the examples.
        session: The models, whose calls have the purpose `demos`.
        run: The run's folder.
        observer: Receives a note if there are fewer than wanted.
    """

    task: Task
    config: Config
    session: Session
    run: RunFolder
    observer: Observer

    async def demonstrations(self, baseline: Candidate) -> Found:
        """The run's demonstrations: those in its folder, or else of the first train examples with a right answer.

        Args:
            baseline: The candidate that answers.

        Raises:
            BudgetExceeded: A cap is reached. The answers so far are in the journal.
            CallsFailError: Every further call to a model would fail.
        """
        wanted = [subtask for subtask in self.task.subtasks if subtask.demos]
        if not wanted:
            return {}
        if not self.run.demos.is_file():
            found = await self._found(baseline, wanted)
            plain = {name: [demo.to_dict() for demo in demos] for name, demos in found.items()}
            write_atomically(self.run.demos, json.dumps(plain, ensure_ascii=False, indent=1))
        kept = demonstrations_of(self.run)
        for note in demo_notes(self.task, kept):
            self.observer(Note(note))
        return kept

    async def _found(self, baseline: Candidate, wanted: Sequence[Subtask]) -> dict[str, list[Demo]]:
        """Subtask -> its demonstrations.

        As many examples are run at a time as demonstrations are missing, so that few are run for nothing.
        """
        found: dict[str, list[Demo]] = {subtask.name: [] for subtask in wanted}
        evaluator, left = self._evaluator(self.task, _ForDemos(self.session.model)), self._examples()
        while left and (missing := max(_missing(subtask, found) for subtask in wanted)):
            block, left = left[:missing], left[missing:]
            short = [subtask for subtask in wanted if _missing(subtask, found)]
            ran: Sequence[_Ran] = [(None, {})] * len(block)
            if any(runs_baseline(self.task, subtask) for subtask in short):
                ran = await _run(evaluator, baseline, block)
            for example, (result, answers) in zip(block, ran, strict=True):
                for subtask in short:
                    answered = answers.get(subtask.name)
                    if _missing(subtask, found) and (demo := await self._demo(subtask, example, result, answered)):
                        found[subtask.name].append(demo)
        return found

    def _examples(self) -> list[Example]:
        return examples_to_try(self.task, self.config.seed)

    def _evaluator(self, task: Task, model: ChatModel) -> Evaluator:
        config = self.config
        return Evaluator(
            task, model, self.session.specs, seed=config.response_seed, failed_examples=config.failed_examples
        )

    async def _demo(
        self, subtask: Subtask, example: Example, result: ExampleResult | None, answered: SubtaskAnswer | None
    ) -> Demo | None:
        """The demonstration that an example gives to a subtask; None if it gives none."""
        demos = subtask.demos
        assert demos is not None
        text = answered.answer.text if answered else ""
        if answered and text and runs_baseline(self.task, subtask) and _is_right(result, demos.min_score):
            return Demo(answered.user_message, text, example.id)
        if not shows_targets(subtask, self.task.output_subtask):
            return None
        for target in target_texts(example):
            reasons = demos.source == "both" and len(text) >= len(target) + REASONING
            if not reasons and (demo := await self._of_target(subtask, demos, example, target)):
                return demo
        return None

    async def _of_target(self, subtask: Subtask, demos: Demos, example: Example, target: str) -> Demo | None:
        """A target as a demonstration, if the subtask could respond so and the response has the full score."""
        too_long = len(target.encode()) > BYTES_PER_TOKEN * subtask.max_tokens
        if too_long or any(stop in target for stop in subtask.stop):
            return None
        alone = replace(self.task, subtasks=(subtask,), metrics={}, splits={"train": (example,)})
        evaluator = self._evaluator(alone, _Answering(target, self.session.model))
        ((result, answers),) = await _run(evaluator, alone.baseline, [example])
        return (
            Demo(answers[subtask.name].user_message, target, example.id)
            if _is_right(result, max(1.0, demos.min_score))
            else None
        )


def target_texts(example: Example) -> Iterator[str]:
    """Yield the target as the text of a response; of several acceptable answers, the first one before all of them.

    A text is yielded as it is, anything else as JSON, and a truth value or an empty text not at all.

    Args:
        example: The example.
    """
    target = example.target
    first = target[:1] if isinstance(target, list | tuple) else ()
    for value in (*first, target):
        if value is not None and not isinstance(value, bool) and (text := as_text(value).strip()):
            yield text


def _missing(subtask: Subtask, found: Mapping[str, Sequence[Demo]]) -> int:
    return subtask.demos.count[-1] - len(found[subtask.name]) if subtask.demos else 0


def _is_right(result: ExampleResult | None, least: float) -> bool:
    return result is not None and result.score is not None and not is_higher(least, result.score)


_Ran = tuple[ExampleResult | None, dict[str, SubtaskAnswer]]


async def _run(evaluator: Evaluator, candidate: Candidate, examples: Sequence[Example]) -> list[_Ran]:
    """The result and the answers of each example; a cap ends them all, once no call is in flight."""

    async def one(example: Example) -> _Ran:
        answers: dict[str, SubtaskAnswer] = {}
        result = await evaluator.run_example(
            candidate, example, on_answer=lambda answered: answers.update({answered.subtask: answered})
        )
        return result, answers

    outcomes = await asyncio.gather(*map(one, examples), return_exceptions=True)
    if failures := [outcome for outcome in outcomes if isinstance(outcome, BaseException)]:
        raise failures[0]
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]


@dataclass(frozen=True, slots=True)
class _Answering:
    """A `ChatModel` whose samples and fusions are one text, without a call."""

    text: str
    model: ChatModel

    async def generate(self, request: Request) -> Response:
        if request.purpose not in ("samples", "fusion"):
            return await self.model.generate(request)
        return Response((Choice(self.text, 0),) * request.n, 0)

    async def reject(self, request: Request) -> None:
        """Mark the responses to a judge's request as unusable."""
        await reject(self.model, request)

    async def aclose(self) -> None:
        """Nothing to close: the session owns the model."""


@dataclass(frozen=True, slots=True)
class _ForDemos:
    """A `ChatModel` whose samples and fusions have the purpose `demos`."""

    model: ChatModel

    async def generate(self, request: Request) -> Response:
        of_workflow = request.purpose in ("samples", "fusion")
        return await self.model.generate(replace(request, purpose="demos") if of_workflow else request)

    async def reject(self, request: Request) -> None:
        """Mark the responses to a judge's request as unusable."""
        await reject(self.model, request)

    async def aclose(self) -> None:
        """Nothing to close: the session owns the model."""
