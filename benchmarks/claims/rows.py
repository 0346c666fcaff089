"""Claims about intervals, verdicts, duplicates, power and repeats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from agentopt.core.duplicates import shared_by_group
from agentopt.core.gate import gate
from agentopt.core.intervals import APPROXIMATE_BELOW, mean_ends, mean_p_value
from agentopt.core.power import minimal_detectable_difference
from agentopt.core.repeats import repeated_mean
from agentopt.core.stats import Floats, mean_interval, paired_difference, verdict
from benchmarks.claims.lines import Line, at_least, at_most, shown
from benchmarks.claims.processes import each
from benchmarks.claims.worlds import right_or_wrong

SIZES = (6, 10, 24, 60, 200)
TIED = np.array([0.0, 0.5, 1.0])

Draw = Callable[[np.random.Generator, int], Floats]

SCORES: dict[str, tuple[Draw, float]] = {
    "binary .5": (lambda rng, n: (rng.random(n) < 0.5).astype(float), 0.5),
    "binary .9": (lambda rng, n: (rng.random(n) < 0.9).astype(float), 0.9),
    "binary .03": (lambda rng, n: (rng.random(n) < 0.03).astype(float), 0.03),
    "normal": (lambda rng, n: rng.normal(0.5, 0.15, n), 0.5),
    "tied": (lambda rng, n: rng.choice(TIED, n, p=[0.3, 0.4, 0.3]), 0.5),
}
SKEWED: dict[str, tuple[Draw, float]] = {
    "exponential": (lambda rng, n: rng.exponential(1, n), 1.0),
    "lognormal": (lambda rng, n: rng.lognormal(0, 1, n), float(np.exp(0.5))),
    "tied, mostly 1": (lambda rng, n: rng.choice(np.arange(5) / 4, n, p=[0.05, 0.05, 0.1, 0.2, 0.6]), 0.8125),
}


def intervals(runs: int) -> Iterator[Line]:
    """Coverage of the interval of a mean."""
    for name, (draw, truth) in {**SCORES, **SKEWED}.items():
        for n in SIZES:
            inside, marked = [], []
            for seed in range(runs):
                interval = mean_interval(draw(np.random.default_rng([seed, n]), n).tolist(), seed=seed)
                inside.append(interval.low - 1e-12 <= truth <= interval.high + 1e-12)
                marked.append(interval.approximate)
            what = f"coverage, {name}, n={n}"
            exempt = name in SKEWED and n < APPROXIMATE_BELOW
            yield shown(f"{what} (approximate)", inside) if exempt else at_least(what, inside, 0.93)
            if n < APPROXIMATE_BELOW and not name.startswith("binary"):
                yield shown(f"marked as approximate, {name}, n={n}", marked)
                missed = [not i and not m for i, m in zip(inside, marked, strict=True)]
                yield at_most(f"misses without the mark, {name}, n={n}", missed, 0.07)


def differences(runs: int) -> Iterator[Line]:
    """Coverage of the interval of a paired difference, and false verdicts without a difference."""
    for name, chances in {"equal": (0.6, 0.6), "apart": (0.75, 0.5), "high": (0.95, 0.9)}.items():
        for n in SIZES:
            inside, false = [], []
            for seed in range(runs):
                rng = np.random.default_rng([seed, n, 1])
                difficulty = rng.standard_normal(n)
                a, b = (right_or_wrong(rng, chance, difficulty) for chance in chances)
                found = paired_difference(_by_id(a), _by_id(b))
                truth = chances[0] - chances[1]
                inside.append(found.interval.low <= truth <= found.interval.high)
                false.append(verdict(found) != "not distinguishable")
            yield at_least(f"coverage of a paired difference, {name}, n={n}", inside, 0.93)
            if name == "equal":
                yield at_most(f"false verdicts on equals, n={n}", false, 0.05)


def skewed_differences(runs: int) -> Iterator[Line]:
    """Skewed differences of mean 0: coverage, and false verdicts."""
    for name in SKEWED:
        for n in (5, 10, 24, 60, 200):
            found = [case for case in each(partial(_skewed, name=name, n=n), range(runs)) if case]
            inside, false = [inside for inside, _ in found], [false for _, false in found]
            exempt = n < APPROXIMATE_BELOW
            what = f"of {name} differences, n={n}{' (approximate)' if exempt else ''}"
            yield shown(f"coverage {what}", inside) if exempt else at_least(f"coverage {what}", inside, 0.93)
            yield shown(f"false verdicts {what}", false) if exempt else at_most(f"false verdicts {what}", false, 0.07)


def _skewed(seed: int, name: str, n: int) -> tuple[bool, bool] | None:
    """Whether the interval covers 0, and whether the verdict is false; None if all differences are the same."""
    draw, truth = SKEWED[name]
    values = draw(np.random.default_rng([seed, n, 2]), n) - truth
    if np.ptp(values) == 0:
        return None
    low, high = mean_ends(values, seed=seed)
    inside = low <= 0 <= high
    return inside, mean_p_value(values, seed=seed) <= 0.05 and not inside


def duplicates(runs: int) -> Iterator[Line]:
    """200 rows made of 20 x 10: each row is repeated under ten ids."""
    plain, pooled = [], []
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        difficulty = rng.standard_normal(20)
        a, b = (_by_id(np.repeat(right_or_wrong(rng, 0.6, difficulty), 10)) for _ in range(2))
        groups = {row: f"group {i // 10}" for i, row in enumerate(a)}
        plain.append(verdict(paired_difference(a, b)) != "not distinguishable")
        pooled.append(verdict(paired_difference(*shared_by_group(a, b, groups))) != "not distinguishable")
    yield shown("20 x 10 rows, equals: false verdicts without grouping", plain)
    yield at_most("20 x 10 rows, equals: false verdicts", pooled, 0.05)


def power(runs: int) -> Iterator[Line]:
    """How often a difference of the size in the advice is detected."""
    for n in (24, 50, 200):
        detectable = minimal_detectable_difference(n) or 0.0
        rng = np.random.default_rng(n)
        chances = [(0.3 + detectable) / 2, (0.3 - detectable) / 2, 0.7]
        seen = [
            gate(*_pair(wins, losses, same)).verdict == "superior"
            for wins, losses, same in rng.multinomial(n, chances, runs).tolist()
        ]
        yield shown(f"n={n}: a difference of {detectable:.2f} is shown", seen)
        half = detectable / 2
        chances = [(0.3 + half) / 2, (0.3 - half) / 2, 0.7]
        seen = [
            gate(*_pair(wins, losses, same)).verdict == "superior"
            for wins, losses, same in rng.multinomial(n, chances, runs).tolist()
        ]
        yield shown(f"n={n}: half of it is shown", seen)


def gates(runs: int) -> Iterator[Line]:
    """The gate's errors: a loss of the margin called non-inferior, equals called inferior or superior."""
    for n, margin in ((200, 0.05), (1000, 0.02)):
        rng = np.random.default_rng(n)
        at_margin = [(0.2 - margin) / 2, (0.2 + margin) / 2, 0.8]
        passed = [gate(*_pair(*draw), margin=margin).exit_code == 0 for draw in _draws(rng, n, at_margin, runs)]
        yield at_most(f"n={n}: a loss of the margin {margin:g} passes", passed, 0.035)
        verdicts = [gate(*_pair(*draw), margin=margin).verdict for draw in _draws(rng, n, [0.1, 0.1, 0.8], runs)]
        yield at_most(f"n={n}: equals are called inferior", [v == "inferior" for v in verdicts], 0.025)
        yield at_most(f"n={n}: equals are called superior", [v == "superior" for v in verdicts], 0.025)


