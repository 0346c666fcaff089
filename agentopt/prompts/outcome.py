"""The outcome of optimising one system prompt, as data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from agentopt.core.stats import Floats
from agentopt.prompts.covariance import variance_parts


class PromptDecision(StrEnum):
    """What became of the seed prompt. All but `REPLACED` keep it."""

    REPLACED = "replaced"
    """The winner of the race is better on validation rows too."""
    NOT_CONFIRMED = "not confirmed"
    """Another prompt won the race, but validation rows do not confirm it."""
    NOT_WORTH_IT = "not worth it"
    """The seed prompt won the race."""
    NOTHING_TO_GAIN = "nothing to gain"
    """Every answer of the seed prompt on the training examples had the full reward."""
    NOT_CALLED = "not called"
    """The subtask was called on none of the training examples, because a subtask before it had no value."""
    NOTHING_WRITTEN = "nothing written"
    """The proposers returned no new prompt."""
    FAILED = "failed"
    """Calls failed, so there is no comparison with the seed prompt."""
    TOO_SMALL = "too small"
    """A race and one validation do not fit in the share of the caps, so nothing was spent."""
    CUT_SHORT = "cut short"
    """A cap was reached before a winner was compared with the seed prompt."""
    UNKNOWN = "unknown"
    """Recorded by version 0.1.0, which kept a sentence instead."""


@dataclass(frozen=True, slots=True)
class RaceRewards:
    """Rewards of a race: mean by system prompt and training example, and the parts of their variance.

    Attributes:
        system_prompts: The prompts, the seed prompt first.
        proposers: What wrote each prompt.
        examples: Ids of the training examples that were drawn.
        mean: Mean rewards, a row for each system prompt and a column for each example; None if not drawn.
        signal: Variance between system prompts of the expected mean reward; None if no cell has two responses.
        noise: Variance of the mean reward due to sampling few responses.
        within: Variance of one response.
    """

    system_prompts: tuple[str, ...]
    proposers: tuple[str, ...]
    examples: tuple[str, ...]
    mean: tuple[tuple[float | None, ...], ...]
    signal: float | None = None
    noise: float | None = None
    within: float | None = None


def race_rewards(
    table: Floats, system_prompts: Sequence[str], proposers: Sequence[str], examples: Sequence[str]
) -> RaceRewards | None:
    """Return the rewards of a race as data; None if there are none.

    Args:
        table: Rewards of shape (system prompts, examples, repeats), NaN if not drawn.
        system_prompts: The prompts, in the order of axis 0.
        proposers: What wrote each prompt.
        examples: Ids of the examples, in the order of axis 1.
    """
    drawn = np.flatnonzero((~np.isnan(table)).any(axis=(0, 2)))
    if not drawn.size:
        return None
    table = table[:, drawn]
    count = (~np.isnan(table)).sum(axis=2)
    mean = np.where(count > 0, np.nansum(table, axis=2) / np.maximum(count, 1), np.nan)
    parts: tuple[float | None, ...] = (None, None, None)
    with suppress(ValueError):  # too few responses
        found = variance_parts(table)
        parts = (found.signal, found.noise, found.within)
    return RaceRewards(
        tuple(system_prompts),
        tuple(proposers),
        tuple(examples[int(k)] for k in drawn),
        tuple(tuple(None if math.isnan(value) else value for value in row) for row in mean.tolist()),
        *parts,
    )
