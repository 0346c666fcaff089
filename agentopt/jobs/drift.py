"""Drift of a served champion: a canary of rows redrawn each night, and an e-process over the nights.

The evidence compares two predictions of each night's redrawn scores. Without drift a row's score has the chance it
always had: rows have chances from a Beta distribution of unknown mean and spread, and every earlier score of a row
informs its own chance, so the noise of a single recorded score is part of the prediction. With drift, from some night
on, every chance is lower by one share. The ratio of the two, averaged over shares and first nights, is an e-value:
without drift it ever reaches x in at most one of x jobs, however many nights there are.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from agentopt.core.stats import Floats

Places = NDArray[np.intp]

ALARM = 10.0
"""Evidence that raises an alarm: without drift it is reached in under 5% of simulated jobs of 90 nights. For any number
of nights, Ville's inequality bounds it by one job in ten."""

CANARY_SHARE, CANARY_LEAST = 0.1, 20
"""Default share of the rows that are redrawn each night, and the least number of them."""

DROPS: Mapping[float, float] = {0.15: 0.55, 0.3: 0.25, 0.6: 0.1, 0.97: 0.1}
"""Share by which drift lowers every chance -> its weight in the average."""

MEANS, SPREADS = np.arange(0.02, 0.99, 0.02), np.array([0.4, 0.8, 1.6, 3.2, 8.0, 40.0])
"""Grid of the rows' mean chance and of their concentration (low: each row is nearly always right or always wrong)."""

FIRST_NIGHTS = 3
"""Drift is assumed to start on every third night: on the first, the fourth, ..."""

STARTS = 30
"""Of the assumed first nights, the first has weight .5, the others up to this one .4 together, all later ones .1."""

_NEGLIGIBLE = 1e-4
"""Grid points of less weight than this after the reference are left out."""


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """Mean chance and concentration of the rows at each grid point, and its log weight, each of shape (G,)."""

    means: Floats
    spreads: Floats
    log_weights: Floats

    def chances(self, sums: Floats, counts: Floats) -> tuple[Floats, Floats]:
        """Predicted chances (..., G, rows) given sums and numbers of scores (..., rows), and the weight of each."""
        worth = self.spreads[:, None] + counts[..., None, :]
        return ((self.means * self.spreads)[:, None] + sums[..., None, :]) / worth, worth


@dataclass
class _Drifts:
    """Predictions of drift from each assumed first night on: the scores before (starts, rows), those since, and the log
    weights (starts, drops, G) after them."""

    sums: Floats
    counts: Floats
    sums_since: Floats
    counts_since: Floats
    log_weights: Floats

    @classmethod
    def none(cls, rows: int, points: int) -> _Drifts:
        empty = np.zeros((0, rows))
        return cls(empty, empty, empty, empty, np.zeros((0, len(DROPS), points)))

    def start(self, sums: Floats, counts: Floats, log_weights: Floats) -> None:
        """Assume one more first night, the next one."""
        self.sums, self.counts = np.vstack([self.sums, sums]), np.vstack([self.counts, counts])
        self.sums_since = np.vstack([self.sums_since, np.zeros_like(sums)])
        self.counts_since = np.vstack([self.counts_since, np.zeros_like(sums)])
        self.log_weights = np.concatenate([self.log_weights, np.tile(log_weights, (1, len(DROPS), 1))])

    def add(self, grid: _Grid, rows: Places, scores: Floats) -> Floats:
        """Add a night; log likelihood (starts,) of all nights since each start, averaged over the drops."""
        before, worth = grid.chances(self.sums[:, rows], self.counts[:, rows])
        kept = 1 - np.array(list(DROPS))[:, None, None]
        since, drawn = (of[:, rows][:, None, None, :] for of in (self.sums_since, self.counts_since))
        chances = (kept * (before * worth)[:, None] + since) / (worth[:, None] + drawn)
        self.log_weights = self.log_weights + _log_likelihood(chances, scores)
        self.sums_since[:, rows] += scores
        self.counts_since[:, rows] += 1
        return _log_sum(_log_sum(self.log_weights) + np.log(list(DROPS.values())))


