"""The key `cost` of task.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from agentopt.core.cost import PAPER_UNIT
from agentopt.core.yaml_models import Positive, Strict, broken_rule


class UnitSpec(Strict):
    """The forward pass whose cost is one unit; the paper's unless given."""

    parameters: Positive = PAPER_UNIT.parameters
    """Number of parameters of its model."""
    prompt_tokens: Positive = PAPER_UNIT.prompt_tokens
    """Tokens of its prompt."""
    completion_tokens: Positive = PAPER_UNIT.completion_tokens
    """Tokens of its completion."""


class CostSpec(Strict):
    """What candidates cost, and the most that one may cost. A limit holds whatever the measure is."""

    measure: Literal["auto", "usd", "seconds", "units"] = "auto"
    """auto: USD if a model has a price, units if all have parameters and none a price, else seconds."""
    unit: UnitSpec = UnitSpec()
    max_units: Positive | None = None
    """Per example. With costs in units: one pass of every subtask's largest model, summed, unless given."""
    max_usd: Positive | None = None
    """Mean USD per example."""
    max_usd_per_1000: Positive | None = None
    """`max_usd`, per 1,000 examples."""
    max_seconds: Positive | None = None
    """Mean latency per example, in seconds."""

    @model_validator(mode="after")
    def _one_form(self) -> CostSpec:
        if self.max_usd is not None and self.max_usd_per_1000 is not None:
            raise broken_rule(
                "only one of `max_usd` and `max_usd_per_1000` may be given", "remove one: they set the same limit"
            )
        return self

    @property
    def usd(self) -> float | None:
        """The limit in USD per example."""
        return self.max_usd if self.max_usd_per_1000 is None else self.max_usd_per_1000 / 1000
