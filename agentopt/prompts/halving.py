"""Sequential halving over system prompts: one race in which all candidates share rows and keep all their data.

`halving` is a generator and makes no calls: it yields a `Round` of cells to draw and receives all rewards drawn so far.
It is deterministic in its arguments and the rewards, so a resumed run replays it from the response cache.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from math import ceil, log2

import numpy as np
from numpy.typing import NDArray

from agentopt.core.stats import Estimator, Floats, cells
from agentopt.core.ties import tied
from agentopt.prompts.covariance import covariance
from agentopt.prompts.row_model import blup_scores, next_rows, row_model
from agentopt.prompts.settings import RowFilter
from agentopt.prompts.subsets import best_subset

Counts = NDArray[np.int64]
"""Responses, a whole number for each row or cell."""

Cell = tuple[int, int, int]
"""(system prompt, row, repeat): positions on the three axes of the rewards."""


@dataclass(frozen=True, slots=True)
class RaceSettings:
    """How a race chooses rows."""

    filter: RowFilter = "adaptive"
    """adaptive: rows that explain most of the overall mean, scored by BLUP; p1: the subset of arXiv 2604.08801; all:
    every row in turn; random: `k_top` random rows. The last three score by the mean reward."""

    k_top: int = 2
    """Rows that `p1` and `random` choose."""

    repeats: int = 16
    """Most responses of one system prompt on one row."""

    estimator: Estimator = "unbiased"
    """How `p1` estimates the noise of responses."""

    halve: bool = True
    """Whether half of the candidates is dropped after each round; otherwise all get the same number of responses."""


@dataclass(frozen=True, slots=True)
class Round:
    """Cells to draw next, for the candidates that are still in the race."""

    candidates: tuple[int, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """Scores of the candidates that reached the last round, best first. The first one is the winner."""

    candidates: tuple[int, ...]
    scores: tuple[float, ...]


def halving(
    rewards: Floats, candidates: Sequence[int], responses: int, settings: RaceSettings | None = None, *, seed: int = 0
) -> Generator[Round, Floats, Standing]:
    """Race the candidates with that many responses in all.

    Every round spends an equal part of the responses, on the same rows for every candidate left, and then drops the
    worse half. A candidate draws only what it lacks: responses that it has already count. Send the rewards so far, of
    shape (system prompts, rows, repeats) with NaN for a missing response; the last axis may grow.

    Args:
        rewards: Rewards known before the race. System prompts that are not candidates only inform the row model.
        candidates: positions on axis 0, the seed prompt included.
        responses: total number of new responses.
        settings: how rows are chosen.
        seed: orders the rows of `all` and `random`, and the first rows of `adaptive` without known rewards.

    Yields:
        The cells of the next round.

    Returns:
        The candidates of the last round by score.
    """
    settings = settings or RaceSettings()
    order: list[int] = np.random.default_rng(seed).permutation(rewards.shape[1]).tolist()
    alive, left, taken = tuple(candidates), responses, _taken(rewards)
    rounds = max(1, ceil(log2(len(alive)))) if settings.halve else 1
    for done in range(rounds):
        most, have = left // (rounds - done), taken[list(alive)]
        counts = have.min(axis=0)
        fewest = int((have == counts).sum(axis=0).min())  # candidates that lack a response on a row
        rows = _CHOOSERS[settings.filter](rewards, counts, most // fewest, settings, order)
        wanted = _cells(taken, alive, counts, rows, most)
        rewards = yield Round(alive, wanted)
        left -= len(wanted)
        ranked = standing(rewards, alive, settings)
        alive = ranked.candidates[: ceil(len(alive) / 2)] if settings.halve else alive
    return ranked


def standing(rewards: Floats, candidates: Sequence[int], settings: RaceSettings | None = None) -> Standing:
    """The candidates by score, best first, from the rewards so far; candidates without any reward come last.

    Args:
        rewards: Rewards by system prompt, user prompt and repeat; nan for those that were not drawn.
        candidates: Positions on axis 0 of `rewards`.
        settings: The settings of the race.
    """
    settings = settings or RaceSettings()
    known = [n for n in candidates if not np.isnan(rewards[n]).all()]
    scores = np.full(len(candidates), -np.inf)
    if known:
        scores[[n in known for n in candidates]] = _scores(rewards, known, settings)
    best = np.argsort(-np.array(tied(scores.tolist())), kind="stable")  # of equals the earlier one
    return Standing(tuple(int(candidates[i]) for i in best), tuple(float(scores[i]) for i in best))


def _scores(rewards: Floats, candidates: Sequence[int], settings: RaceSettings) -> Floats:
    if settings.filter == "adaptive":
        return blup_scores(row_model(rewards), rewards, candidates)
    table = rewards[list(candidates)]
    counts = (~np.isnan(table)).sum(axis=2)
    shared = counts.min(axis=0).astype(float)  # a candidate may have responses on further rows, which may be easier
    if not shared.any():
        own: Floats = np.nanmean(table, axis=(1, 2))
        return own
    means = np.where(np.isnan(table), 0.0, table).sum(axis=2) / np.maximum(counts, 1)
    return np.asarray(means @ shared / shared.sum())


def _answered(rewards: Floats) -> int:
    """Number of system prompts with a response."""
    return int((~np.isnan(rewards)).any(axis=(1, 2)).sum())


def _taken(rewards: Floats) -> Counts:
    """Repeats of each cell (N, K) that are taken: 1 + the last one with a response."""
    repeats = np.arange(1, rewards.shape[2] + 1)
    taken: Counts = np.where(np.isnan(rewards), 0, repeats).max(axis=2)
    return taken


def _cells(
    taken: Counts, candidates: Sequence[int], counts: Counts, rows: Sequence[int], most: int
) -> tuple[Cell, ...]:
    """The cells that candidates lack to have one more response than `counts` for each occurrence of a row in `rows`.

    Rows that would need more than `most` cells in all are left out. Cells count as taken, also if their calls fail.
    """
    upto, found = counts.copy(), list[Cell]()
    for row in rows:
        repeat = int(upto[row])
        lacking = [n for n in candidates if taken[n, row] == repeat]
        if len(found) + len(lacking) > most:
            break
        found += [(n, row, repeat) for n in lacking]
        taken[lacking, row] = upto[row] = repeat + 1
    return tuple(found)


def _in_turn(rows: Sequence[int], counts: Counts, number: int, repeats: int) -> list[int]:
    """`number` responses spread evenly over the rows, those with the fewest responses first."""
    free = [(repeat, place, row) for place, row in enumerate(rows) for repeat in range(int(counts[row]), repeats)]
    return [row for _, _, row in sorted(free)[:number]]


def _adaptive(rewards: Floats, counts: Counts, number: int, settings: RaceSettings, order: Sequence[int]) -> list[int]:
    if _answered(rewards) < 2:  # the responses of one system prompt alone do not show on which rows others differ
        return _in_turn(order, counts, number, settings.repeats)
    return next_rows(row_model(rewards), counts.astype(float), number, settings.repeats)


def _all(rewards: Floats, counts: Counts, number: int, settings: RaceSettings, order: Sequence[int]) -> list[int]:
    return _in_turn(order, counts, number, settings.repeats)


def _random(rewards: Floats, counts: Counts, number: int, settings: RaceSettings, order: Sequence[int]) -> list[int]:
    return _in_turn(order[: settings.k_top], counts, number, settings.repeats)


def _p1(rewards: Floats, counts: Counts, number: int, settings: RaceSettings, order: Sequence[int]) -> list[int]:
    """The p1 subset of the rewards so far; every row in turn until enough rows have repeated responses."""
    if _answered(rewards) < 2:
        return _all(rewards, counts, number, settings, order)
    g = covariance(cells(rewards, settings.estimator))
    if (~np.isnan(np.diag(g))).sum() < settings.k_top:
        return _all(rewards, counts, number, settings, order)
    return _in_turn(best_subset(g, settings.k_top).user_prompts, counts, number, settings.repeats)


_CHOOSERS: dict[RowFilter, Callable[[Floats, Counts, int, RaceSettings, Sequence[int]], list[int]]] = {
    "adaptive": _adaptive,
    "p1": _p1,
    "all": _all,
    "random": _random,
}
"""Filter -> the rows of one round, given the rewards and the fewest responses of a candidate on each row."""
