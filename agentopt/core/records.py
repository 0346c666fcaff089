"""Frozen records of what was measured: one example's result, a candidate's evaluation, a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from agentopt.core.candidate import Candidate

Split = Literal["train", "validation", "test"]
TrialState = Literal["complete", "pruned", "incomplete"]
"""complete: every example was scored; pruned: stopped early because it was losing; incomplete: some examples failed
permanently or the budget ran out, so the score is not comparable and the trial is never the best one."""


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one output: `value` (1 is right, 0 is wrong), and `feedback` for the prompt optimiser."""

    value: float
    feedback: str = ""


@dataclass(frozen=True, slots=True)
class SubtaskUse:
    """Usage of one subtask on one example: tokens of the prompt (once), of all samples, and of the fusion call.

    `units` and `usd` cover the samples; `fusion_units` and `fusion_usd` the fusion call, which AgentTTS does not
    charge and which is therefore kept apart.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    units: float = 0.0
    usd: float = 0.0
    fusion_tokens: int = 0
    fusion_units: float = 0.0
    fusion_usd: float = 0.0

    def __add__(self, other: SubtaskUse) -> SubtaskUse:
        return SubtaskUse(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Answer:
    """One subtask's fused value on one example (None: no response was parsable), its usage, and a note."""

    value: Any
    use: SubtaskUse
    note: str = ""


@dataclass(frozen=True, slots=True)
class ExampleResult:
    """One example run through the workflow. `score` is None exactly if `error` is set."""

    id: str
    score: float | None
    output: str = ""
    feedback: str = ""
    error: str | None = None
    subtasks: Mapping[str, SubtaskUse] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A candidate's results on some or all examples of one split, in the order they were run.

    `planned` is the number of examples of the split; `state` follows from the results.
    """

    split: Split
    planned: int
    results: tuple[ExampleResult, ...]
    state: TrialState
    seconds: float = 0.0

    @property
    def scores(self) -> dict[str, float]:
        """Example id -> score, of the examples that have one."""
        return {r.id: r.score for r in self.results if r.score is not None}

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Metric -> example id -> value, of the examples that have a score."""
        names = dict.fromkeys(name for r in self.results for name in r.metrics)
        scored = [r for r in self.results if r.score is not None]
        return {name: {r.id: r.metrics[name] for r in scored if name in r.metrics} for name in names}

    @property
    def errors(self) -> dict[str, str]:
        """Example id -> why it has no score."""
        return {r.id: r.error for r in self.results if r.error is not None}

    @property
    def score(self) -> float | None:
        """Mean over the scored examples; None when there are none."""
        scores = self.scores.values()
        return sum(scores) / len(scores) if scores else None

    def per_example(self, measure: str) -> float:
        """Mean of one field of `SubtaskUse`, summed over subtasks, per scored example; 0 without any."""
        scored = [r for r in self.results if r.score is not None]
        total = sum(getattr(use, measure) for r in scored for use in r.subtasks.values())
        return total / len(scored) if scored else 0.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One evaluated candidate.

    Attributes:
        number: Position in the run's history; the baseline is 0.
        candidate: What was evaluated.
        evaluation: Its results on the validation split.
        proposer: What proposed it: baseline, agent, fallback, random, ...
        units: Its cost in the task's units.
        note: A remark of the proposer.
        fallback: Why the fallback strategy proposed it in place of the agent; empty if it did not.
    """

    number: int
    candidate: Candidate
    evaluation: Evaluation
    proposer: str
    units: float
    note: str = ""
    fallback: str = ""

    @property
    def state(self) -> TrialState:
        return self.evaluation.state

    @property
    def score(self) -> float | None:
        return self.evaluation.score
