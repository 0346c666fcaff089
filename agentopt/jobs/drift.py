"""Drift of a served champion: a canary of rows redrawn each night, and an e-process over the nights.

The evidence compares two predictions of each night's redrawn scores. Without drift a row's score has the chance it
always had: rows have chances from a Beta distribution of unknown mean and spread, and every earlier score of a row
informs its own chance, so the noise of a single recorded score is part of the prediction. With drift, from some night
on, every chance is lower by one share. The ratio of the two, averaged over shares and first nights, is an e-value:
without drift it ever reaches 1 / level in at most a share `level` of jobs, however many nights there are.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from agentopt.core.stats import Floats

LEVEL = 0.05
"""Share of jobs without drift that ever raise an alarm."""

CANARY_SHARE, CANARY_LEAST = 0.1, 20
"""Default share of the rows that are redrawn each night, and the least number of them."""

DROPS: Mapping[float, float] = {0.15: 0.55, 0.3: 0.25, 0.6: 0.1, 0.97: 0.1}
"""Share by which drift lowers every chance -> its weight in the average."""

MEANS, SPREADS = np.arange(0.02, 0.99, 0.02), np.array([0.4, 0.8, 1.6, 3.2, 8.0, 40.0])
"""Grid of the rows' mean chance and of their concentration (low: each row is nearly always right or always wrong)."""

FIRST_NIGHTS = 3
"""Drift is assumed to start on every third night: on the first, the fourth, ..."""

STARTS = 30
"""Of the assumed first nights, the first has weight .6, the others up to this one .3 together, all later ones .1."""

_NEGLIGIBLE = 1e-4
"""Grid points of less weight than this after the reference are left out."""


@dataclass(frozen=True, slots=True, eq=False)
class _Chances:
    """What is known of the rows: log weights (G,) of the grid points, and each row's sum and number of scores."""

    log_weights: Floats
    means: Floats
    spreads: Floats
    sums: Mapping[str, float]
    counts: Mapping[str, float]

    def of(self, rows: Sequence[str]) -> tuple[Floats, Floats]:
        """Predicted chance of each row, and how many scores it is worth, each of shape (G, rows)."""
        sums = np.array([self.sums.get(row, 0.0) for row in rows])
        counts = np.array([self.counts.get(row, 0.0) for row in rows])
        worth = self.spreads[:, None] + counts
        return (self.means[:, None] * self.spreads[:, None] + sums) / worth, worth

    def after(self, night: Mapping[str, float]) -> _Chances:
        """The same with one more night."""
        rows, scores = list(night), np.array(list(night.values()))
        weights = self.log_weights + _log_likelihood(self.of(rows)[0], scores)
        sums = {**self.sums, **{row: self.sums.get(row, 0.0) + score for row, score in night.items()}}
        counts = {**self.counts, **{row: self.counts.get(row, 0.0) + 1 for row in night}}
        return _Chances(weights - _log_sum(weights), self.means, self.spreads, sums, counts)


@dataclass
class _Drift:
    """The predictions of drift from one night on, for every drop: log weights of shape (drops, G)."""

    start: _Chances
    log_weights: Floats
    sums: dict[str, float]
    counts: dict[str, float]

    @classmethod
    def since(cls, chances: _Chances) -> _Drift:
        return cls(chances, np.tile(chances.log_weights, (len(DROPS), 1)), {}, {})

    def add(self, night: Mapping[str, float]) -> Floats:
        """Take one more night in; log likelihood (drops,) of all nights since the start."""
        rows, scores = list(night), np.array(list(night.values()))
        before, worth = self.start.of(rows)
        kept = 1 - np.array(list(DROPS))[:, None, None]
        sums = np.array([self.sums.get(row, 0.0) for row in rows])
        counts = np.array([self.counts.get(row, 0.0) for row in rows])
        chances = (kept * before * worth + sums) / (worth + counts)
        self.log_weights = self.log_weights + _log_likelihood(chances, scores)
        for row, score in night.items():
            self.sums[row] = self.sums.get(row, 0.0) + score
            self.counts[row] = self.counts.get(row, 0.0) + 1
        return _log_sum(self.log_weights)


