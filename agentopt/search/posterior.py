"""Choosing after a search: posterior mean scores of all trials, the best candidate and a cheaper one as good.

The highest raw score of many trials is partly luck. The posterior mean of a Gaussian process over all trials, with the
noise measured instead of assumed, shrinks each score towards those of similar candidates. All trials share their rows,
so the noise that separates them is the interaction of trials and rows: the residual variance of a two-way table over n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agentopt.core.candidate import Candidate
from agentopt.core.records import Trial
from agentopt.core.stats import Floats
from agentopt.core.ties import is_higher, tied
from agentopt.core.two_way import two_way
from agentopt.search.base import SearchSpace
from agentopt.search.gaussian_process import Grid
from agentopt.search.measured_costs import measured_cost, with_measured_costs, within_limits

TOLERANCE = 0.02
"""Score that the recommended candidate may be below the best one."""

LATENCY_DIGITS = 2
"""Digits of a median latency, in seconds, by which the Pareto front compares: those that every table shows."""

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
    """The best and the recommended trial, and what they were chosen by."""

    best: Trial
    recommended: Trial
    shrunk: Mapping[int, float]
    """Trial number -> posterior (shrunk) mean score of every trial that informed the choice; ties are equal numbers."""
    pareto: tuple[int, ...]
    """Numbers of the complete trials that no other one equals or exceeds in every respect, cheapest first: in `shrunk`
    and in cost; with costs in USD or seconds in both, the latency being the median."""
    rows: int
    """Rows of the best trial."""
    rows_needed: int
    """Rows at which the standard error of a difference between two trials is the tolerance."""
    contender: Trial | None
    """The pruned trial with the highest shrunk score, if that is above the best trial's: worth completing."""
    too_few_rows: bool
    """Whether no cost is saved although a cheaper trial may be as good: the rows cannot decide."""

    @property
    def best_score(self) -> float:
        """Shrunk score of the best trial."""
        return self.shrunk[self.best.number]

    @property
    def recommended_score(self) -> float:
        """Shrunk score of the recommended trial."""
        return self.shrunk[self.recommended.number]

    @property
    def saving(self) -> float:
        """Share of the best trial's cost that the recommended one saves."""
        return 1 - self.recommended.units / self.best.units if self.best.units > 0 else 0.0


def choose(space: SearchSpace, trials: Sequence[Trial], *, tolerance: float = TOLERANCE) -> Choice | None:
    """The complete trial with the highest posterior mean, and the cheapest one within the tolerance of it.

    Of trials whose posterior means tie, the cheapest is the best one. Trials whose measured cost is above a limit of
    the space are not chosen, unless all are.

    Args:
        space: the search space of the trials.
        trials: all trials; pruned and incomplete ones inform the model and are never chosen.
        tolerance: score that the recommended trial may be below the best one.

    Returns:
        None if no trial is complete.
    """
    scored = _scored(trials)
    complete = [trial for trial in scored if trial.state == "complete"]
    if not complete:
        return None
    space = with_measured_costs(space, trials)
    complete = [trial for trial in complete if within_limits(space, trial)] or complete
    found = posterior(space, [t.candidate for t in scored], score_table(scored))
    mean = {trial.number: value for trial, value in zip(scored, tied(found.mean.tolist()), strict=True)}
    best = min(complete, key=lambda t: (-mean[t.number], t.units, t.number))
    behind = {t.number: mean[best.number] - mean[t.number] - tolerance for t in complete}
    recommended = min(
        (t for t in complete if not is_higher(behind[t.number], 0.0)),
        key=lambda t: (t.units, -mean[t.number], t.number),
    )
    pruned = (trial for trial in scored if trial.state == "pruned" and within_limits(space, trial))
    contender = max(pruned, key=lambda t: (mean[t.number], -t.units, -t.number), default=None)
    rows = len(best.evaluation.scores)
    unclear = 1.96 * math.sqrt(2 * found.residual / rows)
    return Choice(
        best=best,
        recommended=recommended,
        shrunk=mean,
        pareto=_pareto_front(space, complete, mean),
        rows=rows,
        rows_needed=math.ceil(2 * found.residual / tolerance**2) if tolerance > 0 else 0,
        contender=contender if contender and mean[contender.number] > mean[best.number] else None,
        too_few_rows=recommended is best
        and any(t.units < best.units and behind[t.number] < unclear for t in complete)
        and rows * tolerance**2 < 2 * found.residual,
    )


