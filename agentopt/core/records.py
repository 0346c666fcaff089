"""Frozen records of measurements: one example's result, a candidate's evaluation, a trial."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from agentopt.core import result_file
from agentopt.core.candidate import Candidate
from agentopt.core.cost import Reads, critical_path
from agentopt.core.duplicates import Groups, by_group, independent
from agentopt.core.errors import FailureScope
from agentopt.core.evaluation_text import evaluation_text
from agentopt.core.message_text import counted
from agentopt.core.ties import ranked

UNUSABLE_SHARE = 0.5
"""A candidate without a parsable response for a larger share of its examples measures its parser, not its models."""
Split = Literal["train", "validation", "test"]
FailedExamples = Literal["leave_out", "zero", "fail"]
"""What becomes of an example if a model call on it fails for a reason that lies in the example (a content filter).

leave_out: it leaves the comparison of all candidates; zero: it scores 0; fail: the evaluation is incomplete."""
TrialState = Literal["complete", "pruned", "incomplete"]
"""complete: every example was scored or left out; pruned: stopped early because it was losing; incomplete: some
examples failed permanently or the budget ran out, so the score is not comparable and the trial is never the best."""


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one output.

    Attributes:
        value: From 0 (wrong) to 1 (right). A run accepts other values, but then stops no trial early; jobs refuse them.
        feedback: A remark for the prompt optimiser.
        judgements: The values whose mean `value` is, if a judge scored the output several times.
    """

    value: float
    feedback: str = ""
    judgements: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class SubtaskUse:
    """Usage of one subtask on one example: tokens of the prompt (once), of all samples, and of the fusion call.

    `units` and `usd` cover the samples; `fusion_units` and `fusion_usd` the fusion call, which AgentTTS does not
    charge and which is therefore kept apart. `responses` counts the samples and the response of the fusion call;
    `cut_off` counts those of them that ended at `max_tokens` before the parser had its value, `filtered` those that
    the provider's content filter ended before that, and `only_thought` those with a thought but no answer.
    `cached_tokens` are those of `prompt_tokens` that the provider read from its cache, `reasoning_tokens` those of
    `completion_tokens` that were thoughts. `seconds` is the latency: the slowest of the requests that drew the
    samples, plus the fusion call; without retries and waits for a rate limit. It is 0 if it is not known, as for
    responses of a batch.
    `escalated` counts the calls that a cascade's big model answered; their use is that of both models, and the fields
    that begin with `big_` are the big model's part of the tokens. `requests` counts the requests that drew the samples
    of both, each of which pays for the prompt; it is 0 in records of earlier versions.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    units: float = 0.0
    usd: float = 0.0
    fusion_tokens: int = 0
    fusion_units: float = 0.0
    fusion_usd: float = 0.0
    responses: int = 0
    cut_off: int = 0
    only_thought: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    seconds: float = 0.0
    escalated: int = 0
    big_prompt_tokens: int = 0
    big_completion_tokens: int = 0
    big_cached_tokens: int = 0
    big_reasoning_tokens: int = 0
    requests: int = 0
    filtered: int = 0

    def __add__(self, other: SubtaskUse) -> SubtaskUse:
        return SubtaskUse(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def latency(uses: Mapping[str, SubtaskUse], reads: Reads) -> float | None:
    """Seconds of the model calls along the critical path of a workflow; None if those of a call are not known.

    Args:
        uses: Use of each called subtask, in the order of the task.
        reads: What each subtask waits for.
    """
    if not uses or not all(use.seconds for use in uses.values()):
        return None
    return float(critical_path({name: use.seconds for name, use in uses.items()}, reads))


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of one subtask call.

    Attributes:
        value: The fused value; None if no response was parsable.
        use: Its usage.
        note: Why the value is missing.
        finish_reason: That of the sample whose value it is: `stop`, `length`, `content_filter` or `tool_calls`.
        text: That of the same sample, without thoughts; empty for tool calls.
    """

    value: Any
    use: SubtaskUse
    note: str = ""
    finish_reason: str = "stop"
    text: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A model call that failed.

    Attributes:
        kind: Failures are counted by it, such as `content filter` or `HTTP 429`.
        scope: The extent of the failure.
        reason: The provider's own words, or the error's message if it gave none.
    """

    kind: str
    scope: FailureScope
    reason: str


@dataclass(frozen=True, slots=True)
class ExampleResult:
    """One example run through the workflow. `score` is None exactly if `error` is set.

    Attributes:
        id: The example's id.
        score: Its score.
        output: The workflow's output as text.
        feedback: The scorer's remark, or the reason for a missing output.
        error: Why there is no score.
        subtasks: Use of each called subtask.
        metrics: Metric -> value.
        failure: The model call that failed, if one did. The score is then None, or 0 with `failed_examples: zero`.
        left_out: Whether the failure is the example's own, so that the evaluation is complete without it.
        repeat: Index of the independent repeat of the example.
        judgements: Those of its `Score`.
        seconds: Its latency, the sum of its subtasks' seconds along the critical path of the workflow (of a program:
            the sum over its calls); None if it is not known.
        unparsed: Subtask name -> the reason why none of its responses was parsable.
    """

    id: str
    score: float | None
    output: str = ""
    feedback: str = ""
    error: str | None = None
    subtasks: Mapping[str, SubtaskUse] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    left_out: bool = False
    repeat: int = 0
    judgements: tuple[float, ...] = ()
    seconds: float | None = None
    unparsed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """Why a trial was stopped early.

    Attributes:
        rule: `cannot catch up`: even the highest score on every row left would not reach the other trial's mean;
            `worse`: the evidence that it is worse passed the level.
        against: The trial that it was compared with, such as `trial 3`.
        e_value: The evidence that it is worse; above 1 / level if that is the rule.
    """

    rule: Literal["cannot catch up", "worse"]
    against: str
    e_value: float

    def __str__(self) -> str:
        if self.rule == "worse":
            return f"worse than {self.against} (e-value {self.e_value:.0f})"
        return f"cannot catch up with {self.against}"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A candidate's results on some or all examples of one split, in the order they were run.

    `planned` is the number of examples of the split; `state` follows from the results. `groups` is that of the task for
    the split (`Task.groups`): examples that repeat each other count as one. An example that was run in several
    independent repeats has a result for each; its score is their mean. `stopped` is the reason of a pruned evaluation;
    version 0.1.0 did not record it.
    """

    split: Split
    planned: int
    results: tuple[ExampleResult, ...]
    state: TrialState
    seconds: float = 0.0
    groups: Groups = field(default_factory=dict)
    stopped: EarlyStop | None = None

    __repr__ = evaluation_text

    @property
    def scores(self) -> dict[str, float]:
        """Example id -> score, of the examples that have one; a group's mean score under the id of its first example.

        They are independent, as intervals and comparisons need them. `results` has the score of every example.
        """
        return by_group(self.row_scores, self.groups) if self.groups else self.row_scores

    @property
    def row_scores(self) -> dict[str, float]:
        """Example id -> score, of every example that has one."""
        return _row_means(result_file.scored_pairs(self.results))

    @property
    def repeats(self) -> int:
        """Number of independent repeats; 0 without a result."""
        return len(result_file.repeat_indices(self.results))

    @property
    def planned_scores(self) -> int:
        """Number of scores of a complete evaluation: the examples of the split, each group counted once."""
        return independent(self.planned, self.groups)

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Metric -> example id -> value, of the examples that have a score; grouped as `scores` are."""
        names = result_file.metric_names(self.results)
        return {name: by_group(_row_means(self._metric(name)), self.groups) for name in names}

    def _metric(self, name: str) -> Iterator[tuple[str, float]]:
        return ((r.id, r.metrics[name]) for r in self.results if r.score is not None and name in r.metrics)

    @property
    def errors(self) -> dict[str, str]:
        """Example id -> why it has no score, without the examples that are left out."""
        return {r.id: r.error for r in result_file.faulty(self.results) if r.error is not None and not r.left_out}

    @property
    def left_out(self) -> dict[str, Failure]:
        """Example id -> the failure for which it is left out."""
        return {r.id: r.failure for r in result_file.faulty(self.results) if r.left_out and r.failure}

    @property
    def failures(self) -> dict[str, Failure]:
        """Example id -> its failed model call, whether the example is left out, scored 0, or has no score."""
        return {r.id: r.failure for r in result_file.faulty(self.results) if r.failure}

    @property
    def why_unscored(self) -> str | None:
        """Why no row has a score, with the first row's error; None if one has."""
        error = next((r.error for r in result_file.faulty(self.results) if r.error is not None), None)
        if error is None or result_file.scored_count(self.results):
            return None
        return f"no row could be scored: the first of {counted(len(self.results), 'row')}: {error}"

    @property
    def outcome(self) -> str:
        """`complete`, or such as `pruned after 9 of 24 rows: cannot catch up with trial 3`."""
        return outcome(self.state, len(self.scores), self.planned_scores, self.stopped)

    @property
    def score(self) -> float | None:
        """Mean of the scores; None when there are none."""
        scores = self.scores.values()
        return sum(scores) / len(scores) if scores else None

    def per_example(self, measure: str) -> float:
        """Mean of one field of `SubtaskUse`, summed over subtasks, per scored example; 0 without any."""
        scored = result_file.scored_count(self.results)
        return result_file.total(self.results, measure, is_scored=True) / scored if scored else 0.0

    @property
    def usd_per_example(self) -> float:
        """Mean USD of a scored example, at the catalogue's prices, fusion calls included; 0 without any."""
        return self.per_example("usd") + self.per_example("fusion_usd")

    @property
    def latencies(self) -> list[float]:
        """Seconds of each scored example whose latency is known, ascending."""
        return sorted(result_file.known_latencies(self.results))

    def latency(self, quantile: float) -> float | None:
        """A quantile of the latencies, such as 0.5 for the median; None if none is known."""
        known = self.latencies
        return known[max(math.ceil(quantile * len(known)) - 1, 0)] if known else None

    def total(self, measure: str, subtask: str | None = None) -> float:
        """Sum of one field of `SubtaskUse` over all examples.

        Args:
            measure: Such as `responses` or `cut_off`.
            subtask: Only this subtask. Default: all subtasks.
        """
        return float(result_file.total(self.results, measure, subtask))


