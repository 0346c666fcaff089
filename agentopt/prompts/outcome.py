"""The outcome of optimising one system prompt, as data."""

from __future__ import annotations

from enum import StrEnum


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
