"""Sentences on the cascades of tested finalists: how often they escalate, and what that saves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from agentopt.core.axes import escalating
from agentopt.core.comparison import compare
from agentopt.core.records import Evaluation, Trial
from agentopt.core.task import Task


def cascade_notes(
    task: Task, finalists: Sequence[Trial], tested: Mapping[int, Evaluation], baseline: int, *, seed: int = 0
) -> Iterator[str]:
    """Yield a sentence for each tested finalist with a cascade.

    Args:
        task: The task.
        finalists: The trials.
        tested: Trial number -> evaluation on the test split.
        baseline: Number of the baseline's trial, which the cascades are compared with.
        seed: Seeds the interval.
    """
    for trial in finalists:
        bigs = {s.name: big for s in task.subtasks if (big := escalating(s, trial.candidate[s.name]))}
        if bigs and trial.number in tested:
            found, of_baseline = tested[trial.number], tested.get(baseline)
            shares = (_share(found, name, trial.candidate[name].model, big) for name, big in bigs.items())
            compared = _against(found, of_baseline, seed) if of_baseline else ""
            yield f"trial {trial.number} on the test split: {', '.join(shares)}{compared}"


def _share(evaluation: Evaluation, subtask: str, small: str, big: str) -> str:
    called = sum(subtask in result.subtasks for result in evaluation.results)
    share = evaluation.total("escalated", subtask) / max(called, 1)
    return f"{subtask} escalates {share:.0%} of the examples from {small} to {big}"


def _against(evaluation: Evaluation, baseline: Evaluation, seed: int) -> str:
    own, other = (e.per_example("usd") + e.per_example("fusion_usd") for e in (evaluation, baseline))
    usd = f"; USD {1000 * own:.4g} per 1,000 requests, {1 - own / other:.0%} less than the baseline" if other else ""
    difference = compare(evaluation, baseline, seed=seed)
    if difference is None:
        return usd
    interval = difference.interval
    return f"{usd}; score {difference.mean:+.3f} ({interval.low:+.3f} to {interval.high:+.3f}) against it"
