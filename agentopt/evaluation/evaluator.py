"""A candidate becomes an `Evaluation`. The only place where an example's failure becomes data."""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import Callable, Mapping, Sequence

from agentopt.core.candidate import Candidate
from agentopt.core.errors import BudgetExceeded, CandidateError, ModelError, ScorerError, TaskError
from agentopt.core.records import Answer, Evaluation, ExampleResult, Score, Split, SubtaskUse, TrialState
from agentopt.core.task import Example, Metric, Scorer, Subtask, Task, Value
from agentopt.evaluation.scorers import Judge, python
from agentopt.models.base import ChatModel
from agentopt.models.catalog import ModelSpec
from agentopt.models.redaction import secrets_of
from agentopt.workflow.graph import Prompt, WorkflowResult, run_workflow
from agentopt.workflow.program.program_run import PREFIX
from agentopt.workflow.program.runner import ProgramRunner
from agentopt.workflow.sampling import Scaling

StopTest = Callable[[Mapping[str, float]], bool]
"""Given the scores so far by example id, whether going on is pointless."""

OnResult = Callable[[ExampleResult], None]

OnAnswer = Callable[[str, str, Answer], None]
"""Told a subtask's name, its user message and its answer."""

MOST_REPEATS = 1000
"""Independent repeats of one question; a program that asks the same again is given those after them."""


