"""Settings of prompt optimisation. Data only: importing it loads no library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from agentopt.core.yaml_models import Mistake, RuleError, Strict

When = Literal["before", "after", "both", "never"]
ProposerName = Literal["reflective", "components", "gepa"]
RowFilter = Literal["adaptive", "p1", "all", "random"]

Count = Annotated[int, Field(ge=1)]

REMOVED = {
    "subset": "set prompts.filter to adaptive (instead of verdict), p1, all or random",
    "finalists": "remove it: the winner of the race alone is compared with the seed prompt",
    "max_tokens": "set prompts.max_length, in characters, or remove it",
}
"""Settings of version 0.1.0 that are gone, and what to do instead."""


class PromptSettings(Strict):
    """When system prompts are optimised, which proposer writes them, and how much is measured."""

    when: When = "before"
    """Optimise prompts before the allocation search (with the baseline's models), after it (with the best
    candidate's), both, or never. Without a train split, prompts are left unchanged."""
    subtasks: tuple[str, ...] | None = None
    """The subtasks whose prompts are optimised, one after the other; null for all."""
    proposer: ProposerName = "reflective"
    """What writes prompts: a language model given failures (`reflective`), an authored bank of fragments
    (`components`), or the gepa library. If the model fails, `components` is used in its place."""
    model: str | None = None
    """Catalogue name of the model that writes prompts; null for the search agent's."""
    filter: RowFilter = "adaptive"
    """How the race chooses training examples: those that explain most of the overall mean (`adaptive`), the subset of
    arXiv 2604.08801 (`p1`), every example in turn (`all`), or `k_top` random ones (`random`)."""
    user_prompts: Annotated[int, Field(ge=2)] = 50
    """Most training examples that the race draws on."""
    repeats: Annotated[int, Field(ge=2)] = 4
    """Most responses for each system prompt on each user prompt."""
    k_top: Count = 2
    """Number of user prompts that `p1`, `random` and the pilot of `diagnose` choose."""
    estimator: Literal["unbiased", "paper"] = "unbiased"
    """How the p1 filter estimates the noise of responses: `unbiased`, or too small by the factor (M-1)/M, as the
    `paper` does."""
    rounds: Count = 3
    """Most batches of proposals; the budget may allow fewer."""
    batch_size: Count = 4
    """Number of prompts proposed in one batch."""
    responses: Count = 48
    """Responses per system prompt on average: the race drops weak prompts early, so that good ones get more."""
    variants: Annotated[int, Field(ge=2)] = 6
    """Number of system prompts that `diagnose` compares, including the seed prompt."""
    pilot_user_prompts: Annotated[int, Field(ge=2)] = 12
    """Most training examples that `diagnose` uses."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Share of each cap of the run that prompts may use, all subtasks and phases together. Without a cap on calls,
    tokens or USD, it is the share of the run's worst-case calls."""
    temperature: Annotated[float, Field(ge=0)] = 0.9
    """Sampling temperature of the model that writes prompts."""
    max_length: Count | None = None
    """Most characters of a written prompt; null for as many as the writing model's context holds."""
    max_calls: Annotated[int, Field(ge=0)] | None = None
    """Cap on the calls of the model that writes prompts, within the run's caps."""
    max_usd: Annotated[float, Field(ge=0)] | None = None
    """Cap on the cost of those calls in USD, within the run's caps."""

    @model_validator(mode="before")
    @classmethod
    def _has_no_removed_setting(cls, data: Any) -> Any:
        removed = [name for name in REMOVED if isinstance(data, Mapping) and name in data]
        if removed:
            raise RuleError([Mistake(name, "this setting of version 0.1.0 is gone", REMOVED[name]) for name in removed])
        return data


def of_earlier_version(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a run folder of an earlier version, without those that are gone."""
    kept = {name: value for name, value in settings.items() if name not in REMOVED}
    if (subset := settings.get("subset")) is not None:
        kept.setdefault("filter", "adaptive" if subset == "verdict" else subset)
    return kept
