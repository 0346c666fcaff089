"""Optuna as a strategy, and an Optuna sampler that knows the insights of AgentTTS and the cost limit.

`OptunaStrategy` is what the loop falls back on when the agent cannot propose; alone it is the strategy `optuna`.
It keeps nothing: every call rebuilds a study in memory from the trials. `InsightSampler` also works in a study of
one's own, whose parameters are named and bounded by `distributions`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from agentopt.candidate import Candidate
from agentopt.errors import ConfigError
from agentopt.search.base import Proposal, SearchSpace
from agentopt.search.insights import next_by_insight
from agentopt.search.moves import nearest_untried
from agentopt.trial import Trial

COST_CONSTRAINT = "units"
"""Name of the Optuna constraint: units above the cost limit, feasible at 0 or less."""

SamplerFactory = Callable[[SearchSpace, int], BaseSampler]
"""(space, seed) -> a fresh sampler."""


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The study's parameters: `<subtask>.model`, and `<subtask>.num_samples` on a logarithmic scale.

    An integer that is not an allowed sample count stands for the nearest allowed one.
    """
    found: dict[str, BaseDistribution] = {}
    for s in space.subtasks:
        found[f"{s.name}.model"] = CategoricalDistribution(s.models)
        found[f"{s.name}.num_samples"] = IntDistribution(s.num_samples[0], s.num_samples[-1], log=True)
    return found


def params_of(candidate: Candidate) -> dict[str, Any]:
    """A candidate as the study's parameters; system prompts are not among them."""
    named: dict[str, Any] = {}
    for name, choice in candidate.items():
        named[f"{name}.model"] = choice.model
        named[f"{name}.num_samples"] = choice.num_samples
    return named


def candidate_of(space: SearchSpace, params: Mapping[str, Any]) -> Candidate:
    """The candidate that the study's parameters stand for, with seed prompts; it may be above the cost limit."""
    allocation = {}
    for s in space.subtasks:
        wanted = params[f"{s.name}.num_samples"]
        nearest = min(s.num_samples, key=lambda count: abs(count - wanted))
        allocation[s.name] = (params[f"{s.name}.model"], nearest)
    return space.candidate(allocation)


