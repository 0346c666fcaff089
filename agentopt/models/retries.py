"""The attempts of one call: how many there are, and how long each waits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from agentopt.core.errors import AgentoptError, BudgetExceeded, ModelError, TransientModelError
from agentopt.models.catalog import ModelSpec

LONGEST_BACKOFF = 30.0
"""Most seconds between two attempts, unless the provider requests more."""


def attempts(spec: ModelSpec, sleep: Callable[[float], Awaitable[None]]) -> AsyncRetrying:
    """Return the attempts of one call to a model, which follow a `TransientModelError`.

    Args:
        spec: The catalogue entry of the model.
        sleep: Waits for a number of seconds.
    """
    return AsyncRetrying(
        stop=stop_after_attempt(spec.max_attempts),
        retry=retry_if_exception_type(TransientModelError),
        wait=_waits(spec.backoff_seconds),
        sleep=sleep,
        reraise=True,
    )


def kind_of(error: AgentoptError) -> str:
    """Return the word that a failed attempt is counted by.

    Args:
        error: The failure.
    """
    if isinstance(error, ModelError):
        return error.kind
    return "time was up" if isinstance(error, BudgetExceeded) else "not sent"


def _waits(first: float) -> Callable[[RetryCallState], float]:
    """Exponential backoff with jitter, or as long as the provider requests, whichever is longer."""
    backoff = wait_exponential_jitter(multiplier=first, max=LONGEST_BACKOFF, jitter=first)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        requested = error.retry_after if isinstance(error, TransientModelError) and error.retry_after else 0.0
        return max(requested, backoff(state))

    return wait
