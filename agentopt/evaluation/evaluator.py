"""Evaluates candidates. Failures of examples become data here, and nowhere else."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from agentopt.core.candidate import Candidate
from agentopt.core.duplicates import Groups, by_group
from agentopt.core.errors import CallsFailError, EvaluationStopped, ModelError, ScorerError, TaskError
from agentopt.core.message_text import counted, failures_in_words
from agentopt.core.records import (
    EarlyStop,
    Evaluation,
    ExampleResult,
    FailedExamples,
    Failure,
    Score,
    Split,
    SubtaskUse,
    TrialState,
)
from agentopt.core.result_file import ResultFile, faulty
from agentopt.core.spans import span
from agentopt.core.stopping import StopTest
from agentopt.core.task import Example, Metric, Scorer, Task, Value
from agentopt.evaluation.candidate_check import checked_candidate
from agentopt.evaluation.judge import Judge
from agentopt.evaluation.scorers import python
from agentopt.evaluation.window import WINDOW, in_planned_order, run_in_window
from agentopt.models.base import ChatModel
from agentopt.models.catalog import ModelSpec
from agentopt.workflow.base import Draw, OnAnswer, WorkflowResult
from agentopt.workflow.chat_calls import PREFIX
from agentopt.workflow.graph import Workflow

Results = list[ExampleResult] | ResultFile
"""The results so far."""

OnResult = Callable[[ExampleResult], None]
"""Callback that receives every example's result."""

CANARY = 5
"""If the first examples of an evaluator, this many, all fail for one reason, nothing more is sent."""

WAVES = 4
"""Most parts that a split is evaluated in if its calls wait in batches."""

MOST_IN_MEMORY = 20_000
"""Each takes about a kB there."""

MOST_LEFT_OUT = 0.1
"""Largest share of a split's examples that may be left out; one may always be."""


@dataclass(frozen=True, slots=True)
class Block:
    """Examples that run concurrently.

    Attributes:
        split: Their split.
        examples: The examples, in the order of their results.
        repeat: Index of the independent repeat.
    """

    split: Split
    examples: Sequence[Example]
    repeat: int = 0


