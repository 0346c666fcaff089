"""The budget of one request: `TASK@0.002usd` as its model, or the header `agentopt-max-usd`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

from agentopt.core.candidate import Candidate
from agentopt.core.errors import ApiError
from agentopt.core.usd_text import format_usd
from agentopt.deploy.pareto_front import FrontCandidate, best_under
from agentopt.models.openai_format import ChatCall

HEADER = "agentopt-max-usd"
_SUFFIX = re.compile(r"@(?P<usd>[^@/]*)usd", re.IGNORECASE)


def model_of(name: str) -> str:
    """Return the name of a model without a budget."""
    head, _ = _split(name)
    return head


def with_budget(call: ChatCall, header: str | None) -> tuple[ChatCall, float | None]:
    """Take the budget from a call.

    Args:
        call: The call.
        header: Value of the header `agentopt-max-usd`; None if it was not sent.

    Returns:
        The call with the model's own name, and the most USD that it may cost on average; the lower one if both the
        model and the header have one.

    Raises:
        ApiError: A budget is not a positive number.
    """
    model, suffix = _split(call.model)
    budgets = [_usd(text, param) for text, param in ((suffix, "model"), (header, HEADER)) if text is not None]
    return replace(call, model=model), min(budgets, default=None)


def candidate_under(front: Sequence[FrontCandidate], usd: float, model: str, task: str) -> Candidate:
    """Return the candidate of the front that a request with a budget gets.

    Args:
        front: The candidates, cheapest first.
        usd: The budget.
        model: The model that the request names.
        task: Name of the task.

    Raises:
        ApiError: The budget is below the cheapest candidate, the run has no front, or a subtask is called.
    """
    if model != task:
        rule = f"a budget is for a request to the whole task, {task}, but got {model}"
        raise ApiError(400, rule, param="model", code="unsupported_parameter")
    if not front:
        rule = "a budget needs a run with costs in USD, but the served candidate comes from none"
        raise ApiError(400, rule, param="model", code="unsupported_parameter")
    if found := best_under(front, usd):
        return found.candidate
    rule = f"the budget of {format_usd(usd)} USD is below the cheapest candidate's {format_usd(front[0].usd)} USD"
    raise ApiError(400, f"{rule} per request", param="model", code="budget_too_low")


def _split(name: str) -> tuple[str, str | None]:
    head, at, rest = name.rpartition("@")
    found = _SUFFIX.fullmatch(at + rest)
    return (head, found["usd"]) if found else (name, None)


def _usd(text: str, param: str) -> float:
    try:
        usd = float(text)
    except ValueError:
        usd = math.nan
    if not (usd > 0 and math.isfinite(usd)):
        rule = f"a budget must be a positive number of USD, such as 0.002, but got {text[:40]!r}"
        raise ApiError(400, rule, param=param, code="invalid_value")
    return usd
