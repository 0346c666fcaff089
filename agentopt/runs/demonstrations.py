"""Bootstraps the demonstrations of a run: responses of the baseline to train examples that it answers right."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from pydantic import TypeAdapter

from agentopt.core.candidate import Candidate
from agentopt.core.demos import Demo
from agentopt.core.errors import ConfigError
from agentopt.core.events import Note, Observer
from agentopt.core.files import write_atomically
from agentopt.core.phrases import counted
from agentopt.core.records import ExampleResult
from agentopt.core.task import Example, Subtask, Task
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.base import ChatModel, Request, Response
from agentopt.models.session import Session
from agentopt.runs.config import Config
from agentopt.runs.folder import RunFolder
from agentopt.workflow.base import SubtaskAnswer

TRIED = 10
"""Most train examples that are run for each demonstration wanted."""

Found = Mapping[str, tuple[Demo, ...]]
"""Subtask -> its demonstrations; of every subtask with `demos`."""

_found = TypeAdapter(dict[str, tuple[Demo, ...]])
"""What a run's file holds, without the ids of the examples."""


def examples_to_try(task: Task, seed: int) -> list[Example]:
    """The train examples that may be run, in a seeded order: at most `TRIED` for each demonstration.

    Args:
        task: The task.
        seed: Seeds the order.
    """
    examples = list(task.splits.get("train", ()))
    random.Random(f"{seed}:demos").shuffle(examples)
    return examples[: TRIED * max((subtask.demos.count[-1] for subtask in task.subtasks if subtask.demos), default=0)]


def check_train(task: Task) -> None:
    """Raise `ConfigError` if the task has `demos`, but no train split.

    Args:
        task: The task.
    """
    named = [subtask.name for subtask in task.subtasks if subtask.demos]
    if named and not task.splits.get("train"):
        rule = f"`demos` of subtask {named[0]} needs train examples, but the task has none"
        raise ConfigError(rule, where=f"task {task.name}", remedy="add data.train, or remove `demos`")


def demonstrations_of(run: RunFolder) -> Found:
    """The demonstrations that a run has bootstrapped; none before it has.

    Args:
        run: The run.
    """
    return _found.validate_json(run.demos.read_bytes()) if run.demos.is_file() else {}


def not_shown(run: RunFolder, candidate: Candidate, train: Sequence[Example]) -> tuple[Example, ...]:
    """The train examples whose inputs a candidate does not show as a demonstration.

    Files of runs before the ids were kept have none, so that all examples are returned.

    Args:
        run: The run that bootstrapped the demonstrations.
        candidate: The candidate.
        train: The train examples.
    """
    kept = json.loads(run.demos.read_bytes()) if run.demos.is_file() else {}
    ids = {
        demo["example"]
        for name, demos in kept.items()
        for demo in demos
        if "example" in demo and Demo(demo["prompt"], demo["response"]) in candidate[name].demos
    }
    shown = [example.inputs for example in train if example.id in ids]
    return tuple(example for example in train if example.inputs not in shown)


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
            yield (
                f"subtask {subtask.name}: the baseline answered {counted(there, 'train example')} right (score of at "
                f"least {subtask.demos.min_score:g}), so of `demos` only {left} can be tried"
            )


@dataclass(frozen=True)
class Bootstrap:
    """Finds demonstrations, and keeps them in the run's folder.

    Attributes:
        task: The task.
        config: The settings of the run, of which `seed` gives the order of the examples.
        session: The models, whose calls have the purpose `demos`.
        run: The run's folder.
        observer: Receives a note if there are fewer right answers than wanted.
    """

    task: Task
    config: Config
    session: Session
    run: RunFolder
    observer: Observer

    async def demonstrations(self, baseline: Candidate) -> Found:
        """The run's demonstrations: those in its folder, or else of the baseline's first right answers.

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
            plain = {name: [{**asdict(demo), "example": of} for of, demo in demos] for name, demos in found.items()}
            write_atomically(self.run.demos, json.dumps(plain, ensure_ascii=False, indent=1))
        kept = demonstrations_of(self.run)
        for note in demo_notes(self.task, kept):
            self.observer(Note(note))
        return kept

    async def _found(self, baseline: Candidate, wanted: Sequence[Subtask]) -> dict[str, list[tuple[str, Demo]]]:
        """Subtask -> its demonstrations, each with the id of its example.

        As many examples are run at a time as demonstrations are missing, so that few are run for nothing.
        """
        found: dict[str, list[tuple[str, Demo]]] = {subtask.name: [] for subtask in wanted}
        evaluator = Evaluator(
            self.task,
            _ForDemos(self.session.model),
            self.session.specs,
            seed=self.config.response_seed,
            failed_examples=self.config.failed_examples,
        )
        left = examples_to_try(self.task, self.config.seed)
        while left and (missing := max(_missing(subtask, found) for subtask in wanted)):
            block, left = left[:missing], left[missing:]
            for result, answers in await _run(evaluator, baseline, block):
                for subtask in wanted:
                    if _missing(subtask, found) and (demo := _demo(subtask, result, answers)):
                        found[subtask.name].append((result.id, demo))
        return found


def _missing(subtask: Subtask, found: Mapping[str, Sequence[tuple[str, Demo]]]) -> int:
    return subtask.demos.count[-1] - len(found[subtask.name]) if subtask.demos else 0


def _demo(subtask: Subtask, result: ExampleResult, answers: Mapping[str, SubtaskAnswer]) -> Demo | None:
    """The demonstration that an example gives; None if its score is too low."""
    answered = answers.get(subtask.name)
    if not subtask.demos or answered is None or result.score is None or result.score < subtask.demos.min_score:
        return None
    return Demo(answered.user_message, answered.answer.text) if answered.answer.text else None


async def _run(
    evaluator: Evaluator, candidate: Candidate, examples: Sequence[Example]
) -> list[tuple[ExampleResult, dict[str, SubtaskAnswer]]]:
    """The result and the answers of each example; a cap ends them all, once no call is in flight."""

    async def one(example: Example) -> tuple[ExampleResult, dict[str, SubtaskAnswer]]:
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
class _ForDemos:
    """A `ChatModel` whose samples and fusions have the purpose `demos`."""

    model: ChatModel

    async def generate(self, request: Request) -> Response:
        of_workflow = request.purpose in ("samples", "fusion")
        return await self.model.generate(replace(request, purpose="demos") if of_workflow else request)

    async def aclose(self) -> None:
        """Nothing to close: the session owns the model."""
