"""Claims about a judge beside labels: the corrected mean and Cohen's kappa."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from agentopt.core.agreement import agreement
from agentopt.core.prediction_powered import corrected_mean
from agentopt.core.stats import Floats
from benchmarks.claims.lines import Line, at_least, at_most, shown
from benchmarks.claims.processes import each

JUDGES = {
    "good": (0.7, 0.05, 0.05),
    "lenient": (0.7, 0.4, 0.02),
    "lenient, few wrong": (0.9, 0.5, 0.0),
    "by chance": (0.7, 0.5, 0.5),
    "perfect": (0.7, 0.0, 0.0),
}
"""Share of right outputs; chances that the judge accepts a wrong output and rejects a right one."""


def judges(runs: int) -> Iterator[Line]:
    """Coverage and bias of the corrected mean, and coverage of kappa, with n labels and 4 n other outputs."""
    for name in JUDGES:
        for n in (30, 100):
            inside, off, uncorrected, kappas = zip(*each(partial(_judged, name=name, n=n), range(runs)), strict=True)
            yield at_least(f"coverage of the corrected mean, judge {name}, n={n}", inside, 0.93)
            yield at_most(f"bias of the corrected mean, judge {name}, n={n}", off, 0.01)
            yield shown(f"bias without correction, judge {name}, n={n}", uncorrected)
            yield at_least(f"coverage of Cohen's kappa, judge {name}, n={n}", kappas, 0.93)


def _judged(seed: int, name: str, n: int) -> tuple[bool, float, float, bool]:
    """Whether the corrected mean covers the truth, its error, that of the judge's mean, whether kappa is covered."""
    share, accepts, rejects = JUDGES[name]
    labels, says = _drawn(np.random.default_rng([seed, n]), 5 * n, share, accepts, rejects)
    found = corrected_mean(labels[:n], says[:n], says[n:])
    kappa = agreement(labels[:n].tolist(), says[:n].tolist(), (0.0, 1.0)).interval
    return (
        found.interval.low <= share <= found.interval.high,
        found.mean - share,
        found.judge_mean - share,
        kappa.low - 1e-9 <= _kappa(share, accepts, rejects) <= kappa.high + 1e-9,
    )


def _drawn(rng: np.random.Generator, n: int, share: float, accepts: float, rejects: float) -> tuple[Floats, Floats]:
    labels = rng.random(n) < share
    says = np.where(labels, rng.random(n) >= rejects, rng.random(n) < accepts)
    return labels.astype(float), says.astype(float)


def _kappa(share: float, accepts: float, rejects: float) -> float:
    same = share * (1 - rejects) + (1 - share) * (1 - accepts)
    yes = share * (1 - rejects) + (1 - share) * accepts
    chance = share * yes + (1 - share) * (1 - yes)
    return (same - chance) / (1 - chance)