def outcome(state: TrialState, scored: int, planned: int, stopped: EarlyStop | None) -> str:
    """How an evaluation of `planned` rows ended, `scored` of them scored, in a few words.

    Args:
        state: State of the evaluation.
        scored: Number of rows with a score.
        planned: Number of rows of the split.
        stopped: Why it was stopped early, if it was.
    """
    if state == "complete":
        return state
    of = f" of {counted(planned, 'row')}" if planned else ""  # version 0.1.0 did not write it to `result.json`
    return f"{state} after {scored}{of}{f': {stopped}' if stopped else ''}"


def _row_means(scores: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Example id -> mean over its repeats."""
    found: dict[str, float] = {}
    repeats: dict[str, list[float]] = {}
    for row, score in scores:
        if row in found:
            repeats.setdefault(row, [found[row]]).append(score)
        else:
            found[row] = float(score)
    return found | {row: sum(values) / len(values) for row, values in repeats.items()} if repeats else found


@dataclass(frozen=True, slots=True)
class Trial:
    """One evaluated candidate.

    Attributes:
        number: Position in the run's history; the baseline is 0.
        candidate: The evaluated candidate.
        evaluation: Its results on the validation split.
        proposer: Origin of the candidate: baseline, agent, fallback, random, ...
        units: Its cost per example in the measure of the search space; USD and seconds are measured.
        note: A remark of the proposer.
        fallback: Why the fallback strategy proposed it in place of the agent; empty if it did not.
        completed_in_search: Whether the agent had it completed after it was stopped early, so that the search knows all
            of its scores.
    """

    number: int
    candidate: Candidate
    evaluation: Evaluation
    proposer: str
    units: float
    note: str = ""
    fallback: str = ""
    completed_in_search: bool = False

    @property
    def state(self) -> TrialState:
        return self.evaluation.state

    @property
    def score(self) -> float | None:
        return self.evaluation.score


def by_score(trials: Iterable[Trial]) -> list[Trial]:
    """The trials with a score by descending raw score, of those that tie the cheapest first."""
    scored = [trial for trial in trials if trial.score is not None]
    return ranked(scored, lambda trial: trial.score or 0.0, lambda trial: (trial.units, trial.number))


@dataclass(frozen=True, slots=True)
class BestSoFar:
    """The trial that a run would return now: its number, and its shrunk (posterior mean) score."""

    trial: int
    score: float


@dataclass(frozen=True, slots=True)
class Remaining:
    """The expected rest of a run.

    Attributes:
        trials: Trials that are left within the cap and the search space.
        calling: How many of them are expected to make calls; the others have their responses in the journal.
        finalists: Distinct candidates that are expected to be tested.
    """

    trials: int
    calling: float
    finalists: float
