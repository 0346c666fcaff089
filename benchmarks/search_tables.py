"""Tables and curves of the search benchmark, from the outcomes of its searches."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CURVE = 50
"""Number of trials of a curve."""
DEFAULT, FALLBACK = "optuna, insight", "fallback"
"""The strategy that the summary is about, and the proposer of trials that a model did not propose."""
PEERS = ("random", "optuna, tpe", "optuna, tpe-multivariate", "tpe-multivariate, limit not avoided")
"""The strategies that the default is compared with."""


@dataclass(frozen=True, slots=True)
class Aim:
    """What the default is to reach on a landscape, and what version 0.1.0 reached with seeds 0 to 29.

    `median` and `most` are limits of the trials at the median and at 90%.
    """

    before: int
    median: float
    most: float


AIMS = {
    "synthetic, two subtasks": Aim(18, 12, 25),
    "synthetic, two subtasks, strengths shifted by up to .06": Aim(19, 12, 25),
    "synthetic, two subtasks, up to .10, 500 units": Aim(20, 12, 25),
    "synthetic, three subtasks, all drawn": Aim(25, 16, 40),
    "recorded, cwq": Aim(5, 5, 25),
    "recorded, quickstart": Aim(3, 3, 25),
    "recorded, threehop": Aim(3, 3, 25),
}
"""On recorded landscapes the aim is the median of 0.1.0."""


@dataclass(frozen=True)
class Spent:
    """The cost of a search per example; `samples` and `units` as if no two trials shared a response."""

    trials: int = 0
    samples: int = 0
    units: float = 0.0


@dataclass(frozen=True)
class SearchOutcome:
    """The outcome of one search.

    `close` is the cost until it came close, or None if it was given up. `start` is the number of trials before the
    search itself. For a strategy with a model, `calls` is the number of its calls, and `chosen` has the proposers of
    the trials after the first ones.
    """

    landscape: str
    strategy: str
    seed: int
    most: int
    close: Spent | None
    curve: tuple[float, ...]
    start: int = 0
    calls: int = 0
    chosen: tuple[str, ...] | None = None


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which the share of the values is; not interpolated, as they may be infinite."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def shown(value: float, given_up: str) -> str:
    """A number, or `given_up` for infinity, the value of a search that was given up."""
    return given_up if value == math.inf else f"{value:.0f}"


def trials(runs: Sequence[SearchOutcome]) -> list[float]:
    """Trials of each search; infinity if it was given up."""
    return [o.close.trials if o.close else math.inf for o in runs]


def row(strategy: str, runs: Sequence[SearchOutcome]) -> str:
    """The row of one strategy."""
    of_trials, most = trials(runs), f">{max(o.most for o in runs)}"
    cells = [shown(quantile(of_trials, share), most) for share in (0.5, 0.75, 0.9, 1)]
    spent = ([getattr(o.close, measure) if o.close else math.inf for o in runs] for measure in ("samples", "units"))
    cells += [shown(quantile(of, 0.5), "-") for of in spent]
    soon = sum(o.close is not None and o.close.trials <= CURVE for o in runs) / len(runs)
    curve = ", ".join(f"{statistics.fmean(o.curve[n - 1] for o in runs):.3f}" for n in (10, 20, 50))
    return f"| {strategy} | {' | '.join(cells)} | {soon:.0%} | {curve} | {model_cells(runs)} |"


def model_cells(runs: Sequence[SearchOutcome]) -> str:
    """The cells of a strategy with a model: its calls, and its share of the proposals; the rest is the fallback's."""
    if runs[0].chosen is None:
        return " | "
    chosen = [proposer for o in runs for proposer in o.chosen or ()]
    calls = statistics.median(o.calls for o in runs)
    own = f"{sum(proposer != FALLBACK for proposer in chosen) / len(chosen):.0%}" if chosen else "no trial"
    return f"{calls:.0f} | {own}"


HEAD = (
    "| strategy | trials, median | 75% | 90% | worst | samples per example | units per example | within 50 "
    "| best after 10, 20, 50 | model: calls | model: own proposals |\n|---|---|---|---|---|---|---|---|---|---|---|"
)


def table(outcomes: Sequence[SearchOutcome]) -> str:
    """The table of one landscape in Markdown; below, the default's comparison, aims, and how much of it was search."""
    runs = {s: [o for o in outcomes if o.strategy == s] for s in dict.fromkeys(o.strategy for o in outcomes)}
    rows = "\n".join(row(strategy, of) for strategy, of in runs.items())
    return "\n\n".join(part for part in (f"{HEAD}\n{rows}", compared(runs), aimed(runs), searched(runs)) if part)


def compared(runs: dict[str, list[SearchOutcome]]) -> str:
    """The default's median number of trials as a share of that of random search and of each TPE."""

    def median(strategy: str) -> float:
        return quantile([o.close.trials if o.close else o.most + 1 for o in runs[strategy]], 0.5)

    others = [name for name in PEERS if name in runs]
    if DEFAULT not in runs or not others:
        return ""
    shares = (f"{median(DEFAULT) / median(o):.2f} of {o}" for o in others)
    return f"The default's trials at the median: {', '.join(shares)} (those given up count as one trial more)."


def aimed(runs: dict[str, list[SearchOutcome]]) -> str:
    """The default's trials beside the aims and version 0.1.0."""
    of = runs.get(DEFAULT, [])
    if not of or of[0].landscape not in AIMS:
        return ""
    aim = AIMS[of[0].landscape]
    median, most = (shown(quantile(trials(of), share), "given up") for share in (0.5, 0.9))
    return (
        f"Aims of the default: a median of at most {aim.median} trials: {median}; 90% within {aim.most}: {most}. "
        f"Version 0.1.0, with seeds 0 to 29: a median of {aim.before}."
    )


def misses(outcomes: Sequence[SearchOutcome]) -> list[str]:
    """The aims that the default misses, by landscape."""
    found = []
    for name, aim in AIMS.items():
        of = trials([o for o in outcomes if (o.landscape, o.strategy) == (name, DEFAULT)])
        for share, limit in ((0.5, aim.median), (0.9, aim.most)):
            if of and (value := quantile(of, share)) > limit:
                found.append(f"{name}: {share:.0%} within {shown(value, 'more than all')} trials, not {limit}")
    return found


def searched(runs: dict[str, list[SearchOutcome]]) -> str:
    """How many of the default's trials, at the median, came after the start."""
    if DEFAULT not in runs:
        return ""
    ordered = sorted((o.close.trials if o.close else math.inf, o.start) for o in runs[DEFAULT])
    spent, start = ordered[len(ordered) // 2]
    if spent == math.inf:
        return "At the median the default was given up."
    nothing = ": nothing was searched" if spent == start else ""
    return (
        f"Of the default's {spent:.0f} trials at the median {spent - start:.0f} came after the start, "
        f"the baseline and one pass of the largest models{nothing}."
    )


def write_curves(outcomes: Sequence[SearchOutcome], path: Path) -> None:
    """Write the mean best score so far, as a share of the optimum, by landscape, strategy and number of trials."""
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["landscape", "strategy", "trials", "mean best so far, share of the optimum"])
        for landscape, strategy in dict.fromkeys((o.landscape, o.strategy) for o in outcomes):
            curves = [o.curve for o in outcomes if (o.landscape, o.strategy) == (landscape, strategy)]
            for trials, values in enumerate(zip(*curves, strict=True), 1):
                lines.writerow([landscape, strategy, trials, f"{statistics.fmean(values):.4f}"])
