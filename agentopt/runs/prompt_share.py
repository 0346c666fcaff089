"""The share of a run that prompt optimisation may use, and the races that fit in it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from agentopt.core.budget import Caps, Usage
from agentopt.prompts.race import LEAST_EACH, RacePlan
from agentopt.prompts.settings import PromptSettings
from agentopt.runs.config import Config


def prompt_limits(config: Config, others: Usage) -> Caps:
    """Most usage of all prompt phases together: `prompts.share` of each cap.

    Without a cap on calls, tokens or USD, calls are limited to that share of the run's worst case.

    Args:
        config: The settings of the run.
        others: Worst case of everything else in the run.
    """
    caps, share = config.budget.caps(), config.prompts.share
    if caps.calls is caps.tokens is caps.usd is None and share < 1:
        caps = replace(caps, calls=int(others.calls / (1 - share)))
    return caps.scaled(share)


@dataclass(frozen=True, slots=True)
class Beside:
    """What a run pays or keeps before any race of prompts.

    Attributes:
        first: The baseline on the validation split, and the search for demonstrations.
        test: The test of all finalists, of which at most half of a cap is kept.
    """

    first: Usage
    test: Usage

    def of(self, caps: Caps) -> Usage:
        """Both, under these caps."""
        return self.first + self.test.lower(caps.scaled(0.5).usage)


def left_beside(caps: Caps, beside: Beside, most: Caps) -> Caps:
    """`most`, or what the caps leave beside other purposes if that is less.

    Args:
        caps: The caps of the run.
        beside: What is paid or kept for other purposes.
        most: Most usage to return.
    """
    reserved = beside.of(caps)
    left = {
        name: max(0, min(getattr(most, name), cap - getattr(reserved, name)))
        for name in ("usd", "tokens", "calls")
        if (cap := getattr(caps, name)) is not None
    }
    return replace(most, **left)


def caps_for(needed: Usage, limits: Caps, share: float, beside: Beside) -> tuple[str, ...]:
    """The least caps that have room for `needed`, such as `budget.usd=0.8`; empty if the limits have.

    Their share has room for it, and so has what they leave beside other purposes.

    Args:
        needed: Usage of the smallest races.
        limits: Most usage of all races; see `prompt_limits` and `left_beside`.
        share: `prompts.share`.
        beside: What is paid or kept for other purposes.
    """
    short = [
        name
        for name in ("calls", "tokens", "usd")
        if (limit := getattr(limits, name)) is not None and getattr(needed, name) > limit
    ]
    least = {
        name: _least_cap(
            *(getattr(of, name) for of in (needed, beside.first, beside.test)), share=share, is_count=name != "usd"
        )
        for name in short
    }
    return tuple(f"budget.{name}={cap:.10g}" for name, cap in least.items())


def _least_cap(needed: float, first: float, test: float, *, share: float, is_count: bool) -> float:
    """The least cap whose share is `needed` or more, and that leaves it beside `first` and the test."""
    used = needed + first
    least = max(needed / share, min(used + test, 2 * used - is_count))  # the test keeps half, rounded down, at most
    if not is_count:
        return math.ceil(least * 1e4) / 1e4
    cap = math.ceil(least - 1e-6)
    return cap if int(cap * share) >= needed else cap + 1


@dataclass
class PromptShare:
    """What is left of the share. It counts what races draw, from the journal too, so a resumed run plans the same.

    Attributes:
        limits: Most usage of all races and validations; see `prompt_limits`.
        settings: The settings of prompt optimisation.
        writer_calls: Calls of a prompt-writing model for each proposal: 1, or 0 without one.
        used: Estimated usage so far.
    """

    limits: Caps
    settings: PromptSettings
    writer_calls: int
    used: Usage = field(default_factory=Usage)

    def least(self, parts: int, response: Usage, fixed: Usage) -> Usage:
        """Estimate the usage of the smallest races, of two prompts each, and of those before.

        Args:
            parts: Number of races that are left.
            response: Estimated usage of one response of a race.
            fixed: Estimated usage beside the responses of a race, such as the validation of its winner.
        """
        calls = self.writer_calls * self.settings.rounds * self.settings.batch_size
        race = response * (2 * min(LEAST_EACH, self.settings.responses))
        return self.used + (race + fixed + Usage(calls=calls)) * parts

    def plan(self, parts: int, response: Usage, fixed: Usage) -> RacePlan | None:
        """The largest race that fits; None if there is none.

        Args:
            parts: Number of races that are left, this one included; each may use an equal part.
            response: Estimated usage of one response of the race.
            fixed: Estimated usage beside its responses, such as the validation of its winner.
        """
        calls = self.writer_calls * self.settings.rounds * self.settings.batch_size
        needed = fixed + Usage(calls=calls)
        fits = math.inf
        for name in ("calls", "tokens", "usd"):
            limit, each = getattr(self.limits, name), getattr(response, name)
            if limit is not None and each:
                left = (limit - getattr(self.used, name)) / parts - getattr(needed, name)
                fits = min(fits, left / each)
        return RacePlan.within(self.settings, max(0.0, fits))

    def charge(self, usage: Usage) -> None:
        """Count the estimated usage of a race or a validation."""
        self.used += usage
