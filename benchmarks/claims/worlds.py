"""Simulated worlds with known truth: searches on synthetic landscapes, and right-or-wrong scores on shared rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from agentopt.core.candidate import Candidate
from agentopt.core.stats import Floats
from agentopt.core.two_way import two_way
from agentopt.search.base import SearchSpace
from agentopt.search.insights import initial_candidates
from agentopt.search.surrogate import Scores, most_promising
from agentopt.testing.synthetic_landscape import SyntheticLandscape

SHARED = 0.5
"""Share of the variance of a latent score that is the row's difficulty, alike for every candidate."""

TRIALS = 25
"""Trials of a simulated search, the baseline included."""


@dataclass(frozen=True, eq=False)
class Searched:
    """A finished search. `exact` (trials,) is the truth, `scores` (trials, rows) the measurement."""

    space: SearchSpace
    candidates: tuple[Candidate, ...]
    exact: Floats
    scores: Floats
    units: Floats


@cache
def landscape(seed: int) -> SyntheticLandscape:
    """A landscape of two subtasks whose model strengths are shifted by up to .06."""
    return SyntheticLandscape(seed, noise=0.0, jitter=0.06)


@cache
def searched(seed: int, rows: int, trials: int = TRIALS) -> Searched:
    """A search by Gaussian process on right-or-wrong scores of that many rows."""
    world = landscape(seed)
    rng = np.random.default_rng([seed, rows])
    difficulty = rng.standard_normal(rows)
    candidates: list[Candidate] = []
    exact: list[float] = []
    scores: list[Floats] = []

    def evaluate(candidate: Candidate) -> None:
        candidates.append(candidate)
        exact.append(world.exact(candidate))
        scores.append(right_or_wrong(rng, exact[-1], difficulty))

    for candidate in dict.fromkeys([world.space.baseline, *initial_candidates(world.space)]):
        evaluate(candidate)
    while len(candidates) < trials:
        means = np.array([s.mean() for s in scores])
        noise = np.full(len(scores), two_way(np.stack(scores))[1] / rows)
        known = Scores(list(candidates), means, noise)
        found = most_promising(world.space, known, [], candidates, seed + len(candidates))
        if not found:
            break
        evaluate(found[0])
    units = np.array([world.space.units(c) for c in candidates])
    return Searched(world.space, tuple(candidates), np.array(exact), np.stack(scores), units)


def right_or_wrong(rng: np.random.Generator, chance: float, difficulty: Floats, shared: float = SHARED) -> Floats:
    """Scores of 0 or 1 with that mean, correlated with those of other candidates on rows of the same difficulty."""
    from scipy.special import ndtri

    own = rng.standard_normal(len(difficulty))
    latent = np.sqrt(shared) * difficulty + np.sqrt(1 - shared) * own
    return np.asarray(latent < float(ndtri(np.clip(chance, 1e-9, 1 - 1e-9))), float)
