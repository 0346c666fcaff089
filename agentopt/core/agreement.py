"""Agreement of two raters on the same outputs: Cohen's kappa, the table of classes, error rates, correlation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from agentopt.core.intervals import proportion_ends
from agentopt.core.stats import Floats, Interval

MOST_CLASSES = 5
"""Labels with more distinct values are scores, not classes."""

SPREAD_OVER_TABLE = 4.0
"""Observations that are added to the table for the interval of kappa, in equal parts to all cells.

Without them a perfect table has an interval without width, and coverage falls to .43; with them it is at least .94 from
n = 30 on."""


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Share of the outputs with one label that the judge puts into another class, with its exact 95% interval."""

    label: float
    wrong: int
    n: int
    interval: Interval


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement on classes.

    Attributes:
        classes: The distinct labels, ascending.
        table: Numbers of outputs; one row for each label, one column for each class of the judge.
        kappa: Cohen's kappa: 1 is agreement on all outputs, 0 as much as by chance.
        interval: Its 95% interval.
        errors: The judge's error rate for each label.
    """

    classes: tuple[float, ...]
    table: tuple[tuple[int, ...], ...]
    kappa: float
    interval: Interval
    errors: tuple[ErrorRate, ...]

    @property
    def n(self) -> int:
        """Number of outputs."""
        return sum(map(sum, self.table))

    @property
    def same(self) -> int:
        """Number of outputs in the same class."""
        return sum(row[place] for place, row in enumerate(self.table))


def classes_of(labels: Sequence[float]) -> tuple[float, ...] | None:
    """The classes that the labels are: their distinct values, if there are 2 to 5; None if they are scores."""
    found = tuple(sorted(set(labels)))
    return found if 2 <= len(found) <= MOST_CLASSES else None


def nearest_class(score: float, classes: Sequence[float]) -> float:
    """The class that is nearest to a score; of two, the higher."""
    return min(classes, key=lambda value: (abs(value - score), -value))


def agreement(
    labels: Sequence[float], judged: Sequence[float], classes: Sequence[float], units: Sequence[Hashable] | None = None
) -> Agreement:
    """Compare labels with the classes nearest to a judge's scores.

    The standard error of kappa is that of Fleiss, Cohen and Everitt (Psychological Bulletin 72, 1969).

    Args:
        labels: The labels, each one of `classes`.
        judged: The judge's scores of the same outputs.
        classes: At least two.
        units: What each output belongs to; those of one unit count as one in the interval of kappa. Default: every
            output is independent.

    Raises:
        ValueError: There is no label, or the lengths differ.
    """
    if not labels or len(labels) != len(judged):
        raise ValueError(
            f"agreement needs a score for each label, but got {len(judged)} scores of {len(labels)} labels"
        )
    place = {value: number for number, value in enumerate(classes)}
    sizes = Counter(units or range(len(labels)))
    counts, weighted = np.zeros((2, len(classes), len(classes)))
    for label, score, unit in zip(labels, judged, units or range(len(labels)), strict=True):
        cell = place[label], place[nearest_class(score, classes)]
        counts[cell] += 1
        weighted[cell] += 1 / sizes[unit]
    weighted += SPREAD_OVER_TABLE / weighted.size
    centre, error = _kappa(weighted)
    half = 1.959964 * error
    errors = tuple(
        _error_rate(value, counts[place[value]], place[value]) for value in classes if counts[place[value]].any()
    )
    return Agreement(
        tuple(classes),
        tuple(tuple(map(int, row)) for row in counts.tolist()),
        _kappa(counts)[0],
        Interval(max(-1.0, centre - half), min(1.0, centre + half), 0.95),
        errors,
    )


def correlation(labels: Sequence[float], judged: Sequence[float]) -> tuple[float, Interval] | None:
    """Pearson's correlation with Fisher's 95% interval; None below four values, or if one side has no spread."""
    x, y = np.asarray(labels, dtype=float), np.asarray(judged, dtype=float)
    if len(x) < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    r = float(np.clip(np.corrcoef(x, y)[0, 1], -1.0, 1.0))
    z, half = np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12)), 1.959964 / np.sqrt(len(x) - 3)
    return r, Interval(float(np.tanh(z - half)), float(np.tanh(z + half)), 0.95)


def _error_rate(label: float, row: Floats, own: int) -> ErrorRate:
    n, wrong = int(row.sum()), int(row.sum() - row[own])
    return ErrorRate(label, wrong, n, Interval(*proportion_ends(wrong, n), 0.95))


def _kappa(table: Floats) -> tuple[float, float]:
    """Kappa and its standard error; 1 and 0 if all is in one cell, where chance alone explains the agreement."""
    n = float(table.sum())
    shares = table / n
    rows, columns = shares.sum(axis=1), shares.sum(axis=0)
    same, chance = float(np.trace(shares)), float(rows @ columns)
    if chance > 1 - 1e-12:
        return 1.0, 0.0
    kappa = (same - chance) / (1 - chance)
    on = shares.diagonal() * ((1 - chance) - (rows + columns) * (1 - same)) ** 2
    off = shares * (columns[:, None] + rows[None, :]) ** 2
    spread = on.sum() + (1 - same) ** 2 * (off.sum() - off.trace()) - (same * chance - 2 * chance + same) ** 2
    return kappa, float(np.sqrt(max(0.0, spread) / n)) / (1 - chance) ** 2
