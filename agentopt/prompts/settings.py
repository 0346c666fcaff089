"""Settings of prompt optimisation. Data only: importing it loads no library."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from agentopt.core.yaml_models import Strict

When = Literal["before", "after", "both", "never"]
ProposerName = Literal["reflective", "components", "gepa"]
Subset = Literal["verdict", "p1", "random", "all"]

Count = Annotated[int, Field(ge=1)]


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
    variants: Annotated[int, Field(ge=2)] = 6
    """Number of system prompts that the pilot compares, including the seed prompt."""
    user_prompts: Annotated[int, Field(ge=2)] = 12
    """Most training examples that the pilot and the optimisation use."""
    repeats: Annotated[int, Field(ge=2)] = 4
    """Most responses for each system prompt on each user prompt."""
    k_top: Count = 4
    """Number of user prompts that the filter chooses."""
    subset: Subset = "verdict"
    """User prompts to optimise on: by the pilot's verdict (`verdict`), always the filter's choice (`p1`), as many at
    random (`random`), or all (`all`). The last two need no pilot."""
    rounds: Count = 3
    """Most rounds of proposals; the budget may end them sooner."""
    batch_size: Count = 4
    """Number of prompts proposed in one round."""
    finalists: Count = 3
    """Most prompts that are compared with the seed prompt on the validation split."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of each cap of the run that prompts may use; the rest is for the allocation search and the test."""
    temperature: Annotated[float, Field(ge=0)] = 0.9
    """Sampling temperature of the model that writes prompts."""
    max_tokens: Count = 200
    """Most tokens of one written prompt; a model that thinks first gets more."""
    max_calls: Annotated[int, Field(ge=0)] | None = None
    """Cap on the calls of the model that writes prompts, within the run's caps."""
    max_usd: Annotated[float, Field(ge=0)] | None = None
    """Cap on the cost of those calls in USD, within the run's caps."""
