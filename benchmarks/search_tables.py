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


def quartiles(values: Sequence[float], given_up: str) -> str:
    """Median and quartiles; infinity, the value of a search that was given up, is shown as `given_up`."""
    ordered = sorted(values)
    # Not interpolated: there is nothing between a number and infinity.
    shown = [ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.25, 0.75)]
    middle, low, high = (given_up if value == math.inf else f"{value:.0f}" for value in shown)
    return f"{middle} ({low} to {high})"


def row(strategy: str, runs: Sequence[SearchOutcome]) -> str:
    """The row of one strategy."""
    cells = []
    for measure_, given_up in (("trials", f">{max(o.most for o in runs)}"), ("samples", "-"), ("units", "-")):
        cells.append(quartiles([getattr(o.close, measure_) if o.close else math.inf for o in runs], given_up))
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
    "| strategy | trials | samples per example | units per example | within 50 | best after 10, 20, 50 "
    "| model: calls | model: own proposals |\n|---|---|---|---|---|---|---|---|"
)


def table(outcomes: Sequence[SearchOutcome]) -> str:
    """The table of one landscape in Markdown; below, a comparison of the default, and how much of it was search."""
    runs = {s: [o for o in outcomes if o.strategy == s] for s in dict.fromkeys(o.strategy for o in outcomes)}
    rows = "\n".join(row(strategy, of) for strategy, of in runs.items())
    return "\n\n".join(part for part in (f"{HEAD}\n{rows}", compared(runs), searched(runs)) if part)


def compared(runs: dict[str, list[SearchOutcome]]) -> str:
    """The default's median number of trials as a share of that of random search and of each TPE."""

    def median(strategy: str) -> float:
        ordered = sorted(o.close.trials if o.close else o.most + 1 for o in runs[strategy])
        return ordered[len(ordered) // 2]

    others = [name for name in ("random", "optuna, tpe", "optuna, tpe-multivariate") if name in runs]
    if DEFAULT not in runs or not others:
        return ""
    shares = (f"{median(DEFAULT) / median(o):.2f} of {o}" for o in others)
    return f"The default's trials at the median: {', '.join(shares)} (those given up count as one trial more)."


def searched(runs: dict[str, list[SearchOutcome]]) -> str:
    """How many of the default's trials, at the median, came after the start."""
    if DEFAULT not in runs:
        return ""
    ordered = sorted((o.close.trials if o.close else math.inf, o.start) for o in runs[DEFAULT])
    trials, start = ordered[len(ordered) // 2]
    if trials == math.inf:
        return "At the median the default was given up."
    nothing = ": nothing was searched" if trials == start else ""
    return (
        f"Of the default's {trials:.0f} trials at the median {trials - start:.0f} came after the start, "
        f"the baseline and the first trials of insight 1{nothing}."
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
