"""The attempts of one call: which failures count as what, and how long is waited after each.

Not `tenacity`: its objects for each call took a seventh of the processor time of a call that succeeds.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from agentopt.core.errors import AgentoptError, BudgetExceeded, ModelError, TransientModelError
from agentopt.models.catalog import ModelSpec

LONGEST_BACKOFF = 30.0
"""Most seconds between two attempts, unless the provider requests more."""
THROTTLED = ("HTTP 429", "HTTP 529")
"""Failures after which fewer calls to the model are made at a time (`rate_limit`)."""


def wait_after(
    number: int, error: TransientModelError, spec: ModelSpec, uniform: Callable[[float, float], float] = random.uniform
) -> float:
    """Return the seconds between a failed attempt and the next: an exponential backoff with jitter.

    If the provider requests a longer wait, it is that.

    Args:
        number: Number of the attempt, from 1.
        error: Its failure.
        spec: The catalogue entry of the model.
        uniform: Draws the jitter.
    """
    first = spec.backoff_seconds
    backoff = first * 2.0 ** min(number - 1, 32) + uniform(0.0, first)
    return max(error.retry_after or 0.0, min(backoff, LONGEST_BACKOFF))


def kind_of(error: AgentoptError) -> str:
    """Return the word that a failed attempt is counted by.

    Args:
        error: The failure.
    """
    if isinstance(error, ModelError):
        return error.kind
    return "time was up" if isinstance(error, BudgetExceeded) else "not sent"
