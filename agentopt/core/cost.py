"""What a candidate costs per example: USD, seconds, or AgentTTS units (floating-point work).

The unit is one forward pass of a reference model over a reference prompt and generation (arXiv 2508.00890);
the paper's reference is 3e9 parameters, 128 prompt and 64 generated tokens.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from agentopt.core.axes import Settings
from agentopt.core.errors import TaskError
from agentopt.core.field_types import check_fields
from agentopt.core.usd_text import format_usd


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


CostMeasure = Literal["usd", "seconds", "units", "tokens"]
"""What a candidate's cost per example is counted in. `tokens` is that of landscapes and results of earlier versions."""

UNLIMITED = 1_000_000
"""Number of samples of a model that costs nothing."""

Reads = Mapping[str, Collection[str]]
"""Subtask -> the subtasks that it waits for, which are before it in the order of the task."""


def in_sequence(names: Collection[str]) -> Reads:
    """Each name waits for all before it, as the calls of a program do."""
    ordered = list(names)
    return {name: ordered[:place] for place, name in enumerate(ordered)}


def critical_path(seconds: Mapping[str, Any], reads: Reads, maximum: Callable[[Any, Any], Any] = max) -> Any:
    """The time until the last subtask ends, if each starts when all that it waits for have ended.

    Args:
        seconds: Subtask -> its duration, in the order of the task; numbers, or arrays with numpy's `maximum`.
        reads: What each waits for; subtasks that are not in `seconds` take no time.
        maximum: The larger of two durations.
    """
    ends: dict[str, Any] = {}
    last: Any = 0.0
    for name, own in seconds.items():
        start: Any = 0.0
        for read in reads.get(name, ()):
            start = maximum(start, ends.get(read, 0.0))
        ends[name] = start + own
        last = maximum(last, ends[name])
    return last


@dataclass(frozen=True, slots=True)
class Pass:
    """What one example takes of one subtask with one model: means over the examples of the trials.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens of one sample, thoughts included.
        cached_tokens: Those of `prompt_tokens` that the provider read from its cache.
        reasoning_tokens: Those of `completion_tokens` that were thoughts.
        fusion_usd: USD of the fusion call, for each sample that it reads.
        seconds: (number of samples, latency in seconds), ascending; empty if it was not measured.
    """

    prompt_tokens: float
    completion_tokens: float
    cached_tokens: float = 0.0
    reasoning_tokens: float = 0.0
    fusion_usd: float = 0.0
    seconds: tuple[tuple[int, float], ...] = ()

    def latency(self, num_samples: int) -> float:
        """Seconds at that number of samples, or at the nearest measured one; 0 if none was measured.

        Samples are drawn concurrently, so that their number changes the latency little.
        """
        if not self.seconds:
            return 0.0
        return min(self.seconds, key=lambda measured: (abs(measured[0] - num_samples), measured[0]))[1]


