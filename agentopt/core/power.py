"""The statistical power of a number of rows, computed before any call."""

from __future__ import annotations

import math

from agentopt.core.message_text import counted
from agentopt.core.records import Split
from agentopt.core.task import Task

LEVEL, POWER = 0.05, 0.8
"""Level of the two-sided test, and the probability that it detects a detectable difference."""

DISCORDANCE = 0.3
"""Share of rows on which two candidates differ, assumed before any is measured."""

SMALLEST = 6
"""Fewer rows than this cannot show any difference at level .05: 2 x .5^5 = .0625."""


def minimal_detectable_difference(rows: int, discordance: float = DISCORDANCE) -> float | None:
    """The smallest true difference of right-or-wrong scores that is detected with probability .8 at level .05.

    d solves d = (z_.975 + z_.8) sqrt((D - d^2) / n), the normal approximation of the paired test (Connor, Biometrics
    43, 1987); if d exceeds the discordance D, all discordant rows favour one side and D = d.

    Args:
        rows: Independent rows that both candidates are scored on.
        discordance: Share of rows on which the two differ.

    Returns:
        The difference, or None below six rows, which cannot show any.
    """
    if rows < SMALLEST:
        return None
    from scipy.special import ndtri

    z = float(ndtri(1 - LEVEL / 2) + ndtri(POWER))
    ratio = z**2 / rows
    found = math.sqrt(ratio * discordance / (1 + ratio))
    return found if found <= discordance else ratio / (1 + ratio)


def rows_to_detect(difference: float, discordance: float = DISCORDANCE) -> int:
    """The fewest rows on which a true difference is detected: the inverse of `minimal_detectable_difference`.

    Args:
        difference: The true difference of right-or-wrong scores, above 0 and below 1.
        discordance: Share of rows on which the two differ.
    """
    from scipy.special import ndtri

    z = float(ndtri(1 - LEVEL / 2) + ndtri(POWER))
    of_discordant = (discordance - difference**2) / difference**2
    rows = z**2 * (of_discordant if difference <= discordance else (1 - difference) / difference)
    return max(SMALLEST, math.ceil(rows - 1e-9))


def power_advice(rows: int, discordance: float = DISCORDANCE) -> str:
    """One sentence for the dry run about the differences that these rows cannot show."""
    detectable = minimal_detectable_difference(rows, discordance)
    if detectable is None:
        return f"with {counted(rows, 'row')} no difference can reach significance: use at least {SMALLEST}"
    return f"with {counted(rows, 'row')} a difference below {detectable:.2f} may not be detected"


def power_notes(task: Task, below: float = math.inf) -> tuple[str, ...]:
    """The advice on the validation and on the test split, if it has rows and fewer than `below`; groups count once."""
    splits: tuple[Split, ...] = ("validation", "test")
    rows = {split: task.independent(split) for split in splits}
    return tuple(f"{split}: {power_advice(count)}" for split, count in rows.items() if 0 < count < below)