class InsightSampler(BaseSampler):
    """Every model once per subtask, then short steps from the best few trials, and TPE when those are exhausted.

    The first trials are `insights.initial_candidates`; the steps are `insights.neighbourhood` of the `parents` best
    complete trials, so everything sampled that way is affordable and new. Works in any single-objective study,
    maximising or minimising, whose parameters are those of `distributions(space)`. Deterministic for a `seed`.
    """

    def __init__(self, space: SearchSpace, *, seed: int = 0, parents: int = 3) -> None:
        self._space, self._parents = space, parents
        self._rng = random.Random(seed)
        self._beneath = TPESampler(seed=seed)

    def reseed_rng(self) -> None:
        self._rng.seed()
        self._beneath.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self._raise_error_if_multi_objective(study)
        return distributions(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        whole = [t for t in others if search_space.keys() <= t.params.keys()]
        known = {t.number: candidate_of(self._space, t.params) for t in whole}
        ranked = [known[t.number] for t in self._best(study, whole)]
        tried = set(known.values())
        candidate = next_by_insight(self._space, tried, ranked[: self._parents], self._rng)
        if candidate is None:
            candidate = self._from_tpe(study, trial, tried)
        return params_of(candidate) if candidate else {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._beneath.sample_independent(study, trial, param_name, param_distribution)

    def _best(self, study: Study, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
        scored = [(sign * t.value, t) for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
        feasible = [pair for pair in scored if all(value <= 0 for value in pair[1].constraints.values())]
        return [t for _, t in sorted(feasible, key=lambda pair: (pair[0], pair[1].number))]

    def _from_tpe(self, study: Study, trial: FrozenTrial, tried: set[Candidate]) -> Candidate | None:
        space = distributions(self._space)
        sampled = self._beneath.sample_relative(study, trial, {k: d for k, d in space.items() if not d.single()})
        for name, distribution in space.items():
            if name not in sampled:
                sampled[name] = self._beneath.sample_independent(study, trial, name, distribution)
        return nearest_untried(self._space, candidate_of(self._space, sampled), tried)


SAMPLERS: Mapping[str, SamplerFactory] = {
    "insight": lambda space, seed: InsightSampler(space, seed=seed),
    "tpe": lambda space, seed: TPESampler(seed=seed),
}
"""Samplers by name, for configuration."""


class OptunaStrategy:
    """Asks an Optuna sampler, seeded by (`seed`, number of trials), with all of history told.

    Complete trials are told with their score, pruned ones with the partial score, incomplete ones as failed. What
    the sampler asks for becomes the nearest affordable untried candidate: it never repeats and never overspends.
    `sampler` is a name in `SAMPLERS` or a factory. Raises `ConfigError` for an unknown name.
    """

    def __init__(self, seed: int = 0, sampler: str | SamplerFactory = "insight", *, proposer: str = "optuna") -> None:
        self._seed, self._proposer = seed, proposer
        self._factory = _named(sampler) if isinstance(sampler, str) else sampler

    async def propose(self, space: SearchSpace, trials: Sequence[Trial], k: int) -> list[Proposal]:
        study = self._study(space, trials)
        taken = {t.candidate for t in trials}
        proposals: list[Proposal] = []
        while len(proposals) < k:
            asked = study.ask(distributions(space))
            candidate = nearest_untried(space, candidate_of(space, asked.params), taken)
            if candidate is None:
                break
            taken.add(candidate)
            proposals.append(Proposal(candidate, self._proposer, str(study.sampler)))
            if params_of(candidate) != asked.params:
                study.tell(asked, state=TrialState.FAIL)
                study.add_trial(_running(space, candidate))
        return proposals

    def _study(self, space: SearchSpace, trials: Sequence[Trial]) -> Study:
        seed = random.Random(f"{self._seed} {len(trials)}").getrandbits(31)
        with _quiet():
            study = optuna.create_study(direction="maximize", sampler=self._factory(space, seed))
        study.add_trials([_told(space, t) for t in trials if _allowed(space, t.candidate)])
        return study


def _named(sampler: str) -> SamplerFactory:
    if sampler not in SAMPLERS:
        raise ConfigError(f"the Optuna sampler must be one of {', '.join(SAMPLERS)}, but got {sampler!r}")
    return SAMPLERS[sampler]


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna announces each new study in its log; ours live for one question only."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _allowed(space: SearchSpace, candidate: Candidate) -> bool:
    """Whether Optuna can be told: history may hold models or counts that the space no longer has."""
    return replace(space, max_units=None).contains(candidate)


def _told(space: SearchSpace, trial: Trial) -> FrozenTrial:
    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "incomplete": TrialState.FAIL}
    score, scored = trial.score, len(trial.evaluation.scores)
    state = states[trial.state] if score is not None else TrialState.FAIL
    return create_trial(
        state=state,
        value=score if state == TrialState.COMPLETE else None,
        intermediate_values={} if score is None else {scored: score},
        params=params_of(trial.candidate),
        distributions=distributions(space),
        constraints=_constraints(space, trial.candidate),
    )


def _running(space: SearchSpace, candidate: Candidate) -> FrozenTrial:
    """The candidate that stands in for what was asked, so that the sampler keeps away from it in this batch."""
    return create_trial(
        state=TrialState.RUNNING,
        params=params_of(candidate),
        distributions=distributions(space),
        constraints=_constraints(space, candidate),
    )


def _constraints(space: SearchSpace, candidate: Candidate) -> dict[str, float]:
    if space.max_units is None:
        return {}
    # Rounding alone is no violation: the space allows the same slack.
    return {COST_CONSTRAINT: space.units(candidate) - space.max_units - 1e-9}