def drift_evidence(reference: Sequence[Mapping[str, float]], nights: Sequence[Mapping[str, float]]) -> list[float]:
    """E-values for "the champion has become worse" after each night.

    Args:
        reference: Draws of the champion's scores before the nights: row id -> score within 0 and 1. None may be the
            measurement that the champion was chosen by: that one is too high on average. Without any, the nights are
            their own reference.
        nights: For each night, row id -> score redrawn, within 0 and 1. Rows may be new.

    Raises:
        ValueError: A score is outside of 0 and 1.
    """
    _check(*reference, *nights)
    places = {row: i for i, row in enumerate(dict.fromkeys(row for scores in (*reference, *nights) for row in scores))}
    draws, canaries = ([_placed(scores, places) for scores in group] for group in (reference, nights))
    grid, sums, counts = _after(draws, len(places))
    log_weights, drifts = grid.log_weights, _Drifts.none(len(places), len(grid.means))
    null, nulls, found = 0.0, np.zeros(0), []
    for number, (rows, scores) in enumerate(canaries):
        if number % FIRST_NIGHTS == 0:
            drifts.start(sums, counts, log_weights)
            nulls = np.append(nulls, null)
        log_weights = log_weights + _log_likelihood(grid.chances(sums[rows], counts[rows])[0], scores)
        null += float(_log_sum(log_weights))
        log_weights = log_weights - _log_sum(log_weights)
        ratios = np.exp(np.minimum(drifts.add(grid, rows, scores) - (null - nulls), 700.0))
        weights = np.array([_start_weight(start) for start in range(len(nulls))])
        # The weights of first nights still to come count as evidence of 1.
        found.append(float(weights @ ratios + max(0.0, 1 - weights.sum())))
        sums[rows] += scores
        counts[rows] += 1
    return found


def _check(*measured: Mapping[str, float]) -> None:
    outside = [score for scores in measured for score in scores.values() if not 0 <= score <= 1]
    if outside:
        raise ValueError(f"scores must lie within 0 and 1, but got {outside[0]}: scale them before the comparison")


def _start_weight(start: int) -> float:
    """Weight of an assumed first night; all of them add up to 1."""
    if start == 0:
        return 0.5
    if start < STARTS:
        return 0.4 / start / sum(1 / k for k in range(1, STARTS))
    return 0.1 / ((start - STARTS + 1) * (start - STARTS + 2))


def first_alarm(evidence: Sequence[float], alarm: float = ALARM) -> int | None:
    """The night (0 is the first) after which the evidence first reaches `alarm`; None if it never does."""
    return next((night for night, value in enumerate(evidence) if value >= alarm), None)


def canary_rows(
    rows: Sequence[str], night: int, *, share: float = CANARY_SHARE, least: int = CANARY_LEAST, seed: int = 0
) -> list[str]:
    """The rows to redraw on a night: a new random order in every cycle, in which each row comes once.

    Args:
        rows: Ids of all rows.
        night: Number of the run, from 0.
        share: Share of the rows to redraw; 0 redraws none.
        least: Least number of rows to redraw, all if there are fewer.
        seed: Of the order.
    """
    if share <= 0 or not rows:
        return []
    size = min(len(rows), max(least, ceil(share * len(rows))))
    cycle, place = divmod(night, len(rows) // size)
    order = random.Random(f"{seed}:canary:{cycle}").sample(sorted(rows), len(rows))
    return order[place * size : (place + 1) * size]


def _placed(scores: Mapping[str, float], places: Mapping[str, int]) -> tuple[Places, Floats]:
    return np.array([places[row] for row in scores], dtype=np.intp), np.array(list(scores.values()), dtype=float)


def _after(draws: Sequence[tuple[Places, Floats]], rows: int) -> tuple[_Grid, Floats, Floats]:
    """The grid with its weights after the draws of the reference, and the sum and number of the scores of each row."""
    means, spreads = (axis.ravel() for axis in np.meshgrid(MEANS, SPREADS))
    grid, sums, counts = _Grid(means, spreads, np.zeros(len(means))), np.zeros(rows), np.zeros(rows)
    log_weights = grid.log_weights
    for places, scores in draws:
        log_weights = log_weights + _log_likelihood(grid.chances(sums[places], counts[places])[0], scores)
        sums[places] += scores
        counts[places] += 1
    kept = log_weights > np.log(_NEGLIGIBLE) + log_weights.max()
    return _Grid(means[kept], spreads[kept], log_weights[kept] - _log_sum(log_weights[kept])), sums, counts


def _log_likelihood(chances: Floats, scores: Floats) -> Floats:
    """Log likelihood (...,) of scores (rows,) given chances (..., rows)."""
    if np.isin(scores, (0.0, 1.0)).all():
        return np.asarray(np.log(np.abs(chances - (1 - scores))).sum(axis=-1))
    return np.asarray((scores * np.log(chances) + (1 - scores) * np.log1p(-chances)).sum(axis=-1))


def _log_sum(values: Floats) -> Floats:
    """log(sum(exp(values))) over the last axis."""
    most = values.max(axis=-1, keepdims=True)
    found: Floats = most[..., 0] + np.log(np.exp(values - most).sum(axis=-1))
    return found
