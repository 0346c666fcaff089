"""Choosing after a search: posterior mean scores of all trials, the best candidate and a cheaper one as good.

The highest raw score of many trials is partly luck. The posterior mean of a Gaussian process over all trials, with the
noise measured instead of assumed, shrinks each score towards those of similar candidates. All trials share their rows,
so the noise that separates them is the interaction of trials and rows: the residual variance of a two-way table over n.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentopt.core.candidate import Candidate
from agentopt.core.records import Trial
from agentopt.core.stats import Floats
from agentopt.core.two_way import two_way
from agentopt.search.base import SearchSpace
from agentopt.search.gaussian_process import Grid

TOLERANCE = 0.02
"""Score that the recommended candidate may be below the best one."""

AMPLITUDES = np.geomspace(0.1, 30, 25)
"""Prior variances of the scores, relative to the variance of the raw scores; weighted by their likelihood."""

PROMPTS = 0.25
"""Prior variance shared by candidates with the same system prompts, relative to that of an allocation."""


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """What all trials together imply about each one.

    Attributes:
        mean: posterior mean score of each trial, shape (trials,).
        deviation: its posterior standard deviation, shape (trials,).
        residual: variance of one row's score that neither the trial nor the row explains.
    """

    mean: Floats
    deviation: Floats
    residual: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The best and the recommended trial, with their posterior (shrunk) mean scores."""

    best: Trial
    best_score: float
    recommended: Trial
    recommended_score: float
    rows: int
    """Rows of the best trial."""
    rows_needed: int
    """Rows at which the standard error of a difference between two trials is the tolerance."""

    @property
    def saving(self) -> float:
        """Share of the best trial's units that the recommended one saves."""
        return 1 - self.recommended.units / self.best.units if self.best.units > 0 else 0.0

    @property
    def too_few_rows(self) -> bool:
        """Whether no cost is saved and the rows are too few to resolve a difference of the tolerance."""
        return self.saving <= 0 and self.rows < self.rows_needed


def choose(space: SearchSpace, trials: Sequence[Trial], *, tolerance: float = TOLERANCE) -> Choice | None:
    """The complete trial with the highest posterior mean, and the cheapest one within the tolerance of it.

    Args:
        space: the search space of the trials.
        trials: all trials; pruned and incomplete ones inform the model and are never chosen.
        tolerance: score that the recommended trial may be below the best one.

    Returns:
        None if no trial is complete.
    """
    scored = [trial for trial in trials if trial.evaluation.scores]
    complete = [i for i, trial in enumerate(scored) if trial.state == "complete"]
    if not complete:
        return None
    found = posterior(space, [t.candidate for t in scored], score_table(scored))
    mean = found.mean
    best = min(complete, key=lambda i: (-mean[i], scored[i].units, scored[i].number))
    close = [i for i in complete if mean[i] >= mean[best] - tolerance - 1e-12]
    cheapest = min(close, key=lambda i: (scored[i].units, -mean[i], scored[i].number))
    return Choice(
        best=scored[best],
        best_score=float(mean[best]),
        recommended=scored[cheapest],
        recommended_score=float(mean[cheapest]),
        rows=len(scored[best].evaluation.scores),
        rows_needed=math.ceil(2 * found.residual / tolerance**2) if tolerance > 0 else 0,
    )


def score_table(trials: Sequence[Trial]) -> Floats:
    """Scores of shape (trials, rows), NaN for a missing score; rows in the order of their ids."""
    rows = {key: place for place, key in enumerate(sorted({key for t in trials for key in t.evaluation.scores}))}
    table = np.full((len(trials), len(rows)), np.nan)
    for i, trial in enumerate(trials):
        for key, score in trial.evaluation.scores.items():
            table[i, rows[key]] = score
    return table


def posterior(space: SearchSpace, candidates: Sequence[Candidate], scores: Floats) -> Posterior:
    """Posterior of the true scores of candidates that were scored on shared rows.

    The prior variance is averaged over `AMPLITUDES` by marginal likelihood, the prior mean is fitted.

    Args:
        space: prices and compares the candidates.
        candidates: one for each row of `scores`.
        scores: shape (candidates, rows), NaN for a missing score; every candidate has at least one.
    """
    means, residual = two_way(scores)
    noise = np.maximum(residual / (~np.isnan(scores)).sum(axis=1), 1e-12)
    spread = float(means.var())
    if spread < 1e-12:
        return Posterior(means, np.sqrt(noise), residual)
    similarity = _similarity(space, candidates)
    fits = [_fit(similarity * spread * amplitude, noise, means) for amplitude in AMPLITUDES]
    likelihood = np.array([fit[0] for fit in fits])
    weights = np.exp(likelihood - likelihood.max())
    weights /= weights.sum()
    each = np.stack([fit[1] for fit in fits])
    mean = weights @ each
    variance = weights @ (np.stack([fit[2] for fit in fits]) + (each - mean) ** 2)
    return Posterior(mean, np.sqrt(variance), residual)


def _similarity(space: SearchSpace, candidates: Sequence[Candidate]) -> Floats:
    """Prior correlation of the candidates' scores; those outside of the space are like no other."""
    grid = Grid(space)
    inside = [i for i, candidate in enumerate(candidates) if _is_inside(space, candidate)]
    similarity = np.eye(len(candidates))
    points = grid.points([candidates[i] for i in inside])
    similarity[np.ix_(inside, inside)] = grid.kernel(points, points) / grid.variance
    prompts = [tuple(choice.system_prompt for choice in candidate.values()) for candidate in candidates]
    same = np.array([[float(a == b) for b in prompts] for a in prompts])
    return np.asarray((similarity + PROMPTS * same) / (1 + PROMPTS))


def _is_inside(space: SearchSpace, candidate: Candidate) -> bool:
    return list(candidate) == [s.name for s in space.subtasks] and all(
        candidate[s.name].model in s.models and candidate[s.name].num_samples in s.num_samples for s in space.subtasks
    )


def _fit(prior: Floats, noise: Floats, means: Floats) -> tuple[float, Floats, Floats]:
    """Log likelihood, posterior means and variances under one prior covariance."""
    covariance = prior + np.diag(noise)
    ones = np.ones(len(means))
    solved = np.linalg.solve(covariance, np.column_stack([means, ones, prior]))
    centre = (ones @ solved[:, 0]) / (ones @ solved[:, 1])
    weighted = solved[:, 0] - centre * solved[:, 1]
    likelihood = -0.5 * (means - centre) @ weighted - 0.5 * np.linalg.slogdet(covariance)[1]
    variance = np.diag(prior) - (prior * solved[:, 2:]).sum(axis=0)
    return float(likelihood), centre + prior @ weighted, np.maximum(variance, 0.0)
