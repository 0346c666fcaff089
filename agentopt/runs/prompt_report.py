"""The record of one subtask's prompt optimisation, as a part of the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from agentopt.core.message_text import counted
from agentopt.core.records import Evaluation
from agentopt.core.stats import Interval, mean_interval
from agentopt.core.stop_reason import StopKind, StopReason
from agentopt.prompts.adoption import Adoption
from agentopt.prompts.optimizer import Optimized
from agentopt.prompts.outcome import PromptDecision
from agentopt.prompts.race import SEED, counted_by_proposer


@dataclass(frozen=True, slots=True)
class PromptTried:
    """A system prompt of the race.

    `reward` is its estimated mean reward over all training examples of the race, `tokens` the subtask's mean output
    length.
    """

    system_prompt: str
    proposer: str
    reward: float
    responses: int
    tokens: float


@dataclass(frozen=True, slots=True)
class PromptFinal:
    """A system prompt on the validation split: its mean score (None if nothing could be scored) and 95% interval."""

    system_prompt: str
    proposer: str
    state: str
    score: float | None
    interval: Interval | None
    tokens: float


@dataclass(frozen=True, slots=True)
class PromptReport:
    """The outcome of optimising one subtask's system prompt, before or after the search.

    Attributes:
        subtask: Name of the subtask.
        phase: Before or after the search.
        decision: What became of the seed prompt.
        chosen: The prompt that is used afterwards.
        proposer: What wrote it.
        responses: Responses that the race scored.
        user_prompts: Ids of the training examples that the race drew on.
        tried: The prompts of the race, the best first.
        finals: The seed prompt and the winner on the validation split; empty without a comparison.
        adoption: The comparison: shrunk and raw gain, p value; None without one.
        stopped: What cut the optimisation short; None if nothing did.
        fallbacks: Why proposers were replaced, each reason once.
    """

    subtask: str
    phase: Literal["before", "after"]
    decision: PromptDecision
    chosen: str
    proposer: str
    responses: int = 0
    user_prompts: tuple[str, ...] = ()
    tried: tuple[PromptTried, ...] = ()
    finals: tuple[PromptFinal, ...] = ()
    adoption: Adoption | None = None
    stopped: StopReason | None = None
    fallbacks: tuple[str, ...] = ()

    @property
    def variants(self) -> str:
        """The number of prompts beside the seed prompt that the decision rests on, by proposer."""
        return counted_by_proposer(tried.proposer for tried in self.tried)

    @property
    def outcome(self) -> str:
        """The decision in a sentence."""
        stopped = f"; {self.stopped}" if self.stopped else ""
        return f"{_SENTENCES[self.decision](self)}{stopped}"


def _replaced(report: PromptReport) -> str:
    improved = f", improved by {report.adoption.gain:+.3f}" if report.adoption else ""
    return f"replaced by one of {report.proposer}{improved}"


def _not_confirmed(report: PromptReport) -> str:
    compared = report.adoption
    shown = f" (raw gain {compared.raw_gain:+.3f}, p = {compared.p_value:.2f})" if compared else ""
    return f"kept: another prompt won the race among {report.variants}, but validation does not confirm it{shown}"


_SENTENCES: Mapping[PromptDecision, Callable[[PromptReport], str]] = {
    PromptDecision.REPLACED: _replaced,
    PromptDecision.NOT_CONFIRMED: _not_confirmed,
    PromptDecision.NOT_WORTH_IT: lambda r: f"kept, not worth it: the seed prompt won the race against {r.variants}",
    PromptDecision.NOTHING_TO_GAIN: lambda r: (
        f"kept: all of its answers on training examples are right ({r.responses})"
    ),
    PromptDecision.NOT_CALLED: lambda _: "kept: the subtask was called on no training example",
    PromptDecision.NOTHING_WRITTEN: lambda _: "kept: the proposers returned no new prompt",
    PromptDecision.FAILED: lambda _: "kept: calls failed, so there is no comparison",
    PromptDecision.TOO_SMALL: lambda _: "kept: no race fits in prompts.share of the caps",
    PromptDecision.CUT_SHORT: lambda r: f"kept: cut short after {counted(r.responses, 'response')}",
    PromptDecision.UNKNOWN: lambda _: "kept",
}
"""Decision -> its sentence."""


def prompt_report(
    found: Optimized, phase: Literal["before", "after"], fallbacks: Sequence[str], seed: int
) -> PromptReport:
    """The record of one subtask's prompt optimisation.

    Args:
        found: The outcome.
        phase: Before or after the search.
        fallbacks: Why proposers were replaced.
        seed: Of the intervals.
    """
    wrote = {attempt.system_prompt: attempt.proposer for attempt in found.attempts}
    return PromptReport(
        subtask=found.subtask,
        phase=phase,
        decision=found.decision,
        chosen=found.chosen.system_prompt,
        proposer=found.chosen.proposer,
        responses=found.responses,
        user_prompts=found.examples,
        tried=tuple(PromptTried(a.system_prompt, a.proposer, a.reward, a.responses, a.tokens) for a in found.attempts),
        finals=tuple(_final(text, wrote.get(text, SEED), e, found.subtask, seed) for text, e in found.finals.items()),
        adoption=found.adoption,
        stopped=found.stopped,
        fallbacks=tuple(dict.fromkeys(fallbacks)),
    )


def _final(system_prompt: str, proposer: str, evaluation: Evaluation, subtask: str, seed: int) -> PromptFinal:
    uses = [r.subtasks[subtask] for r in evaluation.results if r.score is not None and subtask in r.subtasks]
    tokens = sum(use.completion_tokens for use in uses) / max(len(uses), 1)
    scores = list(evaluation.scores.values())
    interval = mean_interval(scores, seed=seed) if scores else None
    return PromptFinal(system_prompt, proposer, evaluation.state, evaluation.score, interval, tokens)


def report_of_0_1_0(report: object) -> object:
    """Reads a prompt report in a `result.json` of version 0.1.0: it has a sentence in place of a decision."""
    if not isinstance(report, dict) or "decision" in report:
        return report
    replaced = report.get("against_seed") is not None
    finals = [{**final, **(final.get("validation") or {"score": None, "interval": None})} for final in report["finals"]]
    return {
        **report,
        "decision": PromptDecision.REPLACED if replaced else PromptDecision.UNKNOWN,
        "responses": sum(tried["responses"] for tried in report["tried"]),
        "finals": finals,
        "stopped": StopReason(StopKind.UNKNOWN, detail=report["ended"]),
    }
