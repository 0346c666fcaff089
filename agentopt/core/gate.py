"""The release gate: superior, non-inferior within a margin, inferior, or not enough rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from agentopt.core.intervals import paired_proportion_ends
from agentopt.core.power import SMALLEST
from agentopt.core.stats import Difference, Floats, paired_difference

GateVerdict = Literal["superior", "non-inferior", "inferior", "not enough rows"]

MARGIN = 0.02
"""Acceptable loss of score."""

EXIT_CODES: Mapping[GateVerdict, int] = {"superior": 0, "non-inferior": 0, "inferior": 1, "not enough rows": 3}

POWER = 0.8
"""Probability of a verdict other than "not enough rows" that `rows_needed` aims at."""

MOST_ROWS = 1_000_000
"""Upper limit of the search for a number of rows."""

_SIMULATIONS = 4000


@dataclass(frozen=True, slots=True)
class Gate:
    """The verdict on a candidate against a reference, over the rows that both have scores for."""

    verdict: GateVerdict
    difference: Difference
    margin: float

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]


def gate(candidate: Mapping[str, float], reference: Mapping[str, float], *, margin: float = MARGIN) -> Gate:
    """Compare a candidate with a reference by their paired scores.

    Args:
        candidate: row id -> score.
        reference: row id -> score.
        margin: loss of score that still counts as non-inferior.

    Raises:
        ValueError: the two share no row, or the margin is negative or not finite.
    """
    _check_margin(margin)
    difference = paired_difference(candidate, reference)
    return Gate(gate_verdict(difference, margin), difference, margin)


def _check_margin(margin: float) -> None:
    if not 0 <= margin < math.inf:
        raise ValueError(f"`0 <= margin < inf` must hold, but got {margin}: give the loss of score that is acceptable")


def gate_verdict(difference: Difference, margin: float = MARGIN) -> GateVerdict:
    """The verdict on a paired difference.

    Superior and inferior need an interval on one side of 0 and a significant test. A certain loss within the margin is
    non-inferior. Below six rows the verdict is "not enough rows".
    """
    interval = difference.interval
    if difference.n < SMALLEST:
        return "not enough rows"
    significant = difference.p_value <= 1 - interval.confidence
    if significant and interval.low > 0:
        return "superior"
    if interval.low > -margin:
        return "non-inferior"
    return "inferior" if significant and interval.high < 0 else "not enough rows"


def rows_needed(
    candidate: Mapping[str, float],
    reference: Mapping[str, float],
    *,
    margin: float = MARGIN,
    gain: float = 0.0,
    power: float = POWER,
    seed: int = 0,
) -> int | None:
    """Rows at which the gate passes with probability `power`, simulated from the measured discordance.

    Right-or-wrong rows are drawn with the measured share of discordant rows and the assumed gain, means of real scores
    from their normal limit. One row won and one row lost are added to those measured, so that a few rows without any
    difference do not imply zero variance.

    Args:
        candidate: row id -> score.
        reference: row id -> score.
        margin: loss of score that still counts as non-inferior.
        gain: true difference to assume; above -margin, or no number of rows is enough.
        power: wanted probability of "superior" or "non-inferior".
        seed: of the simulation.

    Returns:
        The number of rows, or None if a million are not enough.

    Raises:
        ValueError: the two share no row; a score, the margin or the gain is not finite; the margin is negative; or the
            gain of right-or-wrong rows is not from -1 to 1.
    """
    _check_margin(margin)
    shared = sorted(candidate.keys() & reference.keys())
    differences = np.array([*(candidate[key] - reference[key] for key in shared), 1.0, -1.0])
    if not shared or not np.isfinite(differences).all():
        raise ValueError(
            f"a number of rows needs finite scores of shared rows, but got {differences[:-2].tolist()[:5]}"
        )
    if not math.isfinite(gain) or (abs(gain) > 1 and _right_or_wrong(differences)):
        raise ValueError(f"`gain` must be finite, and from -1 to 1 for right-or-wrong rows, but got {gain}")

    def passes(rows: int) -> bool:
        return bool((_low_ends(differences, gain, rows, seed) > -margin).mean() >= power)

    if not passes(MOST_ROWS):
        return None
    few, many = SMALLEST, MOST_ROWS
    while few < many:
        middle = (few + many) // 2
        few, many = (few, middle) if passes(middle) else (middle + 1, many)
    return many


def _right_or_wrong(differences: Floats) -> bool:
    return bool(np.isin(differences, (-1.0, 0.0, 1.0)).all())


def _low_ends(differences: Floats, gain: float, rows: int, seed: int) -> Floats:
    """Low ends of 95% intervals in simulated comparisons of that many rows with this true gain."""
    rng = np.random.default_rng(seed)
    if _right_or_wrong(differences):
        moved = max(float(np.abs(differences).mean()), abs(gain))
        chances = [(moved + gain) / 2, (moved - gain) / 2, 1 - moved]
        wins, losses, _ = rng.multinomial(rows, chances, _SIMULATIONS).T
        return np.asarray(paired_proportion_ends(wins, losses, rows)[0])
    spread = float(differences.std(ddof=1)) / np.sqrt(rows)
    low: Floats = gain + rng.standard_normal(_SIMULATIONS) * spread - 1.96 * spread
    return low
