"""The Pareto front of a run, from which a request with a budget gets its candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentopt.core.called_models import called_models
from agentopt.core.candidate import Candidate
from agentopt.core.errors import CandidateError
from agentopt.core.task import Task
from agentopt.core.ties import highest
from agentopt.evaluation.candidate_check import checked_candidate
from agentopt.models.api_keys import unset_keys
from agentopt.models.catalog import ModelSpec
from agentopt.runs.result import Result


@dataclass(frozen=True, slots=True)
class FrontCandidate:
    """A candidate of the front.

    Attributes:
        candidate: The candidate.
        usd: Mean USD of a request, as measured on the validation split.
        score: Its posterior mean score.
    """

    candidate: Candidate
    usd: float
    score: float


def front_of(result: Result, task: Task, specs: Mapping[str, ModelSpec]) -> tuple[FrontCandidate, ...]:
    """Return the Pareto front of a run, cheapest first, without candidates that cannot be served.

    Args:
        result: The run's result.
        task: The task that is served.
        specs: Catalogue entries of its models, by name. A model whose key is not set is not served.
    """
    lines = {line.number: line for line in result.trials if line.number in result.pareto}
    found = [
        FrontCandidate(line.candidate, line.measures.usd, line.shrunk)
        for line in lines.values()
        if line.measures and line.measures.usd > 0 and line.shrunk is not None
    ]
    served = [one for one in found if _fits(one.candidate, task) and not _lacks_key(one.candidate, task, specs)]
    return tuple(sorted(served, key=lambda one: (one.usd, -one.score)))


def best_under(front: Sequence[FrontCandidate], usd: float) -> FrontCandidate | None:
    """Return the candidate with the highest score that costs at most `usd` per request; None if there is none."""
    return highest((one for one in front if one.usd <= usd), lambda one: one.score, lambda one: one.usd)


def _fits(candidate: Candidate, task: Task) -> bool:
    try:
        checked_candidate(candidate, task)
    except CandidateError:
        return False
    return True


def _lacks_key(candidate: Candidate, task: Task, specs: Mapping[str, ModelSpec]) -> bool:
    return bool(unset_keys(specs[name] for name in called_models(task, candidate)))
