"""Optuna as a strategy: what the loop falls back on when the agent cannot propose; alone it is the strategy `optuna`.

It keeps nothing: every call rebuilds a study in memory from the trials.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from agentopt.core.records import Trial
from agentopt.search.base import Proposal, SearchSpace
from agentopt.search.neighbourhood import nearest_untried
from agentopt.search.optuna_trials import awaited, can_be_told, candidate_of, distributions, params_of, told
from agentopt.search.samplers import POPULATION, SamplerFactory, sampler_named


class OptunaStrategy:
    """Asks an Optuna sampler, seeded by (`seed`, number of trials), with all of history told.

    What the sampler asks for becomes the nearest affordable untried candidate: it never repeats and never overspends.
    `sampler` is a name in `samplers.SAMPLERS` or a factory. Raises `ConfigError` for an unknown name, and for one
    whose package is missing.
    """

    def __init__(self, seed: int = 0, sampler: str | SamplerFactory = "insight", *, proposer: str = "optuna") -> None:
        self._seed, self._proposer = seed, proposer
        self._factory = sampler_named(sampler) if isinstance(sampler, str) else sampler

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
            proposals.append(Proposal(candidate, self._proposer, type(study.sampler).__name__))
            if params_of(candidate) != asked.params:
                study.tell(asked, state=TrialState.FAIL)
                study.add_trial(awaited(space, candidate))
        return proposals

    def _study(self, space: SearchSpace, trials: Sequence[Trial]) -> Study:
        seed = random.Random(f"{self._seed} {len(trials)}").getrandbits(31)
        with _quiet():
            study = optuna.create_study(direction="maximize", sampler=self._factory(space, seed))
        study.add_trials(_history(space, trials))
        return study


def _history(space: SearchSpace, trials: Sequence[Trial]) -> Iterator[FrozenTrial]:
    """The trials as Optuna's. Genetic samplers find their generations in them, as if each had been asked in turn."""
    complete = 0
    for trial in trials:
        if can_be_told(space, trial.candidate):
            generation = {"NSGAIISampler:generation": complete // POPULATION}
            yield told(space, trial, system_attrs=generation)
            complete += trial.state == "complete"


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna announces each new study in its log; ours live for one question only."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
