"""Lines of the table of claims: a simulated figure with its Monte-Carlo error, its limit, and whether it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

State = Literal["reached", "within error", "BROKEN", ""]

ERRORS = 2.5
"""Monte-Carlo errors beyond its limit at which a figure counts as broken."""


@dataclass(frozen=True)
class Line:
    """One figure. `state` is empty for figures without a limit."""

    what: str
    measured: float
    error: float
    limit: str = ""
    state: State = ""

    def __str__(self) -> str:
        return f"| {self.what} | {self.measured:.4f} ± {self.error:.4f} | {self.limit} | {self.state} |"


def mean_and_error(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean of simulated values and its standard error; a share is never given an error below that of one case."""
    found = np.asarray(values, dtype=float)
    error = found.std(ddof=1) / np.sqrt(len(found)) if len(found) > 1 else np.inf
    if np.asarray(values).dtype == bool:
        error = max(error, 1 / len(found))
    return float(found.mean()), float(error)


def shown(what: str, values: Sequence[float] | np.ndarray) -> Line:
    """A figure without a limit."""
    return Line(what, *mean_and_error(values))


def at_most(what: str, values: Sequence[float] | np.ndarray, limit: float) -> Line:
    mean, error = mean_and_error(values)
    return Line(what, mean, error, f"at most {limit:g}", _state(mean - limit, error))


def at_least(what: str, values: Sequence[float] | np.ndarray, limit: float) -> Line:
    mean, error = mean_and_error(values)
    return Line(what, mean, error, f"at least {limit:g}", _state(limit - mean, error))


def _state(beyond: float, error: float) -> State:
    if beyond <= 1e-12:
        return "reached"
    return "within error" if beyond <= ERRORS * error else "BROKEN"