def drift_evidence(reference: Mapping[str, float], nights: Sequence[Mapping[str, float]]) -> list[float]:
    """E-values for "the champion has become worse" after each night.

    Args:
        reference: row id -> recorded score of the champion, within 0 and 1. It must not be the measurement that the
            champion was chosen by: that one is too high on average. Without any, the nights are their own reference.
        nights: for each night, row id -> score redrawn, within 0 and 1. Rows may be new.

    Raises:
        ValueError: a score is outside of 0 and 1.
    """
    for scores in (reference, *nights):
        outside = [score for score in scores.values() if not 0 <= score <= 1]
        if outside:
            raise ValueError(f"scores must lie within 0 and 1, but got {outside[0]}: scale them before the comparison")
    known, null, found = _first(reference), 0.0, []
    drifts: list[tuple[_Drift, float, float]] = []
    log_drops = np.log(np.array(list(DROPS.values())))
    for number, night in enumerate(nights):
        if number % FIRST_NIGHTS == 0:
            drifts.append((_Drift.since(known), null, float(np.log(_start_weight(len(drifts))))))
        likelihood = _log_likelihood(known.of(list(night))[0], np.array(list(night.values())))
        null += float(_log_sum(known.log_weights + likelihood))
        known = known.after(night)
        terms = [weight + _log_sum(drift.add(night) + log_drops) - (null - at) for drift, at, weight in drifts]
        # The weights of first nights still to come count as evidence of 1.
        to_come = max(0.0, 1 - sum(_start_weight(start) for start in range(len(drifts))))
        found.append(float(np.exp(_log_sum(np.array(terms)))) + to_come)
    return found


def _start_weight(start: int) -> float:
    """Weight of an assumed first night; all of them add up to 1."""
    if start == 0:
        return 0.6
    return 0.3 / (STARTS - 1) if start < STARTS else 0.1 / ((start - STARTS + 1) * (start - STARTS + 2))


def first_alarm(evidence: Sequence[float], level: float = LEVEL) -> int | None:
    """The night (0 is the first) after which the evidence first reaches 1 / level; None if it never does."""
    return next((night for night, value in enumerate(evidence) if value >= 1 / level), None)


def canary_rows(
    rows: Sequence[str], night: int, *, share: float = CANARY_SHARE, least: int = CANARY_LEAST, seed: int = 0
) -> list[str]:
    """The rows to redraw on a night: a new random order in every cycle, in which each row comes once.

    Args:
        rows: ids of all rows.
        night: number of the run, from 0.
        share: share of the rows to redraw; 0 redraws none.
        least: least number of rows to redraw, all if there are fewer.
        seed: of the order.
    """
    if share <= 0 or not rows:
        return []
    size = min(len(rows), max(least, ceil(share * len(rows))))
    cycle, place = divmod(night, len(rows) // size)
    order = random.Random(f"{seed}:canary:{cycle}").sample(sorted(rows), len(rows))
    return order[place * size : (place + 1) * size]


def _first(reference: Mapping[str, float]) -> _Chances:
    means, spreads = (axis.ravel() for axis in np.meshgrid(MEANS, SPREADS))
    flat = _Chances(np.full(len(means), -np.log(len(means))), means, spreads, {}, {})
    if not reference:
        return flat
    after = flat.after(reference)
    kept = after.log_weights > np.log(_NEGLIGIBLE) + after.log_weights.max()
    weights = after.log_weights[kept]
    return _Chances(weights - _log_sum(weights), means[kept], spreads[kept], after.sums, after.counts)


def _log_likelihood(chances: Floats, scores: Floats) -> Floats:
    """Log likelihood (...,) of scores (rows,) given chances (..., rows)."""
    found: Floats = (scores * np.log(chances) + (1 - scores) * np.log1p(-chances)).sum(axis=-1)
    return found


def _log_sum(values: Floats) -> Floats:
    """log(sum(exp(values))) over the last axis."""
    most = values.max(axis=-1, keepdims=True)
    found: Floats = most[..., 0] + np.log(np.exp(values - most).sum(axis=-1))
    return found
