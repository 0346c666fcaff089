"""Optuna samplers by name, and `InsightSampler`, the surrogate in a study of Optuna's."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from agentopt.core.candidate import Candidate
from agentopt.core.errors import ConfigError
from agentopt.search.base import SearchSpace
from agentopt.search.neighbourhood import nearest_untried
from agentopt.search.optuna_trials import candidate_of, distributions, params_of
from agentopt.search.posterior import TOLERANCE
from agentopt.search.settings import StartName
from agentopt.search.start import first_candidates
from agentopt.search.surrogate import Scores, most_promising

POPULATION = 10
"""Trials in one generation of the genetic sampler; Optuna's default of 50 would spend a whole run on the first."""

SamplerFactory = Callable[[SearchSpace, int], BaseSampler]
"""Makes a new sampler from (space, seed)."""


class InsightSampler(BaseSampler):
    """Samples the first trials, then the candidate with the greatest expected improvement.

    Its suggestions are affordable and never repeated. It works in any single-objective study, maximising or minimising,
    whose parameters are `optuna_trials.distributions(space)`. A pruned trial counts with its last intermediate value,
    but never as better than the best complete trial.

    Args:
        space: The space to search.
        seed: Makes the sampler deterministic.
        start: The first trials.
    """

    def __init__(self, space: SearchSpace, *, seed: int = 0, start: StartName = "largest") -> None:
        self._space, self._seed, self._start = space, seed, start
        self._others = RandomSampler(seed=seed)

    def reseed_rng(self) -> None:
        self._seed = random.Random().getrandbits(31)
        self._others.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self._raise_error_if_multi_objective(study)
        return distributions(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        whole = [t for t in others if search_space.keys() <= t.params.keys()]
        known = {t.number: candidate_of(self._space, t.params) for t in whole}
        tried = dict.fromkeys(known.values())
        first = next((c for c in first_candidates(self._space, self._start, 0) if c not in tried), None)
        candidate = first or self._most_promising(study, whole, known)
        # If nothing is left, Optuna samples the parameters independently: a study may be longer than the space.
        return params_of(self._space, candidate) if candidate else {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._others.sample_independent(study, trial, param_name, param_distribution)

    def _most_promising(
        self, study: Study, trials: list[FrozenTrial], known: Mapping[int, Candidate]
    ) -> Candidate | None:
        pending = [known[t.number] for t in trials if t.state in (TrialState.RUNNING, TrialState.WAITING)]
        scores = _scores(study, trials)
        candidates, mean = [known[number] for number in scores], np.array(list(scores.values()), dtype=np.float64)
        scored = Scores(candidates, mean, np.full(len(mean), np.nan))
        tried = set(known.values())
        # In a huge space with a tight limit all sampled candidates may be too costly: then search near the best one.
        near = candidates[int(mean.argmax())] if candidates else self._space.baseline
        tolerance = TOLERANCE if self._space.measure != "units" and len(trials) % 2 else None
        found = most_promising(self._space, scored, pending, tried, self._seed + len(trials), [tolerance])
        return found[0] if found else nearest_untried(self._space, near, tried)


def _scores(study: Study, trials: list[FrozenTrial]) -> dict[int, float]:
    """Map the numbers of complete and pruned trials to scores, larger is better."""
    sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
    complete = {t.number: sign * t.value for t in trials if t.state == TrialState.COMPLETE and t.value is not None}
    most = max(complete.values(), default=float("inf"))
    pruned = {
        t.number: min(most, sign * t.intermediate_values[t.last_step])
        for t in trials
        if t.state == TrialState.PRUNED and t.last_step is not None
    }
    return complete | pruned


def _gp(space: SearchSpace, seed: int) -> BaseSampler:
    if find_spec("torch") is None:
        raise ConfigError(
            "the Optuna sampler gp needs the package torch, which is not installed",
            where="search.sampler",
            remedy="pip install torch, or use insight, a Gaussian process that does not need it",
        )
    return GPSampler(seed=seed, deterministic_objective=False)


SAMPLERS: Mapping[str, SamplerFactory] = {
    "insight": lambda space, seed: InsightSampler(space, seed=seed),
    "tpe": lambda space, seed: TPESampler(seed=seed, multivariate=False),
    "tpe-multivariate": lambda space, seed: TPESampler(seed=seed, multivariate=True),
    "gp": _gp,
    "nsga2": lambda space, seed: NSGAIISampler(seed=seed, population_size=POPULATION),
    "random": lambda space, seed: RandomSampler(seed=seed),
}
"""Samplers by their name in configurations. `tpe-multivariate` is the default of Optuna 5.

CMA-ES and quasi-Monte-Carlo are left out: neither varies categorical parameters, such as models, and both keep their
state in study attributes, which a strategy that rebuilds its study has not.
"""


def sampler_named(name: str) -> SamplerFactory:
    """Look up a sampler.

    Args:
        name: A key of `SAMPLERS`.

    Raises:
        ConfigError: The name is unknown, or the sampler's package is not installed.
    """
    if name not in SAMPLERS:
        raise ConfigError(
            f"the Optuna sampler must be one of {', '.join(SAMPLERS)}, but got {name!r}",
            where="search.sampler",
            remedy="use one of these names",
        )
    if name == "gp":
        _gp(SearchSpace(()), 0)
    return SAMPLERS[name]
