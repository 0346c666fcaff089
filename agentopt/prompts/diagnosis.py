"""Is it worth optimising a subtask's system prompt, and on which user prompts: the pilot alone, as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from agentopt.core.budget import Usage
from agentopt.prompts.pilot import Pilot
from agentopt.prompts.rewards import Rewards


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the filter says about one subtask (see `prompts.filter.FilterResult`), ready for JSON.

    `system_prompts` maps each to who wrote it, the seed prompt first; `mean` has a row for each and a column for each
    of `examples`, None where nothing was drawn; `noise` is what the planned responses would leave; `user_prompts` are
    the texts that the examples give. `subset`, `always_right` and `always_wrong` are positions in `examples`. None
    stands for a number that is unknown or infinite.
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

    def to_json(self) -> str:
        """As indented JSON."""
        return _diagnoses.dump_json(self, indent=2).decode()


_diagnoses = TypeAdapter(Diagnosis)


def diagnosis_of(task: str, pilot: Pilot, rewards: Rewards, usage: Usage) -> Diagnosis:
    """The pilot's analysis with the texts that belong to it."""
    found, parts = pilot.analysis, pilot.analysis.parts
    user_prompts, responses = found.intended
    return Diagnosis(
        task=task,
        subtask=rewards.subtask,
        verdict=found.verdict,
        reason=found.reason,
        signal=parts.signal,
        noise=(parts.system_prompts - 1) / parts.system_prompts * parts.within / (user_prompts * responses),
        ratio=_finite(found.ratio),
        intended=found.intended,
        responses_needed=_finite(found.responses_needed),
        all_p_value=found.all_p_value,
        subset=found.subset,
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
        responses=pilot.responses,
        usage=usage,
    )


def _rows(mean: Any) -> Sequence[Sequence[float]]:
    return mean.tolist()  # type: ignore[no-any-return]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
