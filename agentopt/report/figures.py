"""Figures of a run as plotly specifications: pure functions from recorded data to plain dictionaries.

`plotly.graph_objects.Figure(figure.spec)` accepts a specification, and so does plotly.js. Colours are those of Okabe
and Ito, which colour-blind readers can distinguish.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean
from typing import Any

from agentopt.core.budget import Usage
from agentopt.core.cost import SHOWN, CostMeasure, format_cost
from agentopt.core.message_text import counted
from agentopt.core.usd_text import format_usd
from agentopt.prompts.outcome import RaceRewards
from agentopt.runs.result import TrialLine
from agentopt.runs.run_record import PromptsEntry

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D31", "#7F7F7F")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "x")

BEYOND = "beyond a cost limit"
MOST_TICKS = 12
"""Largest range of numbers that each have a tick; more would not fit on a phone."""
SCORE_MARGIN = 0.05
"""Room for markers below a score of 0 and above one of 1."""
LABEL_LENGTH = 60
"""Most characters of a label; plotly draws text without line breaks."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure with its text alternative.

    Attributes:
        name: Identifies it in the page.
        title: Its heading.
        note: How it is read, in a sentence.
        spec: `data` and `layout` of plotly. A point's `customdata` is the number of its trial.
        columns: Headers of the table with the same numbers.
        rows: Its rows.
    """

    name: str
    title: str
    note: str
    spec: dict[str, Any]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def best_so_far(lines: Sequence[TrialLine]) -> Figure | None:
    """Score by trial with its proposer, and the highest score so far; None without a score.

    Args:
        lines: The trials, oldest first.
    """
    scored = [line for line in lines if line.score is not None]
    if not scored:
        return None
    traces: list[dict[str, Any]] = []
    for i, proposer in enumerate(dict.fromkeys(line.proposer for line in scored)):
        mine = [line for line in scored if line.proposer == proposer]
        traces.append(_points(_plain(proposer), mine, [line.number for line in mine], [_raw(line) for line in mine], i))
    complete = [_raw(line) if line.state == "complete" else -math.inf for line in scored]
    running = [None if highest == -math.inf else highest for highest in accumulate(complete, max)]
    numbers = [line.number for line in scored]
    best = {"shape": "hv", "color": "#7F7F7F", "width": 2}
    traces.insert(0, {"type": "scatter", "mode": "lines", "name": "highest so far", "x": numbers, "y": running,
                      "line": best, "hoverinfo": "skip"})  # fmt: skip
    rows = (
        (str(t.number), t.proposer, f"{_raw(t):.3f}", t.state, "" if y is None else f"{y:.3f}")
        for t, y in zip(scored, running, strict=True)
    )
    return Figure(
        "progress",
        "Best score so far",
        "Points are trials, the line is the highest raw score of a complete one. A click on a point opens its trial.",
        {"data": traces, "layout": _layout("trial", "validation score", scores=True, counts=numbers)},
        ("trial", "proposed by", "score", "state", "highest so far"),
        tuple(rows),
    )


def pareto(
    lines: Sequence[TrialLine], front: Sequence[int], measure: CostMeasure, beyond: Collection[int] = ()
) -> Figure | None:
    """Score against cost, with the Pareto front; None without a complete trial.

    Args:
        lines: The trials.
        front: Numbers of the trials on the front.
        measure: What costs are counted in; USD are shown per 1,000 requests.
        beyond: Numbers of the trials that cost more than a limit of the task.
    """
    complete = [line for line in lines if line.state == "complete" and line.score is not None]
    if not complete:
        return None
    scale, axis = SHOWN[measure]
    on_front = sorted((t for t in complete if t.number in front), key=lambda t: t.units)
    dear = [t for t in complete if t.number in beyond and t.number not in front]
    others = [t for t in complete if t.number not in front and t.number not in beyond]
    groups = (("on the front", on_front), ("other trials", others), (BEYOND, dear))
    traces = [
        _points(name, group, [scale * t.units for t in group], [_best_score(t) for t in group], i)
        for i, (name, group) in enumerate(groups)
        if group
    ]
    traces[0] |= {"mode": "lines+markers", "line": {"shape": "hv", "width": 1}} if on_front else {}
    rows = tuple(
        (str(t.number), str(t.candidate), f"{_best_score(t):.3f}", format_cost(t.units, measure),
         "yes" if t.number in front else BEYOND if t.number in beyond else "no")
        for t in sorted(complete, key=lambda t: t.units)
    )  # fmt: skip
    return Figure(
        "front",
        "Score and cost",
        "No trial is better in every respect than one on the front. Scores are posterior means given all trials. "
        + ("Those beyond a cost limit are not chosen. " if dear else "")
        + "A click on a point opens its trial.",
        {"data": traces, "layout": _layout(axis, "shrunk validation score", scores=True)},
        ("trial", "candidate", "shrunk score", axis, "on the front"),
        rows,
    )


def scaling(lines: Sequence[TrialLine], subtask: str) -> Figure | None:
    """Mean score of the trials by sample count and model of one subtask; None if there is one choice only.

    Args:
        lines: The trials.
        subtask: Name of the subtask.
    """
    scores: dict[str, dict[int, list[float]]] = {}
    for line in lines:
        choice = line.candidate[subtask]
        if line.score is not None and line.state != "incomplete":
            scores.setdefault(choice.model, {}).setdefault(choice.num_samples, []).append(_best_score(line))
    if sum(map(len, scores.values())) < 2:
        return None
    traces, rows = [], []
    all_counts = [count for by_count in scores.values() for count in by_count]
    places = models_of(lines)
    for model, by_count in scores.items():
        i = places.index(model)
        counts = sorted(by_count)
        means = [fmean(by_count[count]) for count in counts]
        trials = [len(by_count[count]) for count in counts]
        traces.append({"type": "scatter", "mode": "lines+markers", "name": _plain(model), "x": counts, "y": means,
                       "text": [f"{m:.3f} ({counted(n, 'trial')})" for m, n in zip(means, trials, strict=True)],
                       "line": {"color": _colour(i)},
                       "marker": {"color": _colour(i), "symbol": SYMBOLS[i % len(SYMBOLS)], "size": 9},
                       "hovertemplate": "%{x} samples: %{text}"})  # fmt: skip
        rows += [(model, str(c), f"{m:.3f}", str(n)) for c, m, n in zip(counts, means, trials, strict=True)]
    return Figure(
        f"scaling-{subtask}",
        f"Samples of {subtask}",
        "Mean score of the trials with this model and number of samples; the other subtasks of these trials differ.",
        {"data": traces, "layout": _layout("num_samples", "mean score", scores=True, counts=all_counts)},
        ("model", "num_samples", "mean score", "trials"),
        tuple(rows),
    )


def models_of(lines: Sequence[TrialLine]) -> list[str]:
    """The models of the trials, in the order in which they were tried; one has the same colour in all figures.

    Args:
        lines: The trials.
    """
    return list(dict.fromkeys(choice.model for line in lines for choice in line.candidate.values()))


def spend(spent: Mapping[tuple[str, str], Usage], tried: Sequence[str] = ()) -> Figure | None:
    """Spend by purpose and model, in USD if anything has a price, else in tokens; None if nothing was spent.

    Args:
        spent: (purpose, model) -> usage.
        tried: The models of the trials; see `models_of`.
    """
    in_usd = any(usage.usd for usage in spent.values())
    if not any(usage.calls for usage in spent.values()):
        return None
    purposes = list(dict.fromkeys(purpose for purpose, _ in spent))
    called = {model for _, model in spent}
    models = list(dict.fromkeys([*tried, *(model for _, model in spent)]))

    def amount(usage: Usage) -> float:
        return usage.usd if in_usd else usage.tokens

    traces = [
        {"type": "bar", "name": _plain(model), "x": purposes, "marker": {"color": _colour(i)},
         "y": [amount(spent.get((purpose, model), Usage())) for purpose in purposes]}
        for i, model in enumerate(models)
        if model in called
    ]  # fmt: skip
    rows = tuple(
        (purpose, model, f"{u.calls:,}", f"{u.prompt_tokens:,}", f"{u.completion_tokens:,}", format_usd(u.usd))
        for (purpose, model), u in spent.items()
    )
    return Figure(
        "spend",
        "Spend by purpose and model",
        "Everything that the run paid for, over all of its sessions.",
        {
            "data": traces,
            "layout": {**_layout("purpose", "USD" if in_usd else "tokens"), "barmode": "stack", "bargap": 0.5},
        },
        ("purpose", "model", "calls", "prompt tokens", "completion tokens", "USD"),
        rows,
    )


def race(name: str, entry: PromptsEntry) -> Figure | None:
    """The heat map of a prompt optimisation; None if only one system prompt has rewards.

    Args:
        name: Identifies the figure.
        entry: The prompt optimisation.
    """
    if entry.rewards is None or len(entry.rewards.system_prompts) < 2:
        return None
    return heat_map(name, f"Rewards of the system prompts of {entry.report.subtask}", entry.rewards)


def heat_map(name: str, title: str, rewards: RaceRewards) -> Figure:
    """Mean reward of each system prompt on each training example.

    Args:
        name: Identifies the figure.
        title: Its heading.
        rewards: The rewards of a race.
    """
    labels = [f"P{i} {proposer}" for i, proposer in enumerate(rewards.proposers)]
    trace = {
        "type": "heatmap",
        "x": [_plain(example) for example in rewards.examples],
        "y": [_plain(label) for label in labels],
        "z": [list(row) for row in rewards.mean],
        "colorscale": "Cividis",
        "hoverongaps": False,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"title": {"text": "reward"}},
    }
    layout = _layout("training example", "")
    layout["yaxis"] |= {"autorange": "reversed", "type": "category", "showgrid": False}
    layout["xaxis"] |= {"type": "category", "showgrid": False, "showticklabels": len(rewards.examples) <= 20}
    layout["height"] = 220 + 22 * len(labels)
    cells = tuple(
        (label, *("" if value is None else f"{value:.2f}" for value in row))
        for label, row in zip(labels, rewards.mean, strict=True)
    )
    note = "Rows differ if the system prompt matters, columns if examples are harder. Empty cells have no reward."
    return Figure(name, title, note, {"data": [trace], "layout": layout}, ("system prompt", *rewards.examples), cells)


def _points(
    name: str, lines: Sequence[TrialLine], x: Sequence[float], y: Sequence[float], place: int
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": list(x),
        "y": list(y),
        "customdata": [line.number for line in lines],
        "text": ["<br>".join(_hover(line)) for line in lines],
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {"color": _colour(place), "symbol": SYMBOLS[place % len(SYMBOLS)], "size": 9},
    }


def _hover(line: TrialLine) -> Iterator[str]:
    score = "" if line.score is None else f": score {line.score:.3f}"
    yield f"trial {line.number}{score}, {line.state}"
    yield from (_plain(f"{name}: {choice}") for name, choice in line.candidate.items())
    if line.measures:
        yield _plain(str(line.measures))


def _plain(text: str) -> str:
    """A label that plotly, which reads a few HTML tags and entities in its texts, shows as it is."""
    cut = text if len(text) <= LABEL_LENGTH else f"{text[: LABEL_LENGTH - 3]}..."
    return cut.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "% {")


def _layout(x: str, y: str, *, scores: bool = False, counts: Sequence[int] = ()) -> dict[str, Any]:
    """The layout of a figure.

    Args:
        x: Title of the x axis.
        y: Title of the y axis.
        scores: Whether y has scores. Around equal scores of 1, plotly's own range would end at 2.
        counts: What x counts, if it does. Few of them have a tick each: plotly's own would be fractions, too.
    """
    range_of_y = {"autorangeoptions": {"clipmin": -SCORE_MARGIN, "clipmax": 1 + SCORE_MARGIN}} if scores else {}
    ticks_of_x = {"dtick": 1} if counts and max(counts) - min(counts) <= MOST_TICKS else {}
    return {
        "xaxis": {"title": {"text": x}, "automargin": True, **ticks_of_x},
        "yaxis": {"title": {"text": y}, "automargin": True, **range_of_y},
        "margin": {"l": 50, "r": 16, "t": 16, "b": 48},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "hovermode": "closest",
        "height": 380,
    }


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _raw(line: TrialLine) -> float:
    return line.score or 0.0


def _best_score(line: TrialLine) -> float:
    return line.shrunk if line.shrunk is not None else _raw(line)
