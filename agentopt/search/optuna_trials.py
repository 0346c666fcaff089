"""Converts trials and candidates to Optuna's `FrozenTrial` and parameters, and back.

The run's study (`runs.trial_store`) and the samplers share this representation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from agentopt.core.candidate import Candidate
from agentopt.core.records import Trial
from agentopt.search.base import SearchSpace
from agentopt.search.neighbourhood import without_limits

_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "incomplete": TrialState.FAIL}


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The study's parameters: `<subtask>.model`, `<subtask>.num_samples` on a logarithmic scale, and each setting.

    `candidate_of` rounds an integer that is not an allowed sample count to the nearest allowed one.
    """
    found: dict[str, BaseDistribution] = {}
    for s in space.subtasks:
        found[f"{s.name}.model"] = CategoricalDistribution(s.models)
        found[f"{s.name}.num_samples"] = IntDistribution(s.num_samples[0], s.num_samples[-1], log=True)
        found |= {f"{s.name}.{axis.name}": CategoricalDistribution(axis.values) for axis in s.settings}
    return found


def params_of(space: SearchSpace, candidate: Candidate) -> dict[str, Any]:
    """Convert a candidate to the study's parameters; system prompts are left out.

    A setting that a choice does not have is at its first value: Optuna's parameters are those of every trial.
    """
    named: dict[str, Any] = {}
    for s in space.subtasks:
        choice = candidate[s.name]
        named[f"{s.name}.model"] = choice.model
        named[f"{s.name}.num_samples"] = choice.num_samples
        given = dict(choice.settings)
        named |= {f"{s.name}.{axis.name}": given.get(axis.name, axis.values[0]) for axis in s.settings}
    return named


def candidate_of(space: SearchSpace, params: Mapping[str, Any]) -> Candidate:
    """Convert the study's parameters to a candidate with seed prompts; it may be above the cost limit."""
    allocation = {}
    for s in space.subtasks:
        wanted = params[f"{s.name}.num_samples"]
        nearest = min(s.num_samples, key=lambda count: abs(count - wanted))
        settings = {axis.name: params[f"{s.name}.{axis.name}"] for axis in s.settings}
        allocation[s.name] = (params[f"{s.name}.model"], nearest, settings)
    return space.candidate(allocation)


def is_representable(space: SearchSpace, candidate: Candidate) -> bool:
    """Whether the study's distributions contain it: history may hold models or counts that the space no longer has."""
    return without_limits(space).contains(candidate)


def to_frozen_trial(
    space: SearchSpace,
    trial: Trial,
    *,
    user_attrs: Mapping[str, Any] | None = None,
    system_attrs: Mapping[str, Any] | None = None,
) -> FrozenTrial:
    """Convert a trial to Optuna's.

    Args:
        space: The space whose distributions contain the trial's candidate.
        trial: A complete trial becomes COMPLETE with its score, a pruned one PRUNED with its partial score as the
            intermediate value, an incomplete one FAIL.
        user_attrs: The Optuna trial's user attributes.
        system_attrs: The Optuna trial's system attributes, which some samplers keep their state in.
    """
    scores = trial.evaluation.scores
    score = sum(scores.values()) / len(scores) if scores else None
    state = _STATES[trial.state] if score is not None else TrialState.FAIL
    return create_trial(
        state=state,
        value=score if state == TrialState.COMPLETE else None,
        intermediate_values={} if score is None else {len(scores): score},
        params=params_of(space, trial.candidate),
        distributions=distributions(space),
        constraints=_constraints(space, trial.candidate),
        user_attrs=dict(user_attrs or {}),
        system_attrs=dict(system_attrs or {}),
    )


def to_running_trial(space: SearchSpace, candidate: Candidate) -> FrozenTrial:
    """Convert a candidate to a RUNNING trial, so that samplers that impute running trials avoid it."""
    return create_trial(
        state=TrialState.RUNNING,
        params=params_of(space, candidate),
        distributions=distributions(space),
        constraints=_constraints(space, candidate),
    )


def _constraints(space: SearchSpace, candidate: Candidate) -> dict[str, float]:
    """Optuna's constraints, one for each cost limit: the cost above it, feasible at 0 or less."""
    return {measure: space.cost(candidate, measure) - most for measure, most in space.limits}