class Evaluator:
    """Runs candidates on the splits of one task, through one model.

    `seed` fixes the order of the examples, the same for every candidate, so that trials that were stopped early
    share their examples. `looks` is how often a stop test may look at a trial before its end.
    """

    def __init__(
        self,
        task: Task,
        model: ChatModel,
        specs: Mapping[str, ModelSpec],
        *,
        seed: int = 0,
        looks: int = 4,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.task, self.looks = task, looks
        self._scaling = Scaling(model, specs, task.unit, seed)
        self._scorer = _bound(task.scorer, model)
        secrets = secrets_of(specs.values())
        self._program = ProgramRunner(task, task.program, secrets=secrets) if task.program else None
        self._asked = False
        self._seed, self._clock = seed, clock

    async def evaluate(
        self,
        candidate: Candidate,
        split: Split = "validation",
        *,
        stop: StopTest | None = None,
        on_result: OnResult = lambda _: None,
    ) -> Evaluation:
        """Score the candidate on the split, in blocks, until `stop` says that it has lost.

        An example whose call or scorer failed for good has no score, and makes the evaluation incomplete. Raises
        `CandidateError` for a candidate of another task, `TaskError` for a program that has never asked a subtask,
        and `BudgetExceeded` (with what was evaluated as its `partial`) when a cap is reached.
        """
        check_candidate(candidate, self.task)
        started, examples = self._clock(), self._ordered(split)
        results: list[ExampleResult] = []
        pruned = False

        def so_far(state: TrialState) -> Evaluation:
            return Evaluation(split, len(examples), tuple(results), state, self._clock() - started)

        for block in _blocks(examples, self.looks if stop else 1):
            try:
                await self._run_block(candidate, block, results, on_result)
            except BudgetExceeded as error:
                error.partial = so_far("incomplete")
                raise
            scores = {r.id: r.score for r in results if r.score is not None}
            if stop and len(results) < len(examples) and stop(scores):
                pruned = True
                break
        self._check_asked(results)
        if pruned:
            return so_far("pruned")
        return so_far("incomplete" if any(r.error for r in results) else "complete")

    async def run_example(
        self,
        candidate: Candidate,
        example: Example,
        *,
        repeats: Mapping[str, int] | None = None,
        on_answer: OnAnswer = lambda *_: None,
    ) -> ExampleResult:
        """One example through the workflow and the scorer, with failures as data.

        `repeats` says of a subtask which of its independent repeats to draw (0, the first, unless given): that is how
        the noise of responses is measured. `on_answer` is told every subtask's user message and answer.
        Raises `BudgetExceeded`: that is the end of the run, not a property of the example.
        """

        async def ask(subtask: Subtask, prompt: Prompt, of: Example, *, occurrence: int = 0) -> Answer:
            self._asked = True
            repeat = (repeats or {}).get(subtask.name, 0) + MOST_REPEATS * occurrence
            answer = await self._scaling.answer(subtask, candidate[subtask.name], prompt, of, repeat=repeat)
            on_answer(subtask.name, prompt if isinstance(prompt, str) else prompt[-1].content, answer)
            return answer

        uses: Mapping[str, SubtaskUse] = {}
        try:
            run = self._program.run(example, ask) if self._program else run_workflow(self.task, example, ask)
            outcome = await run
            uses = outcome.uses
            score = await judged(self._scorer, example, outcome.output)
            metrics = await self._metrics(example, outcome)
        except (ModelError, ScorerError) as error:
            return ExampleResult(example.id, None, error=str(error), subtasks=uses)
        feedback = outcome.note or score.feedback
        return ExampleResult(example.id, score.value, _shown(outcome.output), feedback, subtasks=uses, metrics=metrics)

    def _check_asked(self, results: Sequence[ExampleResult]) -> None:
        """Raise `TaskError` where the program has answered, but asked nothing so far: no candidate makes a difference.

        An example may well be answered without a question; all of them are only where the questions go elsewhere.
        """
        answered = [result for result in results if result.score is not None]
        if self._program and answered and not self._asked:
            raise TaskError(
                f"{answered[0].feedback}; so it was on every example that it answered ({len(answered)})",
                where=f"task {self.task.name}, program",
                remedy="send its calls to OPENAI_BASE_URL, or to the endpoint that its function is given, with the "
                f"models {', '.join(PREFIX + subtask.name for subtask in self.task.subtasks)}",
            )

    async def _metrics(self, example: Example, outcome: WorkflowResult) -> dict[str, float]:
        return {name: await _measured(metric, example, outcome) for name, metric in self.task.metrics.items()}

    async def _run_block(
        self,
        candidate: Candidate,
        block: Sequence[Example],
        results: list[ExampleResult],
        on_result: OnResult,
    ) -> None:
        """Run the block's examples at once; those that finished are kept also when the budget cuts the rest."""

        async def run(example: Example) -> ExampleResult:
            result = await self.run_example(candidate, example)
            on_result(result)
            return result

        outcomes = await asyncio.gather(*(run(example) for example in block), return_exceptions=True)
        results.extend(o for o in outcomes if isinstance(o, ExampleResult))
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def _ordered(self, split: Split) -> list[Example]:
        examples = list(self.task.splits.get(split, ()))
        random.Random(f"{self._seed}:{split}").shuffle(examples)
        return examples


async def judged(scorer: Scorer, example: Example, output: Value | None) -> Score:
    """What the scorer, plain or async, says of the output. Raises `ScorerError`, and a judge `ModelError`."""
    score = scorer(example, output)
    return await score if inspect.isawaitable(score) else score


async def _measured(metric: Metric, example: Example, outcome: WorkflowResult) -> float:
    output = outcome.outputs.get(metric.subtask)
    return 0.0 if output is None else (await judged(python(metric.scorer), example, output)).value


def check_candidate(candidate: Candidate, task: Task) -> None:
    """Raise `CandidateError` unless the candidate has a choice for every subtask, of a model the task allows."""
    wanted = [s.name for s in task.subtasks]
    if sorted(candidate) != sorted(wanted):
        raise CandidateError(
            f"a candidate names every subtask of task {task.name} ({', '.join(wanted)}), but got "
            f"{', '.join(candidate) or 'none'}",
            remedy="use a best.yaml that a run of this task wrote",
        )
    for subtask in task.subtasks:
        if candidate[subtask.name].model not in subtask.models:
            raise CandidateError(
                f"subtask {subtask.name} may use {', '.join(subtask.models)}, but the candidate says "
                f"{candidate[subtask.name].model}",
                remedy=f"choose one of them, or add the model to {subtask.name}.models in the task file",
            )


def _blocks(examples: list[Example], count: int) -> list[list[Example]]:
    """At most `count` blocks of nearly equal size, in order."""
    size = max(1, -(-len(examples) // count))
    return [examples[i : i + size] for i in range(0, len(examples), size)]


def _bound(scorer: Scorer, model: ChatModel) -> Scorer:
    """The scorer, ready to use: a judge with its model, any other with what it raises and returns checked."""
    return scorer.using(model) if isinstance(scorer, Judge) else python(scorer)


def _shown(output: object) -> str:
    return "" if output is None else str(output)