def _pareto_front(space: SearchSpace, complete: Sequence[Trial], mean: Mapping[int, float]) -> tuple[int, ...]:
    """By the shrunk score, so that the best and the recommended trial are on it, by cost and by median latency."""
    if space.measure == "units":
        points: dict[int, tuple[float, ...]] = {t.number: (t.units, -mean[t.number]) for t in complete}
    else:
        usd = {t.number: measured_cost(space, t.evaluation, "usd") or 0.0 for t in complete}
        latency = {t.number: round(t.evaluation.latency(0.5) or 0.0, LATENCY_DIGITS) for t in complete}
        points = {t.number: (t.units, -mean[t.number], usd[t.number], latency[t.number]) for t in complete}
    front: list[int] = []
    for number in sorted(points, key=lambda number: (points[number], number)):
        dominated = (all(a <= b for a, b in zip(points[other], points[number], strict=True)) for other in front)
        if not any(dominated):
            front.append(number)
    return tuple(front)


def noise_variances(trials: Sequence[Trial]) -> dict[int, float]:
    """Trial number -> variance of its score: the residual variance of the two-way table over the trial's rows.

    Empty if the trials share too few rows to measure a residual.
    """
    scored = _scored(trials)
    table = score_table(scored)
    if not scored or (~np.isnan(table)).sum() <= sum(table.shape) - 1:
        return {}
    _, residual = two_way(table)
    rows = (~np.isnan(table)).sum(axis=1).tolist()
    return {trial.number: residual / count for trial, count in zip(scored, rows, strict=True)}


def _scored(trials: Sequence[Trial]) -> list[Trial]:
    """The trials with a score; of several of one candidate the last, which has the responses of the earlier ones."""
    return list({trial.candidate: trial for trial in trials if trial.evaluation.scores}.values())


def score_table(trials: Sequence[Trial]) -> Floats:
    """Scores of shape (trials, rows), NaN for a missing score; rows in the order of their ids."""
    scores = [trial.evaluation.scores for trial in trials]
    rows = {key: place for place, key in enumerate(sorted(set().union(*scores)))}
    table = np.full((len(trials), len(rows)), np.nan)
    for i, of_trial in enumerate(scores):
        table[i, [rows[key] for key in of_trial]] = list(of_trial.values())
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
    # Dividing by the noise's deviation makes the covariance under every amplitude share its eigenvectors.
    scale = 1 / np.sqrt(noise)
    prior = spread * _similarity(space, candidates) * np.outer(scale, scale)
    values, vectors = np.linalg.eigh(prior)
    ones, seen = vectors.T @ scale, vectors.T @ (means * scale)
    likelihood, each, variance = [], [], []
    for amplitude in AMPLITUDES:
        signal = amplitude * np.maximum(values, 0.0)
        total = signal + 1
        centre = (ones * seen / total).sum() / (ones**2 / total).sum()
        away = seen - centre * ones
        likelihood.append(-0.5 * (away**2 / total).sum() - 0.5 * np.log(total).sum())
        each.append(centre + vectors @ (signal / total * away) / scale)
        variance.append((vectors**2 @ (signal / total)) * noise)
    weights = np.exp(np.array(likelihood) - max(likelihood))
    weights /= weights.sum()
    # No candidate's mean score is beyond the scores of all rows; the process does not know that.
    mean = np.clip(weights @ np.stack(each), np.nanmin(scores), np.nanmax(scores))
    total_variance = weights @ (np.stack(variance) + (np.stack(each) - mean) ** 2)
    return Posterior(mean, np.sqrt(total_variance), residual)


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
        s.allows(candidate[s.name]) for s in space.subtasks
    )
