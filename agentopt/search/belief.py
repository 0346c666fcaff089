"""What an agent expects of a subtask before any trial, as a prior mean of the surrogate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

OUTSIDE = math.log(6)
"""Distance of a sample count from the range, in the logarithm, at which it is as far below the peak as one sample."""
FARTHEST = 2.0
"""Most that a sample count is below the range, in units of the rise from one sample to the peak."""


@dataclass(frozen=True, slots=True)
class Belief:
    """The agent's ranking of a subtask's models, and the sample counts that it takes for plausible."""

    ranking: tuple[str, ...]
    """Models, the best first; a model that is missing is taken to be average."""
    fewest: int
    """The smallest plausible number of samples."""
    most: int
    """The largest one."""

    def of_models(self, models: Sequence[str]) -> list[float]:
        """How good each model is: evenly spaced by rank, with mean 0 and standard deviation 1 over the ranked ones.

        Args:
            models: Catalogue names.
        """
        count = len(self.ranking)
        deviation = math.sqrt((count**2 - 1) / 12) or 1.0
        return [((count - 1) / 2 - self.ranking.index(m)) / deviation if m in self.ranking else 0.0 for m in models]

    def of_counts(self, counts: Sequence[int]) -> list[float]:
        """How good each sample count is: 1 within the range, 0 at a distance of `OUTSIDE`, at least 1 - `FARTHEST`.

        Args:
            counts: Sample counts.
        """
        away = (max(math.log(self.fewest / n), math.log(n / self.most), 0.0) for n in counts)
        return [1 - min(distance / OUTSIDE, FARTHEST) for distance in away]
