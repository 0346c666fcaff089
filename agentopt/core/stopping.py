"""Early stopping of a losing trial: curtailment and an e-process, both valid after any number of rows.

A trial is compared with the incumbent, whose scores on all rows are known. It stops when it cannot catch up even with
the highest score on every row left (which never changes the final order), or when the evidence that it is worse passes
a level: an e-process may be tested after every row, so blocks may have any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.05
"""Probability that a trial as good as the incumbent is ever stopped by the e-process."""

BETS = np.arange(1, 20) / 20
"""Stakes of the e-process; the average of their wealth is an e-value, too."""


@dataclass(frozen=True, slots=True)
class StopRule:
    """When a trial stops early."""

    level: float = LEVEL
    """Level of the e-process; 0 leaves curtailment alone."""

    lowest: float = 0.0
    """Lowest possible score of a row."""

    highest: float = 1.0
    """Highest possible score of a row."""

    def has_lost(self, challenger: Mapping[str, float], incumbent: Mapping[str, float]) -> bool:
        """Whether the challenger, with the scores so far, need not be evaluated further.

        Args:
            challenger: Example id -> score, in the order of evaluation.
            incumbent: Example id -> score, on all rows.
        """
        shared = [key for key in challenger if key in incumbent]
        if not shared:
            return False
        behind = np.array([challenger[key] - incumbent[key] for key in shared])
        ahead = [self.highest - score for key, score in incumbent.items() if key not in challenger]
        if behind.sum() + sum(ahead) < -1e-9:
            return True
        return self.level > 0 and e_value(behind / (self.highest - self.lowest)) >= 1 / self.level


def e_value(differences: Floats) -> float:
    """Evidence that the mean of the differences is below 0, as an e-value.

    The average over stakes of prod(1 - stake x difference): its expectation is at most 1, at any stopping time, if each
    difference has a mean of at least 0 given those before (Waudby-Smith and Ramdas, JRSS B 86, 2024).

    Args:
        differences: Challenger less incumbent, row by row, each within -1 and 1.

    Raises:
        ValueError: A difference is outside of -1 and 1.
    """
    if np.abs(differences).max(initial=0.0) > 1 + 1e-9:
        raise ValueError(
            f"differences must lie within -1 and 1, but got {float(np.abs(differences).max())}: "
            "set the lowest and highest score of a row"
        )
    wealth = np.prod(1 - BETS[:, None] * np.asarray(differences)[None, :], axis=1)
    return float(wealth.mean())
