"""What a run keeps of its caps for the final test."""

from __future__ import annotations

from agentopt.core.budget import Budget, Usage
from agentopt.core.task import Task
from agentopt.models.session import Session
from agentopt.runs.config import Config
from agentopt.runs.worst_case import FINALISTS, kept_for_test
from agentopt.search.base import SearchSpace


def usage_kept(task: Task, space: SearchSpace, session: Session, config: Config) -> Usage:
    """The worst case of testing three finalists, at most half of each cap.

    Args:
        task: The task.
        space: Its search space.
        session: The models of the run.
        config: The settings of the run.
    """
    return kept_for_test(task, space, session.limited_specs).lower(config.budget.caps().scaled(0.5).usage)


def seconds_kept(task: Task, budget: Budget, on_validation: float) -> float:
    """Seconds for three finalists on the test split at the baseline's pace, at most half of the time left.

    Args:
        task: The task.
        budget: The budget of the run.
        on_validation: Seconds that the baseline took on the validation split.
    """
    share = len(task.splits.get("test", ())) / len(task.splits["validation"])
    return min(FINALISTS * share * on_validation, (budget.seconds_left or 0.0) / 2)
