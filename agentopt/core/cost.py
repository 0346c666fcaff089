"""What a candidate costs: AgentTTS units (floating-point work), USD and tokens.

The unit is one forward pass of a reference model over a reference prompt and generation (arXiv 2508.00890);
the paper's reference is 3e9 parameters, 128 prompt and 64 generated tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from agentopt.core.errors import TaskError
from agentopt.core.field_types import check_fields


@dataclass(frozen=True, slots=True)
class Unit:
    """The forward pass whose cost is one unit. The defaults are the paper's.

    Raises:
        TaskError: A number is not positive.
    """

    parameters: float = 3e9
    prompt_tokens: float = 128
    completion_tokens: float = 64

    def __post_init__(self) -> None:
        check_fields(self, "Unit", TaskError)


PAPER_UNIT = Unit()


def units(
    parameters: float,
    prompt_tokens: float,
    completion_tokens: float,
    num_samples: float = 1,
    *,
    unit: Unit = PAPER_UNIT,
) -> float:
    """Cost of one subtask on one example, in units: the prompt is paid once, each generation once.

    `[alpha * (Np + S * Nd) - Np_unit] / Nd_unit` with `alpha = parameters / unit.parameters`
    (AgentTTS, section 3). Token counts are per prompt and per generation. The formula is affine, so a pass
    far smaller than the unit's prompt comes out negative: choose a `unit` of the size of the task's models.

    Args:
        parameters: Parameters of the model.
        prompt_tokens: Tokens of the prompt (Np).
        completion_tokens: Tokens of one generation (Nd).
        num_samples: Number of generations (S).
        unit: The pass that costs one unit.
    """
    alpha = parameters / unit.parameters
    return (alpha * (prompt_tokens + num_samples * completion_tokens) - unit.prompt_tokens) / unit.completion_tokens


def num_samples_for(
    budget: float,
    parameters: float,
    prompt_tokens: float,
    completion_tokens: float,
    *,
    unit: Unit = PAPER_UNIT,
) -> int:
    """The largest whole number of samples that `budget` units pay for; 0 when not even one fits.

    The inverse of `units`: `((Nd_unit * units + Np_unit) / alpha - Np) / Nd`.

    Args:
        budget: Units that may be spent.
        parameters: Parameters of the model.
        prompt_tokens: Tokens of the prompt (Np).
        completion_tokens: Tokens of one generation (Nd).
        unit: The pass that costs one unit.
    """
    alpha = parameters / unit.parameters
    samples = ((unit.completion_tokens * budget + unit.prompt_tokens) / alpha - prompt_tokens) / completion_tokens
    return max(0, math.floor(samples + 1e-9))


@dataclass(frozen=True, slots=True)
class Price:
    """USD per one million tokens of each kind, and per request.

    Attributes:
        prompt: Of prompt tokens.
        completion: Of completion tokens.
        cached_prompt: Of prompt tokens read from the provider's cache; as `prompt` if None.
        reasoning: Of completion tokens spent on thoughts; as `completion` if None.
        request: USD per request.
    """

    prompt: float = 0.0
    completion: float = 0.0
    cached_prompt: float | None = None
    reasoning: float | None = None
    request: float = 0.0

    def usd(
        self,
        prompt_tokens: float,
        completion_tokens: float,
        *,
        cached_tokens: float = 0,
        reasoning_tokens: float = 0,
        requests: float = 1,
    ) -> float:
        """Compute the price of calls.

        Args:
            prompt_tokens: All prompt tokens, cached ones included.
            completion_tokens: All completion tokens, reasoning tokens included.
            cached_tokens: Those of `prompt_tokens` that were read from the provider's cache.
            reasoning_tokens: Those of `completion_tokens` that were spent on thoughts.
            requests: Number of requests.
        """
        cached_prompt = self.prompt if self.cached_prompt is None else self.cached_prompt
        reasoning = self.completion if self.reasoning is None else self.reasoning
        prompt = self.prompt * (prompt_tokens - cached_tokens) + cached_prompt * cached_tokens
        completion = self.completion * (completion_tokens - reasoning_tokens) + reasoning * reasoning_tokens
        return (prompt + completion) / 1e6 + self.request * requests

    def worst_usd(self, prompt_tokens: float, completion_tokens: float, *, requests: float = 1) -> float:
        """Compute the most that requests with these tokens may cost, whatever their kinds.

        Args:
            prompt_tokens: Tokens of all prompts together.
            completion_tokens: Tokens of all responses together.
            requests: Number of requests.
        """
        prompt, completion = max(self.prompt, self.cached_prompt or 0.0), max(self.completion, self.reasoning or 0.0)
        return (prompt * prompt_tokens + completion * completion_tokens) / 1e6 + self.request * requests


CostMeasure = Literal["units", "USD per 1M examples", "tokens"]
"""What a candidate's cost per example is counted in.

Units need every model's parameter count. Without one, the cost is in USD if every price is known, else in tokens.
"""

TOKENS = Price(1.0, 1.0)
"""The price of USD 1 per million tokens: a cost per 1M examples is then a number of tokens per example."""


@dataclass(frozen=True, slots=True)
class SubtaskCost:
    """What is needed to price one subtask: token lengths of one pass, and each model's size in parameters.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens of one generation.
        parameters: Size of each model; with `prices`, its price for one pass, which ranks the models in its place.
        unit: The forward pass whose cost is one unit.
        prices: Price of each model, if the cost is not in units.
    """

    prompt_tokens: float
    completion_tokens: float
    parameters: Mapping[str, float]
    unit: Unit = PAPER_UNIT
    prices: Mapping[str, Price] | None = None

    @classmethod
    def priced(cls, prompt_tokens: float, completion_tokens: float, prices: Mapping[str, Price]) -> SubtaskCost:
        """The cost of a subtask by its models' prices, in USD per one million examples (with `TOKENS`, in tokens).

        Args:
            prompt_tokens: Tokens of one prompt.
            completion_tokens: Tokens of one generation.
            prices: Model name -> price.
        """
        sizes = {model: max(price.usd(prompt_tokens, completion_tokens), 1e-12) for model, price in prices.items()}
        return cls(prompt_tokens, completion_tokens, sizes, prices=prices)

    def units(self, model: str, num_samples: int) -> float:
        """Cost of one example with `num_samples` samples of `model`, in the measure of the space."""
        if self.prices is not None:
            return 1e6 * self.prices[model].usd(self.prompt_tokens, num_samples * self.completion_tokens)
        return units(self.parameters[model], self.prompt_tokens, self.completion_tokens, num_samples, unit=self.unit)

    def num_samples_for(self, budget: float, model: str) -> int:
        """The largest number of samples of `model` that costs at most `budget`; 0 if not even one fits."""
        if self.prices is not None:
            once, twice = self.units(model, 1), self.units(model, 2)
            if once > budget + 1e-9:
                return 0
            return math.floor(1 + (budget - once + 1e-9) / (twice - once)) if twice > once else UNLIMITED
        return num_samples_for(
            budget, self.parameters[model], self.prompt_tokens, self.completion_tokens, unit=self.unit
        )


UNLIMITED = 1_000_000
"""Number of samples of a model that costs nothing."""
