"""How system prompts are optimised. Data only, so that reading a configuration loads no library."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from agentopt.core.yaml_models import Strict

When = Literal["before", "after", "both", "never"]
ProposerName = Literal["reflective", "components", "gepa"]
Subset = Literal["verdict", "p1", "random", "all"]

Count = Annotated[int, Field(ge=1)]


class PromptSettings(Strict):
    """When prompts are optimised, who proposes them, and how much is measured before anything is believed."""

    when: When = "before"
    """Optimise prompts before the allocation search (with the baseline's models), after it (with the best
    candidate's), both, or never. A task without a train split is left as it is."""
    subtasks: tuple[str, ...] | None = None
    """The subtasks whose prompts are optimised, one after the other; all unless given."""
    proposer: ProposerName = "reflective"
    """Who writes prompts: a language model from failures, an authored bank of fragments, or the gepa library. Where a
    model is of no help, `components` fills in."""
    model: str | None = None
    """Catalogue name of the model that writes prompts; the search agent's unless given."""
    variants: Annotated[int, Field(ge=2)] = 6
    """System prompts that the pilot compares, the seed prompt among them."""
    user_prompts: Annotated[int, Field(ge=2)] = 12
    """Training examples that the pilot and the optimisation may use."""
    repeats: Annotated[int, Field(ge=2)] = 4
    """Most responses for each system prompt on each user prompt."""
    k_top: Count = 4
    """User prompts that the filter chooses."""
    subset: Subset = "verdict"
    """What is optimised on: what the pilot's verdict says, the filter's user prompts in any case, as many at random, or
    all of them. The last two make no pilot."""
    rounds: Count = 3
    """Rounds of proposals at most; the budget may end them sooner."""
    batch_size: Count = 4
    """Prompts proposed in one round."""
    finalists: Count = 3
    """Prompts that meet the seed prompt on the validation split at most."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Most of each cap of the run that goes into prompts; the rest is for the allocation search and the test."""
    temperature: Annotated[float, Field(ge=0)] = 0.9
    """Temperature of the model that writes prompts."""
    max_tokens: Count = 200
    """Most tokens of one written prompt."""
    max_calls: Annotated[int, Field(ge=0)] | None = None
    """Cap on the writing model's own calls, inside the run's caps."""
    max_usd: Annotated[float, Field(ge=0)] | None = None
    """Cap on what the writing model's own calls cost, inside the run's caps."""