@dataclass(frozen=True, slots=True)
class SubtaskCost:
    """What is needed to price one subtask.

    Attributes:
        prompt_tokens: Nominal tokens of the prompt, for units and for models that were not measured.
        completion_tokens: Nominal tokens of one generation, likewise.
        parameters: Size of each model; empty if that of a model is not known.
        unit: The forward pass whose cost is one unit.
        prices: Price of each model; None if that of a model is not known.
        measure: The measure of the search space.
        max_choices: Model -> most samples of one request. Each request pays for the prompt.
        passes: Model -> what it was measured to take. A model that is not in it takes the nominal tokens.
        varied: (model, settings of a choice) -> what it was measured to take with these.
        seen: (model, number of samples, settings) -> measured cost by measure, of choices that take no fixed number of
            samples, or call another model on some examples.
    """

    prompt_tokens: float
    completion_tokens: float
    parameters: Mapping[str, float]
    unit: Unit = PAPER_UNIT
    prices: Mapping[str, Price] | None = None
    measure: CostMeasure = "units"
    max_choices: Mapping[str, int] = field(default_factory=dict)
    passes: Mapping[str, Pass] = field(default_factory=dict)
    varied: Mapping[tuple[str, Settings], Pass] = field(default_factory=dict)
    seen: Mapping[tuple[str, int, Settings], Mapping[CostMeasure, float]] = field(default_factory=dict)

    def units(self, model: str, num_samples: int) -> float:
        """Cost of one example with `num_samples` samples of `model`, in the measure of the space."""
        return self.of(self.measure, model, num_samples)

    def of(
        self, measure: CostMeasure, model: str, num_samples: int, settings: Settings = (), longer: float = 0.0
    ) -> float:
        """Cost of one example in some measure.

        Args:
            measure: The measure; units need every model's size, and USD every price.
            model: Name of the model.
            num_samples: Number of samples.
            settings: Those of the choice, which costs in units do not depend on.
            longer: Tokens that the prompt has more than without the settings, unless it was measured with them.
        """
        if measure == "units":
            size = self.parameters[model]
            return units(size, self.prompt_tokens, self.completion_tokens, num_samples, unit=self.unit)
        one = self.pass_of(model, settings)
        if longer and (model, settings) not in self.varied:
            one = replace(one, prompt_tokens=one.prompt_tokens + longer)
        if measure == "seconds":
            return one.latency(num_samples)
        if measure == "tokens":
            return one.prompt_tokens + num_samples * one.completion_tokens
        return self._usd(model, one, num_samples)

    def pass_of(self, model: str, settings: Settings = ()) -> Pass:
        """What the model was measured to take with these settings, or with any, or the nominal tokens."""
        return (
            self.varied.get((model, settings))
            or self.passes.get(model)
            or Pass(self.prompt_tokens, self.completion_tokens)
        )

    def _usd(self, model: str, one: Pass, num_samples: int) -> float:
        requests = -(-num_samples // self.max_choices.get(model, UNLIMITED))
        price = (self.prices or {})[model]
        sampled = price.usd(
            requests * one.prompt_tokens,
            num_samples * one.completion_tokens,
            cached_tokens=requests * one.cached_tokens,
            reasoning_tokens=num_samples * one.reasoning_tokens,
            requests=requests,
        )
        return sampled + (num_samples * one.fusion_usd if num_samples > 1 else 0.0)

    def size(self, model: str) -> float:
        """What orders the models in the kernel: their size, or the cost of one pass if a size is not known."""
        if self.parameters:
            return self.parameters[model]
        known = [cost for other in (self.prices or self.passes) if (cost := self.units(other, 1)) > 0]
        own = self.units(model, 1) if model in (self.prices or self.passes) else 0.0
        # A latency that was not measured is taken to be average.
        return own if own > 0 or self.measure != "seconds" or not known else sum(known) / len(known)

    def num_samples_for(self, budget: float, model: str) -> int:
        """The largest number of samples of `model` that costs at most `budget`; 0 if not even one fits."""
        if self.measure == "units":
            size = self.parameters[model]
            return num_samples_for(budget, size, self.prompt_tokens, self.completion_tokens, unit=self.unit)
        most = budget * (1 + 1e-9) + 1e-15
        if self.measure == "seconds":  # the latency of more samples than were measured is not known
            measured = [count for count, seconds in self.pass_of(model).seconds if seconds <= most]
            return max(measured, default=int(self.units(model, 1) <= most))
        return bisect_right(range(1, UNLIMITED + 1), most, key=lambda count: self.units(model, count))


SHOWN: Mapping[CostMeasure, tuple[float, str]] = {
    "usd": (1000.0, "USD per 1,000 requests"),
    "seconds": (1.0, "seconds"),
    "units": (1.0, "units"),
    "tokens": (1.0, "tokens"),
}
"""Measure -> how many examples a cost is shown for, and the words for it."""


def format_cost(cost: float, measure: CostMeasure) -> str:
    """`12.3` units, `0.42` USD per 1,000 requests, or `1.24` seconds."""
    if measure == "usd":
        return format_usd(SHOWN["usd"][0] * cost)
    return f"{cost:.2f}" if measure == "seconds" else f"{cost:.1f}"


def cost_in_words(cost: float, measure: CostMeasure) -> str:
    """`12.3 units`, `0.42 USD per 1,000 requests`, or `1.24 seconds`."""
    return f"{format_cost(cost, measure)} {SHOWN[measure][1]}"
