"""Early stopping of a losing trial: curtailment and an e-process, both valid after any number of rows.

A trial is compared with the incumbent, whose scores are known. It stops when it cannot catch up even with the highest
score on every row left (which never changes the final order), or when the evidence that it is worse passes a level.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentopt.core.records import EarlyStop

Floats = NDArray[np.float64]

LEVEL = 0.05
"""Probability that a trial as good as the incumbent is ever stopped by the e-process."""

BETS = np.arange(1, 20) / 20
"""Stakes of the e-process; the average of their wealth is an e-value, too."""

LOWEST, HIGHEST = 0.0, 1.0
"""Range of a row's score that both rules assume."""

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class StopTest:
    """Compares a trial with the incumbent while its rows are evaluated, in an order that does not depend on scores.

    A trial with a score outside of `LOWEST` to `HIGHEST`, or against an incumbent with one, is never stopped: without
    known bounds neither rule is valid.

    Attributes:
        incumbent: Example id -> score of the trial to beat, on all rows that it was scored on.
        against: Its name in `EarlyStop`.
        level: Level of the e-process; 0 leaves curtailment alone.
        margin: Score that the trial may be below the incumbent, as one that is cheaper may.
    """

    incumbent: Mapping[str, float]
    against: str
    level: float = LEVEL
    margin: float = 0.0

    def stop(self, scores: Mapping[str, float]) -> EarlyStop | None:
        """The reason to stop a trial with the scores so far; None to continue.

        Args:
            scores: Example id -> score of the first rows in the planned order. A row that is left out of it may still
                get the highest score, so a row without a score never counts against the trial.
        """
        behind = self._behind(scores)
        if not len(behind) or not self._bounded(scores):
            return None
        evidence = e_value(behind)
        if behind.sum() + self._room(self.incumbent.keys() - scores.keys()) < -_ROUNDING:
            return EarlyStop("cannot catch up", self.against, evidence)
        if self.level > 0 and evidence >= 1 / self.level:
            return EarlyStop("worse", self.against, evidence)
        return None

    def needed(self, scores: Mapping[str, float], left: Sequence[str]) -> int:
        """How many of the next rows are evaluated whatever their scores: none before the last of them can stop it.

        They may run at the same time without any call that row by row would not be made.

        Args:
            scores: As for `stop`.
            left: Ids of the rows left, in the planned order.
        """
        rows = [row for row in left if row in self.incumbent]
        if not rows or not self._bounded(scores):
            return len(left)
        behind, worst = self._behind(scores), np.array([self._ahead(LOWEST, row) for row in rows])
        wealth = (_wealth(behind)[:, None] * np.cumprod(1 - BETS[:, None] * worst, axis=1)).mean(axis=0)
        room = np.cumsum([self._ahead(HIGHEST, row) for row in rows])
        total = self._room(self.incumbent.keys() - scores.keys())
        lost = behind.sum() + np.cumsum(worst) + total - room < -_ROUNDING
        if self.level > 0:
            lost |= wealth >= 1 / self.level
        return left.index(rows[int(lost.argmax())]) + 1 if lost.any() else len(left)

    def _behind(self, scores: Mapping[str, float]) -> Floats:
        return np.array([self._ahead(score, row) for row, score in scores.items() if row in self.incumbent])

    def _ahead(self, score: float, row: str) -> float:
        """The score less that of the incumbent, with the margin; within -1 and 1, as `e_value` needs it."""
        return (score - self.incumbent[row] + self.margin) / (1 + self.margin)

    def _room(self, rows: Iterable[str]) -> float:
        return sum(self._ahead(HIGHEST, row) for row in rows)

    def _bounded(self, scores: Mapping[str, float]) -> bool:
        return bounded(scores.values()) and bounded(self.incumbent.values())


def bounded(scores: Iterable[float]) -> bool:
    """Whether all scores are within the range that early stopping assumes."""
    return all(LOWEST <= score <= HIGHEST for score in scores)


def e_value(differences: Floats) -> float:
    """Evidence that the mean of the differences is below 0, as an e-value.

    The average over stakes of prod(1 - stake x difference): its expectation is at most 1, at any stopping time, if each
    difference has a mean of at least 0 given those before (Waudby-Smith and Ramdas, JRSS B 86, 2024).

    Args:
        differences: Challenger less incumbent, row by row, each within -1 and 1.

    Raises:
        ValueError: A difference is outside of -1 and 1.
    """
    if np.abs(differences).max(initial=0.0) > 1 + _ROUNDING:
        raise ValueError(f"differences must lie within -1 and 1, but got {float(np.abs(differences).max())}")
    return float(_wealth(differences).mean())


def _wealth(differences: Floats) -> Floats:
    """Wealth of each stake after the differences."""
    return np.asarray(np.prod(1 - BETS[:, None] * np.asarray(differences)[None, :], axis=1))
