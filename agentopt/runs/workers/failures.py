"""Failures of a worker as JSON, and the exceptions that they become in the coordinator."""

from __future__ import annotations

import json

from agentopt.core.errors import AgentoptError, BudgetExceeded, CallsFailError, EvaluationStopped, TaskError


def as_json(error: BaseException) -> str:
    """Return what the coordinator needs to raise the failure.

    Args:
        error: What a worker's chunk ended with.
    """
    if isinstance(error, BudgetExceeded):
        amounts = {"cap": error.cap, "spent": error.spent, "wanted": error.wanted, "kept": error.kept}
        return json.dumps({"cap": error.name, "amounts": amounts})
    if isinstance(error, CallsFailError):
        return json.dumps({"message": error.message})
    shown = str(error) if isinstance(error, AgentoptError) else f"{type(error).__name__}: {error}"
    return json.dumps({"message": f"a worker failed: {shown}", "is_task": isinstance(error, TaskError)})


def in_a_line(text: str) -> str:
    """Return what failed, without a remedy, on one line.

    Args:
        text: As `as_json` returned it.
    """
    error = as_error(text)
    message = error.message if isinstance(error, BudgetExceeded) else str(error)
    return message.partition("\n")[0]


def as_error(text: str) -> EvaluationStopped | TaskError:
    """Return the exception to raise.

    Args:
        text: As `as_json` returned it.
    """
    failure = json.loads(text)
    if "cap" in failure:
        return BudgetExceeded(failure["cap"], **failure["amounts"])
    if failure.get("is_task"):
        return TaskError(failure["message"])
    return CallsFailError(failure["message"], remedy="fix the cause and start again")
