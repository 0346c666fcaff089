"""Repeated evaluations: the mean over repeats with a two-way interval, and its variance by source.

Scores have shape (rows, repeats) or (rows, repeats, judgements): a repeat draws new responses for every row, a
judgement scores the same response again. NaN marks a missing score.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np

from agentopt.core.records import Evaluation
from agentopt.core.stats import Floats, Interval, mean_interval


@dataclass(frozen=True, slots=True)
class NoiseParts:
    """Variance of one score by source; they add up to the variance of a score of a random row.

    Attributes:
        rows: Between rows, of their expected scores.
        sampling: Between responses to one row.
        judge: Between judgements of one response; 0 if each response was judged once (it is then part of `sampling`).
    """

    rows: float
    sampling: float
    judge: float

    def error(self, rows: int, repeats: int = 1, judgements: int = 1) -> float:
        """Standard error of the mean over that many rows, repeats and judgements."""
        response = self.sampling + self.judge / judgements
        return float(np.sqrt((self.rows + response / repeats) / rows))


@dataclass(frozen=True, slots=True)
class RepeatedMean:
    """The mean over all rows and repeats, with equal weight for every row."""

    mean: float
    interval: Interval
    rows: int
    repeats: int
    parts: NoiseParts


def repeated_mean(scores: Floats, *, confidence: float = 0.95, seed: int = 0) -> RepeatedMean:
    """Mean, two-way interval and variance parts.

    The means of the rows carry the variance of rows and of sampling; their interval is that of `mean_interval`. The
    variance between whole repeats beyond that (such as after a change of the server) is added from the two-way table,
    and the interval is widened accordingly. Resampling rows and repeats counts the sampling variance twice.

    Args:
        scores: Shape (rows, repeats) or (rows, repeats, judgements); rows without any score are left out.
        confidence: Nominal coverage.
        seed: Of the resampling.

    Raises:
        ValueError: There is no score.
    """
    table = scores if scores.ndim == 2 else _mean(scores, axis=2)
    table = table[~np.isnan(table).all(axis=1)]
    means = np.nanmean(table, axis=1) if table.size else np.array([])
    interval = mean_interval(means.tolist(), confidence=confidence, seed=seed)
    centre, wider = float(means.mean()), _widening(table, means)
    low, high = centre - wider * (centre - interval.low), centre + wider * (interval.high - centre)
    ends = Interval(low, high, confidence, interval.approximate)
    return RepeatedMean(centre, ends, len(means), scores.shape[1], noise_parts(scores))


def score_table(evaluation: Evaluation) -> Floats:
    """The scores of an evaluation, one row for each group of examples.

    Returns:
        Shape (rows, repeats, judgements); NaN marks a missing score.
    """
    of = {result.id: evaluation.groups.get(result.id, result.id) for result in evaluation.results}
    rows = {row: place for place, row in enumerate(dict.fromkeys(of.values()))}
    repeats = {repeat: place for place, repeat in enumerate(sorted({r.repeat for r in evaluation.results}))}
    judgements = max((len(result.judgements) for result in evaluation.results), default=0) or 1
    totals, known = np.zeros((2, len(rows), len(repeats), judgements))
    for result in evaluation.results:
        values = result.judgements or (() if result.score is None else (result.score,))
        place = rows[of[result.id]], repeats[result.repeat], slice(len(values))
        totals[place] += values
        known[place] += 1
    return np.where(known > 0, totals / np.maximum(known, 1), np.nan)


def pass_at(scores: Floats, k: int) -> Floats | None:
    """The probability that at least one of k responses to a row is right, for each row.

    The unbiased estimate 1 - C(n - c, k) / C(n, k) of n responses, c of them right (arXiv 2107.03374).

    Args:
        scores: Shape (rows, repeats) or (rows, repeats, 1).
        k: At most the number of repeats.

    Returns:
        One value for each row; None unless every score is there and is 0 or 1.
    """
    table = scores if scores.ndim == 2 else scores[:, :, 0]
    if not np.isin(scores, (0.0, 1.0)).all() or table.size != scores.size:
        return None
    n = table.shape[1]
    return np.array([1 - comb(n - int(right), k) / comb(n, k) for right in table.sum(axis=1)])


def noise_parts(scores: Floats) -> NoiseParts:
    """Estimate the variance parts by the method of moments.

    Args:
        scores: Shape (rows, repeats) or (rows, repeats, judgements); NaN marks a missing score.

    Returns:
        The parts. With one repeat the sampling variance cannot be separated and is part of `rows`.
    """
    cube = scores if scores.ndim == 3 else scores[:, :, None]
    judgements, responses = (~np.isnan(cube)).sum(axis=2), _mean(cube, axis=2)
    judge = _pooled_variance(cube.reshape(-1, cube.shape[2]))
    repeats = (~np.isnan(responses)).sum(axis=1)
    within = _pooled_variance(responses)
    rows = responses[repeats > 0]
    if not len(rows):
        return NoiseParts(0.0, 0.0, 0.0)
    each = float(np.mean(1 / judgements[judgements > 0]))
    between = float(np.nanmean(rows, axis=1).var(ddof=1)) if len(rows) > 1 else 0.0
    share = float(np.mean(1 / repeats[repeats > 0]))
    return NoiseParts(max(0.0, between - share * within), max(0.0, within - each * judge), judge)


def _mean(values: Floats, axis: int) -> Floats:
    """`nanmean` without a warning for slices that are all NaN."""
    present = ~np.isnan(values)
    count = present.sum(axis=axis)
    total = np.where(present, values, 0.0).sum(axis=axis)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _pooled_variance(table: Floats) -> float:
    """Variance within the rows of a table, pooled; 0 if no row has two values."""
    present = ~np.isnan(table)
    freedom = float(np.maximum(present.sum(axis=1) - 1, 0).sum())
    centred = np.where(present, table - _mean(table, axis=1)[:, None], 0.0)
    return float((centred**2).sum() / freedom) if freedom else 0.0


def _widening(table: Floats, means: Floats) -> float:
    """Factor by which variance between whole repeats widens the interval of the row means; 1 without any."""
    rows, repeats = table.shape
    if repeats < 2 or rows < 2 or np.isnan(table).any() or np.ptp(means) == 0:
        return 1.0
    left = table - means[:, None] - table.mean(axis=0) + means.mean()
    error = float((left**2).sum()) / ((rows - 1) * (repeats - 1))
    extra = max(0.0, float(table.mean(axis=0).var(ddof=1)) - error / rows) / repeats
    return float(np.sqrt(1 + extra / (means.var(ddof=1) / rows)))
