"""The cap with which a run that a cap ended is expected to finish. Makes no model call."""

from __future__ import annotations

from dataclasses import replace

from agentopt.core.errors import BudgetExceeded, EvaluationStopped, NothingEvaluated
from agentopt.core.stop_reason import StopReason
from agentopt.core.task import Task
from agentopt.models.session import Session
from agentopt.runs.config import Config
from agentopt.runs.expected_case import expected_case
from agentopt.runs.expected_lengths import expected_lengths
from agentopt.runs.pace import seconds_of
from agentopt.runs.worst_case import FINALISTS, estimate, kept_for_test
from agentopt.search.base import SearchSpace
from agentopt.search.from_task import needs_measuring, search_space, unlimited_space


async def with_finishing_cap(
    error: EvaluationStopped, task: Task, space: SearchSpace, session: Session, config: Config, trials_left: int
) -> StopReason:
    """Return why the search ended, with the cap that is expected to pay for the rest of the run.

    Args:
        error: What ended the search.
        task: The task.
        space: Its search space.
        session: The models, the journal and the budget of the run.
        config: The settings of the run.
        trials_left: Trials that the search did not begin.
    """
    stopped = error.stopped
    if not isinstance(error, BudgetExceeded) or (name := stopped.run_cap) is None:
        return stopped
    specs, journal = session.limited_specs, session.journal
    lengths = await expected_lengths(task, specs, journal, config.response_seed)
    worst = estimate(task, space, specs, config, journal)
    expected = expected_case(task, space, specs, config, worst, journal, lengths)
    trials = min(config.budget.trials, space.size)
    if name == "seconds":
        done = config.budget.trials - trials_left - 1
        rest = seconds_of(expected.total, specs, journal)
        if done > 0:
            rest = error.spent / done * (max(trials - done, 0) + _tests(task))
        # Without a trial and a pace only the time so far is known, which loading and opening models may have taken.
        return replace(stopped, finishes=max(error.spent + rest, error.enough) if rest else 4 * error.spent)
    search, test, total = (getattr(usage, name) for usage in (expected.search, expected.test, expected.total))
    left = min(1.0, (trials_left + 1) / trials)  # the present trial is not complete
    # A call needs room for its worst case, and the search leaves that of the test, of at most half of the cap.
    before_test = max(total - test, error.spent + left * search) + error.wanted
    kept = min(getattr(kept_for_test(task, space, specs), name), before_test)
    return replace(stopped, finishes=max(before_test + max(kept, test), error.enough))


async def finishing_before_search(
    error: EvaluationStopped | NothingEvaluated, task: Task, session: Session, config: Config
) -> StopReason:
    """Return why a run ended, with the cap that is expected to pay for all of it if a cap ended it before its search.

    Args:
        error: What ended the run.
        task: The task.
        session: The models, the journal and the budget of the run.
        config: The settings of the run.
    """
    if not isinstance(error, BudgetExceeded):
        return error.stopped
    specs = session.specs
    space = unlimited_space(task, specs) if needs_measuring(task) else search_space(task, specs)
    return await with_finishing_cap(error, task, space, session, config, config.budget.trials - 1)


def _tests(task: Task) -> float:
    """The test of the finalists, in trials."""
    return FINALISTS * len(task.splits.get("test", ())) / len(task.splits["validation"])
