"""Optuna as a strategy: the strategy `optuna`, and the agent's fallback.

It is stateless: every call rebuilds a study in memory from the trials.
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
from agentopt.search.insight_strategy import InsightStrategy
from agentopt.search.neighbourhood import nearest_untried
from agentopt.search.optuna_trials import (
    candidate_of,
    distributions,
    is_representable,
    params_of,
    to_frozen_trial,
    to_running_trial,
)
from agentopt.search.samplers import POPULATION, SamplerFactory, sampler_named
from agentopt.search.settings import StartName


class OptunaStrategy:
    """Proposes what an Optuna sampler suggests, given every earlier trial.

    Each suggestion is replaced by the nearest affordable untried candidate, so no candidate is repeated or above the
    cost limit.

    Args:
        seed: Together with the number of trials, the sampler's seed.
        sampler: A name in `samplers.SAMPLERS`, or a factory. `insight` needs no study: see `InsightStrategy`.
        start: The first trials of the sampler `insight`.
        proposer: The `Proposal.proposer` of its proposals.

    Raises:
        ConfigError: The sampler's name is unknown, or its package is not installed.
    """

    def __init__(
        self,
        seed: int = 0,
        sampler: str | SamplerFactory = "insight",
        *,
        start: StartName = "largest",
        proposer: str = "optuna",
    ) -> None:
        self._seed, self._proposer = seed, proposer
        self._insight = InsightStrategy(seed, start, proposer=proposer) if sampler == "insight" else None
        self._factory = sampler_named(sampler) if isinstance(sampler, str) else sampler

    async def propose(self, space: SearchSpace, trials: Sequence[Trial], k: int) -> list[Proposal]:
        if self._insight:
            return await self._insight.propose(space, trials, k)
        study = self._study(space, trials)
        taken = {t.candidate for t in trials}
        proposals: list[Proposal] = []
        while len(proposals) < k:
            suggested = study.ask(distributions(space))
            candidate = nearest_untried(space, candidate_of(space, suggested.params), taken)
            if candidate is None:
                break
            taken.add(candidate)
            proposals.append(Proposal(candidate, self._proposer, type(study.sampler).__name__))
            if params_of(space, candidate) != suggested.params:
                study.tell(suggested, state=TrialState.FAIL)
                study.add_trial(to_running_trial(space, candidate))
        return proposals

    def _study(self, space: SearchSpace, trials: Sequence[Trial]) -> Study:
        seed = random.Random(f"{self._seed} {len(trials)}").getrandbits(31)
        with _quiet():
            study = optuna.create_study(direction="maximize", sampler=self._factory(space, seed))
        study.add_trials(_history(space, trials))
        return study


def _history(space: SearchSpace, trials: Sequence[Trial]) -> Iterator[FrozenTrial]:
    """Convert the trials to Optuna's, with the generations that a genetic sampler would have stored in them."""
    complete = 0
    for trial in trials:
        if is_representable(space, trial.candidate):
            generation = {"NSGAIISampler:generation": complete // POPULATION}
            yield to_frozen_trial(space, trial, system_attrs=generation)
            complete += trial.state == "complete"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Optuna's log of new studies: ours exist for one call only."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