def repeats(runs: int) -> Iterator[Line]:
    """Coverage of the interval of a mean over repeats; rows have their own chances."""
    for n in SIZES:
        for count in (2, 5):
            inside, two_way, wide = zip(*each(partial(_repeated, n=n, count=count), range(runs)), strict=True)
            yield at_least(f"coverage of the mean over {count} repeats, n={n}", inside, 0.93)
            yield shown(f"coverage of resampling rows and repeats, {count} repeats, n={n}", two_way)
            yield shown(f"its width as a share of ours, {count} repeats, n={n}", wide)


def _repeated(seed: int, n: int, count: int) -> tuple[bool, bool, float]:
    """Whether our interval and one by two-way resampling cover the truth, and the width of theirs over ours."""
    rng = np.random.default_rng([seed, n, count])
    table = (rng.random((n, count)) < rng.beta(2, 1.2, n)[:, None]).astype(float)
    interval = repeated_mean(table, seed=seed).interval
    low, high = resampled_two_ways(table, rng)
    truth = 2 / 3.2
    width = (high - low) / max(interval.high - interval.low, 1e-9)
    return interval.low <= truth <= interval.high, low <= truth <= high, width


def resampled_two_ways(table: Floats, rng: np.random.Generator, resamples: int = 500) -> tuple[float, float]:
    """Percentile interval by resampling rows and whole repeats, for comparison."""
    rows, columns = (rng.integers(size, size=(resamples, size)) for size in table.shape)
    means = np.array([table[np.ix_(r, c)].mean() for r, c in zip(rows, columns, strict=True)])
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _draws(rng: np.random.Generator, n: int, chances: list[float], runs: int) -> list[list[int]]:
    found: list[list[int]] = rng.multinomial(n, chances, runs).tolist()
    return found


def _pair(wins: int, losses: int, same: int) -> tuple[dict[str, float], dict[str, float]]:
    a = np.repeat([1.0, 0.0, 1.0], [wins, losses, same])
    b = np.repeat([0.0, 1.0, 1.0], [wins, losses, same])
    return _by_id(a), _by_id(b)


def _by_id(scores: Floats) -> dict[str, float]:
    return {f"{row:04}": float(score) for row, score in enumerate(scores)}
