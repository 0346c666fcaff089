"""Additive model of a table of scores: the mean of each candidate over shared rows, and the residual variance."""

from __future__ import annotations

import numpy as np

from agentopt.core.stats import Floats

_SWEEPS = 50
"""Alternating least-squares sweeps that fit an incomplete table."""


def two_way(scores: Floats) -> tuple[Floats, float]:
    """Means of the candidates as if each had every row, and the residual variance of one score.

    An additive model, candidate + row, fitted by least squares: a trial that was stopped after difficult rows is not
    taken for a bad one. A single candidate has no residual of its own; the variance over its rows is returned.
    """
    present = ~np.isnan(scores)
    filled = np.where(present, scores, 0.0)
    candidate, row = np.zeros(len(scores)), np.zeros(scores.shape[1])
    for _ in range(1 if present.all() else _SWEEPS):
        row = ((filled - candidate[:, None]) * present).sum(axis=0) / np.maximum(present.sum(axis=0), 1)
        candidate = ((filled - row) * present).sum(axis=1) / present.sum(axis=1)
    means = candidate + row.mean()
    freedom = present.sum() - len(scores) - scores.shape[1] + 1
    if freedom < 1:
        return means, float(np.nanvar(scores))
    left = (filled - candidate[:, None] - row) * present
    return means, float((left**2).sum() / freedom)
