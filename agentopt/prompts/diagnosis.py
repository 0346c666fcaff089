"""The result of a pilot as plain data: is a subtask's system prompt worth optimising, and on which user prompts?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_json

from agentopt.core.budget import Usage
from agentopt.core.message_text import counted
from agentopt.core.usd_text import format_usd, rounded_usd
from agentopt.prompts.pilot import Pilot
from agentopt.prompts.race import counted_by_proposer
from agentopt.prompts.rewards import Rewards

NO_VERDICT = "no verdict"
"""The verdict on a subtask that was not called, or whose responses cannot be parsed."""


@dataclass(frozen=True, slots=True, repr=False)
class Diagnosis:
    """The filter's analysis of one subtask (see `prompts.filter.FilterResult`) with its texts, ready for JSON.

    Numbers that are unknown or infinite are None.

    Attributes:
        task: Name of the task.
        subtask: Name of the subtask.
        verdict: What to do; `no verdict` if the responses cannot be parsed or the subtask was not called.
        reason: Why, in words.
        signal: Variance between system prompts of the expected mean reward.
        noise: Variance of the mean reward that the intended number of responses would leave.
        ratio: Signal over noise on all user prompts.
        intended: (user prompts, responses for each) that the optimisation would use.
        responses_needed: Responses per user prompt at which the ratio would be as wanted.
        all_p_value: P value of no effect of the system prompt on all user prompts together.
        subset: The best user prompts, as positions in `examples`.
        subset_score: Their score.
        subset_p_value: P value of no effect, which accounts for the search over subsets.
        subset_ratio: Signal over noise on the subset.
        chance_score: Score that the best subset exceeds by chance with the probability of the level.
        cross_fitted_score: Score of the subset without the winner's curse.
        search: How the subset was found.
        estimator: How noise was estimated.
        always_right: User prompts with full reward in every response, as positions in `examples`.
        always_wrong: User prompts without reward in every response, as positions in `examples`.
        examples: Ids of the examples.
        user_prompts: The user message of each example.
        system_prompts: System prompt -> name of its proposer, the seed prompt first.
        mean: Mean rewards, a row for each system prompt and a column for each example; None if not sampled.
        tokens: Mean output tokens of each system prompt.
        responses: Number of responses of the subtask with a reward.
        usage: Usage of the pilot.
    """

    task: str
    subtask: str
    verdict: str
    reason: str
    signal: float
    noise: float
    ratio: float | None
    intended: tuple[int, float]
    responses_needed: float | None
    all_p_value: float
    subset: tuple[int, ...]
    subset_score: float
    subset_p_value: float
    subset_ratio: float | None
    chance_score: float
    cross_fitted_score: float | None
    search: str
    estimator: str
    always_right: tuple[int, ...]
    always_wrong: tuple[int, ...]
    examples: tuple[str, ...]
    user_prompts: tuple[str, ...]
    system_prompts: dict[str, str]
    mean: tuple[tuple[float | None, ...], ...]
    tokens: tuple[float, ...]
    responses: int
    usage: Usage

    @property
    def variants(self) -> str:
        """The number of prompts beside the seed prompt that the verdict rests on, by proposer."""
        return counted_by_proposer(self.system_prompts.values())

    def __repr__(self) -> str:
        means = [[value for value in row if value is not None] for row in self.mean]
        shown = ", ".join(f"{sum(row) / len(row):.3f}" if row else "none" for row in means)
        spent = f"{counted(self.usage.calls, 'call')}, {counted(self.usage.tokens, 'token')}"
        lines = [
            f"Diagnosis of {self.task}, subtask {self.subtask}: {self.verdict}",
            f"  {self.reason}",
            f"  mean reward of {len(self.system_prompts)} system prompts on {len(self.examples)} examples: {shown}",
            f"  examples to optimise on: {', '.join(self.examples[k] for k in self.subset) or 'none'}",
            f"  spent: {spent}, {format_usd(self.usage.usd)} USD",
        ]
        return "\n".join(line if len(line) <= 100 else f"{line[:97]}..." for line in lines)

    def to_json(self) -> str:
        """The diagnosis as indented JSON."""
        return to_json(rounded_usd(_diagnoses.dump_python(self, mode="json")), indent=2).decode()


_diagnoses = TypeAdapter(Diagnosis)


def diagnosis_of(task: str, pilot: Pilot, rewards: Rewards, usage: Usage) -> Diagnosis:
    """Combine a pilot's analysis with the texts of its prompts.

    Args:
        task: Name of the task.
        pilot: The pilot.
        rewards: The rewards that it sampled.
        usage: Its usage.
    """
    found, parts = pilot.analysis, pilot.analysis.parts
    user_prompts, responses = found.intended
    # A difference between system prompts is one, however few responses were parsable.
    unknown = None if found.verdict.startswith("optimise") else rewards.without_verdict()
    return Diagnosis(
        task=task,
        subtask=rewards.subtask,
        verdict=NO_VERDICT if unknown else found.verdict,
        reason=unknown or found.reason,
        signal=parts.signal,
        noise=(parts.system_prompts - 1) / parts.system_prompts * parts.within / (user_prompts * responses),
        ratio=_finite(found.ratio),
        intended=found.intended,
        responses_needed=_finite(found.responses_needed),
        all_p_value=found.all_p_value,
        subset=() if unknown else found.subset,
        subset_score=found.subset_score,
        subset_p_value=found.subset_p_value,
        subset_ratio=_finite(found.subset_ratio),
        chance_score=found.chance_score,
        cross_fitted_score=_finite(found.cross_fitted_score),
        search=found.search,
        estimator=found.estimator,
        always_right=found.always_right,
        always_wrong=found.always_wrong,
        examples=tuple(example.id for example in rewards.examples),
        user_prompts=tuple(rewards.user_prompt(k) for k in range(len(rewards.examples))),
        system_prompts=dict(pilot.proposers),
        mean=tuple(tuple(_finite(value) for value in row) for row in _rows(found.mean)),
        tokens=pilot.tokens,
        responses=rewards.responses,
        usage=usage,
    )


def _rows(mean: Any) -> Sequence[Sequence[float]]:
    return mean.tolist()  # type: ignore[no-any-return]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