class Evaluator:
    """Evaluates candidates on the splits of one task.

    Args:
        task: The task.
        model: The client that all calls go through, those of a judge included.
        specs: Model name to spec.
        seed: Seed of the responses and of the order of the examples. The order is the same for every candidate, so
            that pruned trials share their examples.
        failed_examples: What becomes of an example whose call fails for a reason that lies in the example.
        clock: Seconds.
        judge_repeat: Index of the independent repeat of a judge's verdicts.
        in_waves: Whether calls wait in batches, so that early stopping is tested after each quarter of a split.
        most_in_memory: Results of an evaluation that are kept in memory; more are in a temporary file.
    """

    def __init__(
        self,
        task: Task,
        model: ChatModel,
        specs: Mapping[str, ModelSpec],
        *,
        seed: int = 0,
        failed_examples: FailedExamples = "leave_out",
        clock: Callable[[], float] = time.monotonic,
        judge_repeat: int = 0,
        in_waves: bool = False,
        most_in_memory: int = MOST_IN_MEMORY,
    ) -> None:
        self.task, self.seed = task, seed
        self._failed_examples, self._in_waves, self._has_answer = failed_examples, in_waves, False
        self._workflow = Workflow(task, model, specs)
        self._scorer = _bound(task.scorer, model, seed, judge_repeat)
        self._clock, self._most_in_memory = clock, most_in_memory
        self._window = max(WINDOW, 2 * sum(spec.concurrency for spec in specs.values()))

    @property
    def calls(self) -> int:
        """The number of subtask calls so far, whether they were answered or failed."""
        return self._workflow.calls

    async def evaluate(
        self,
        candidate: Candidate,
        split: Split = "validation",
        *,
        stop: StopTest | None = None,
        on_result: OnResult = lambda _: None,
    ) -> Evaluation:
        """Score a candidate on a split.

        An example whose call or scorer failed permanently has no score, and makes the evaluation incomplete; what
        becomes of a failure that lies in the example is up to `failed_examples`.

        Args:
            candidate: The candidate.
            split: The split.
            stop: Stops the evaluation, which is then pruned. An example starts only once no score of those before it
                can stop the evaluation, so the test is made in the planned order, whichever example finishes first
                (quick ones are no random sample), and nothing is running when it stops.
            on_result: Called after each example.

        Raises:
            CandidateError: If the candidate does not fit the task.
            TaskError: If the task's program has never called a subtask.
            BudgetExceeded: If a cap is reached; its `partial` is the evaluation so far.
            CallsFailError: If every further call to a model would fail, the first examples all fail for one reason, or
                too many examples are left out. It has a `partial` too.
        """
        candidate = checked_candidate(candidate, self.task)
        started, examples = self._clock(), self._ordered(split)
        results = self._results_of(len(examples))
        groups = self.task.groups.get(split, {})

        def so_far(state: TrialState, stopped: EarlyStop | None = None) -> Evaluation:
            return Evaluation(split, len(examples), _kept(results), state, self._clock() - started, groups, stopped)

        try:
            stopped = await self._run(candidate, Block(split, examples), results, groups, stop, on_result)
        except EvaluationStopped as error:
            error.partial = so_far("incomplete")
            raise
        self._check_called(results)
        if stopped:
            return so_far("pruned", stopped)
        return so_far("incomplete" if so_far("incomplete").errors else "complete")

    async def _run(
        self,
        candidate: Candidate,
        whole: Block,
        results: Results,
        groups: Groups,
        test: StopTest | None,
        on_result: OnResult,
    ) -> EarlyStop | None:
        """Run the examples in blocks, into `results`. Returns the reason if the test stops them."""
        examples = whole.examples
        while len(results) < len(examples):
            least = -(-len(examples) // WAVES) if self._in_waves else 0
            block = _needed(examples, results, groups, test, least)
            first = 0 if self._has_answer or self._in_waves else CANARY
            for part in filter(None, (block[:first], block[first:])):
                await self.run_block(candidate, replace(whole, examples=part), results, on_result)
                self._check_failures(results, len(examples))
            if test and len(results) < len(examples) and (stopped := test.stop(_scores(results, groups))):
                return stopped
        return None

    async def evaluate_repeatedly(
        self,
        candidate: Candidate,
        split: Split,
        repeats: int,
        *,
        on_result: OnResult = lambda _: None,
    ) -> Evaluation:
        """Score a candidate on a split by the mean over independent repeats, each with new responses.

        Args:
            candidate: The candidate.
            split: The split.
            repeats: Number of repeats; the first is that of `evaluate`.
            on_result: Called after each example of each repeat.

        Raises:
            CandidateError, TaskError, BudgetExceeded, CallsFailError: As `evaluate`.
        """
        started, first = self._clock(), await self.evaluate(candidate, split, on_result=on_result)
        results = self._results_of(first.planned * repeats, first.results)

        def so_far(state: TrialState) -> Evaluation:
            return replace(first, results=_kept(results), state=state, seconds=self._clock() - started)

        for repeat in range(1, repeats):
            before = len(results)
            try:
                await self.run_block(candidate, Block(split, self._ordered(split), repeat), results, on_result)
                self._check_failures(results[before:], first.planned)
            except EvaluationStopped as error:
                error.partial = so_far("incomplete")
                raise
        return so_far("incomplete" if so_far("incomplete").errors else "complete")

    async def run_example(
        self,
        candidate: Candidate,
        example: Example,
        draw: Draw | None = None,
        *,
        on_answer: OnAnswer = lambda _: None,
    ) -> ExampleResult:
        """Run one example and score it; failures become data.

        Args:
            candidate: The model, sample count and system prompt of every subtask.
            example: The example; only scorers read its target.
            draw: Which samples are drawn; by default repeat 0 with the evaluator's seed. Other repeats measure the
                noise of responses.
            on_answer: Called after each answered subtask call.

        Raises:
            BudgetExceeded: If a cap was reached, which ends the run and is no property of the example.
            CallsFailError: If every further call to a model would fail too, such as with a wrong key.
        """
        with span("example", lambda: {"agentopt.example.id": example.id}) as current:
            result = await self._scored(candidate, example, draw or Draw(self.seed), on_answer)
            current.set({"agentopt.score": result.score})
            if result.error:
                current.fail(result.failure.kind if result.failure else ScorerError.__name__)
            return result

    async def _scored(self, candidate: Candidate, example: Example, draw: Draw, on_answer: OnAnswer) -> ExampleResult:
        uses: Mapping[str, SubtaskUse] = {}
        try:
            result = await self._workflow.run(candidate, example, draw, on_answer=on_answer)
            uses = result.uses
            score = await judged(self._scorer, example, result.output)
            metrics = {name: await _measured(metric, example, result) for name, metric in self.task.metrics.items()}
        except (ModelError, ScorerError) as error:
            return self._failed(example, error, uses)
        return ExampleResult(
            example.id,
            score.value,
            "" if result.output is None else str(result.output),
            result.note or score.feedback,
            subtasks=uses,
            metrics=metrics,
            judgements=score.judgements,
            seconds=result.seconds,
            unparsed=result.unparsed,
        )

    def _failed(
        self, example: Example, error: ModelError | ScorerError, uses: Mapping[str, SubtaskUse]
    ) -> ExampleResult:
        if isinstance(error, ScorerError):
            return ExampleResult(example.id, None, error=str(error), subtasks=uses)
        if error.scope == "model":
            message = f"every further call to the model would fail: {error}"
            raise CallsFailError(message, remedy="fix the cause and start again, or use another model") from error
        failure = Failure(error.kind, error.scope, error.provider_message or str(error))
        policy = self._failed_examples if error.scope == "example" else "fail"
        if policy == "zero":
            return ExampleResult(example.id, 0.0, feedback=str(error), subtasks=uses, failure=failure)
        left_out = policy == "leave_out"
        return ExampleResult(example.id, None, error=str(error), subtasks=uses, failure=failure, left_out=left_out)

    def _check_failures(self, results: Sequence[ExampleResult], planned: int) -> None:
        """Raise `CallsFailError` if the first examples all failed for one reason, or too many are left out."""
        if not self._has_answer:
            failures = [result.failure for result in results]
            first = failures[0] if failures else None
            if first and len(failures) >= CANARY and all(f and f.kind == first.kind for f in failures):
                raise CallsFailError(
                    f"the first {len(failures)} examples all failed for one reason ({first.kind}), so no further call "
                    f"is made: {first.reason}",
                    remedy="fix the cause and start again",
                )
            self._has_answer = bool(results)
        left_out = [result for result in faulty(results) if result.left_out]
        if len(left_out) > max(1, MOST_LEFT_OUT * planned) or 0 < len(left_out) == planned:
            reasons = {r.id: r.failure.reason for r in left_out if r.failure}
            shown = "; ".join(failures_in_words(reasons, planned, "example")[:5])
            raise CallsFailError(
                f"{len(left_out)} of {counted(planned, 'example')} failed for a reason that lies in the example, and "
                f"at most {MOST_LEFT_OUT:.0%} may be left out ({shown})",
                remedy="remove these rows, use another model, or set failed_examples=zero to score them 0",
            )

    def _check_called(self, results: Sequence[ExampleResult]) -> None:
        """Raise `TaskError` if the program has never called a subtask, so that candidates make no difference.

        One example may be answered without a call; if all are, the calls go to another endpoint.
        """
        if not self.task.program or self.calls:
            return
        if answered := [result for result in results if result.score is not None]:
            raise TaskError(
                f"{answered[0].feedback}; no subtask was called on any example answered so far ({len(answered)})",
                where=f"task {self.task.name}, program",
                remedy="send its calls to OPENAI_BASE_URL, or to the endpoint that its function receives, with the "
                f"models {', '.join(PREFIX + subtask.name for subtask in self.task.subtasks)}",
            )

    async def run_block(self, candidate: Candidate, block: Block, results: Results, on_result: OnResult) -> None:
        """Run a block's examples; finished ones are kept if a cap or an error ends the others.

        Args:
            candidate: The candidate.
            block: The examples.
            results: Receives the results, in the order of the block.
            on_result: Called after each example.

        Raises:
            BudgetExceeded: A cap is reached. The examples that have begun end first, with what is left under the cap.
            CallsFailError: Every further call to a model would fail. After this or any other error, as of `on_result`,
                the other examples send nothing more; the model's client stores the responses of their calls in flight.
        """

        async def run(example: Example) -> ExampleResult:
            result = await self.run_example(candidate, example, Draw(self.seed, block.repeat))
            result = replace(result, repeat=block.repeat)
            on_result(result)
            return result

        # Calls that wait in batches are collected until nothing else runs.
        await run_in_window(block.examples, run, results, len(block.examples) if self._in_waves else self._window)

    def _results_of(self, count: int, results: Sequence[ExampleResult] = ()) -> Results:
        if isinstance(results, ResultFile):
            return results
        return list(results) if count <= self._most_in_memory else ResultFile(results)

    def _ordered(self, split: Split) -> Sequence[Example]:
        groups = self.task.groups.get(split, {})
        return in_planned_order(self.task.splits.get(split, ()), groups, f"{self.seed}:{split}")


def _kept(results: Results) -> tuple[ExampleResult, ...]:
    return cast(tuple[ExampleResult, ...], results) if isinstance(results, ResultFile) else tuple(results)


async def judged(scorer: Scorer, example: Example, output: Value | None) -> Score:
    """Score an output with a sync or async scorer.

    Args:
        scorer: The scorer.
        example: The example.
        output: The output; None if no response was parsable.

    Raises:
        ScorerError: If the scorer fails.
        ModelError: If a judge's call fails.
    """
    score = scorer(example, output)
    return await score if inspect.isawaitable(score) else score


async def _measured(metric: Metric, example: Example, result: WorkflowResult) -> float:
    output = result.outputs.get(metric.subtask)
    return 0.0 if output is None else (await judged(python(metric.scorer), example, output)).value


def _scores(results: Sequence[ExampleResult], groups: Groups) -> dict[str, float]:
    return by_group({result.id: result.score for result in results if result.score is not None}, groups)


def _needed(
    examples: Sequence[Example], results: Sequence[ExampleResult], groups: Groups, test: StopTest | None, least: int
) -> Sequence[Example]:
    """The next examples that run whatever their scores, or `least` if that is more; all that are left without a test.

    Both tests hold after any row, so a larger block only finds out later that a trial has lost.
    """
    left = examples[len(results) :]
    if test is None:
        return left
    units = list(dict.fromkeys(groups.get(example.id, example.id) for example in left))
    needed = set(units[: max(least, test.needed(_scores(results, groups), units))])
    return [example for example in left if groups.get(example.id, example.id) in needed]


def _bound(scorer: Scorer, model: ChatModel, seed: int, repeat: int) -> Scorer:
    """The scorer, ready to use: a judge with its model; any other with its errors and results checked."""
    return scorer.using(model, seed, repeat) if isinstance(scorer, Judge) else python(scorer)
