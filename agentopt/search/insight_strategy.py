"""The default strategy without a model: the first trials of `search.start`, then the surrogate's proposals."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from agentopt.core.candidate import Candidate
from agentopt.core.records import Trial, by_score
from agentopt.core.stats import Floats
from agentopt.core.two_way import two_way
from agentopt.search.base import Proposal, SearchSpace
from agentopt.search.neighbourhood import nearest_untried, without_limits
from agentopt.search.posterior import TOLERANCE, score_table
from agentopt.search.settings import StartName
from agentopt.search.start import first_candidates
from agentopt.search.surrogate import Scores, most_promising, window

LEAST_FACTOR, MOST_FACTOR = 0.25, 2.0
"""Bounds of the noise variance of one candidate's right-or-wrong scores, as shares of the mean of all candidates."""


class InsightStrategy:
    """Proposes the first trials, then the candidates with the greatest expected improvement or saving.

    Args:
        seed: Together with the number of trials, the seed of the pool's order.
        start: The first trials.
        proposer: The `Proposal.proposer` of its proposals.
    """

    def __init__(self, seed: int = 0, start: StartName = "largest", *, proposer: str = "optuna") -> None:
        self._seed, self._start, self._proposer = seed, start, proposer

    async def propose(self, space: SearchSpace, trials: Sequence[Trial], k: int) -> list[Proposal]:
        fits = without_limits(space)
        inside = [trial for trial in trials if fits.contains(trial.candidate)]
        known = [in_seed_prompts(space, trial.candidate) for trial in inside]
        taken = {*known, *(trial.candidate for trial in trials)}
        first = [c for c in first_candidates(space, self._start, self._seed) if c not in taken][:k]
        found = first + self._after(space, inside, first, known, k - len(first))
        taken.update(found)
        while len(found) < k and (candidate := self._near(space, inside, taken)) is not None:
            found.append(candidate)
            taken.add(candidate)
        return [Proposal(candidate, self._proposer, "insight") for candidate in found]

    def _after(
        self,
        space: SearchSpace,
        trials: Sequence[Trial],
        first: Sequence[Candidate],
        known: Sequence[Candidate],
        k: int,
    ) -> list[Candidate]:
        """The surrogate's proposals."""
        seed = random.Random(f"{self._seed} {len(trials)}").getrandbits(31)
        # With costs in USD or seconds, every other trial seeks a cheaper candidate that is as good as the best one.
        turns = [space.measure != "units" and (len(trials) + len(first) + i) % 2 for i in range(k)]
        wanted = [TOLERANCE if saves else None for saves in turns]
        return most_promising(space, measured(space, trials), first, [*known, *first], seed, wanted) if k else []

    def _near(self, space: SearchSpace, trials: Sequence[Trial], taken: set[Candidate]) -> Candidate | None:
        """The untried candidate nearest to the best one: a sample of a huge space may have no affordable one."""
        best = by_score(trials)[:1]
        return nearest_untried(space, in_seed_prompts(space, best[0].candidate) if best else space.baseline, taken)


def in_seed_prompts(space: SearchSpace, candidate: Candidate) -> Candidate:
    """The candidate of the space with the same choices: with the seed prompts in place of its own."""
    if all(
        choice.system_prompt == s.system_prompt for s, choice in zip(space.subtasks, candidate.values(), strict=True)
    ):
        return candidate
    return space.candidate({name: (c.model, c.num_samples, dict(c.settings)) for name, c in candidate.items()})


def measured(space: SearchSpace, trials: Sequence[Trial]) -> Scores:
    """What the trials measured of their candidates, on shared rows.

    The score of a trial that was stopped, or that lacks rows, is adjusted for the difficulty of its rows, has noise
    according to their number, and counts as at most that of the best complete trial.

    Args:
        space: The search space; every trial's candidate has one of its allocations.
        trials: The trials; those without a score are left out, and of several of one candidate the last one counts.
    """
    last = {trial.candidate: trial for trial in trials if any(r.score is not None for r in trial.evaluation.results)}
    scored = list(last.values())
    scored = [scored[i] for i in window(np.array([_rough(trial) for trial in scored]))]
    if not scored:
        return Scores([], np.zeros(0), np.zeros(0))
    table = score_table(scored)
    means, residual = two_way(table)
    most = max((m for m, trial in zip(means, scored, strict=True) if trial.state == "complete"), default=np.inf)
    whole = np.array([trial.state == "complete" for trial in scored])
    candidates = [in_seed_prompts(space, trial.candidate) for trial in scored]
    return Scores(candidates, np.where(whole, means, np.minimum(means, most)), _noise(table, residual))


def _rough(trial: Trial) -> float:
    """The mean of all results: `Trial.score` weighs repeats and groups, which takes too long for thousands."""
    scores = [result.score for result in trial.evaluation.results if result.score is not None]
    return sum(scores) / len(scores)


def _noise(table: Floats, residual: float) -> Floats:
    """Variance of each mean; NaN if there are too few rows to measure a residual.

    Right-or-wrong scores of a mean p have a variance in proportion to p (1 - p).

    Args:
        table: Scores of shape (trials, rows), NaN for a missing one.
        residual: Variance of one score that neither the trial nor the row explains.
    """
    present = ~np.isnan(table)
    counts = present.sum(axis=1)
    if present.sum() <= sum(table.shape) - 1:
        return np.full(len(table), np.nan)
    factor = np.ones(len(table))
    if np.isin(table[present], (0.0, 1.0)).all():
        p = (np.nansum(table, axis=1) + 1) / (counts + 2)
        factor = np.clip(p * (1 - p) / (p * (1 - p)).mean(), LEAST_FACTOR, MOST_FACTOR)
    return np.asarray(factor * residual / counts, dtype=np.float64)
