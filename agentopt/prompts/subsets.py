"""Finds the k user prompts with the highest score: by enumeration, or by greedy selection with swaps.

With G the noise-corrected covariance between user prompts, score(S) = sum of G over S x S, divided by |S|^2. Functions
take a stack of matrices (B, K, K), so that all permutations of a null are searched in one call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations
from math import comb
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.integer[Any]]
SubsetSearch = Literal["exact", "greedy with swaps"]

EXACT_LIMIT = 3_000_000
"""Most subsets that are enumerated for one matrix."""

EXACT_WORK = 60_000_000
"""Most subsets that are enumerated for a stack of matrices; takes a few seconds."""

_CHUNK = 4_000_000
"""Numbers per chunk: 32 MB."""


@dataclass(frozen=True, slots=True)
class Subset:
    """Chosen user prompts (ascending positions), their score, and how they were found."""

    user_prompts: tuple[int, ...]
    score: float
    search: SubsetSearch


def best_subset(covariance: Floats, k: int, *, search: SubsetSearch | None = None) -> Subset:
    """Find the k user prompts with the highest score.

    Args:
        covariance: G, shape (K, K); user prompts with NaN on the diagonal are left out.
        k: Number of user prompts to choose.
        search: How to search; by default exactly if there are at most 3 million subsets. Among equal subsets, the
            enumeration returns the first in lexicographic order.

    Raises:
        ValueError: Fewer than k user prompts can be chosen.
    """
    usable = np.flatnonzero(~np.isnan(np.diag(covariance)))
    _check_size(k, usable.size)
    search = search or search_for(usable.size, k)
    scores, members = best_subsets(covariance[np.ix_(usable, usable)][None], k, search)
    return Subset(tuple(int(usable[i]) for i in np.sort(members[0])), float(scores[0]), search)


def best_subsets(
    covariances: Floats, k: int, search: SubsetSearch, *, starts: int | None = None
) -> tuple[Floats, Ints]:
    """Find the best subset for each matrix of a stack.

    Args:
        covariances: Matrices without NaN, shape (B, K, K).
        k: Size of the subsets.
        search: How to search.
        starts: Number of greedy climbs per matrix; None for one from every user prompt.

    Returns:
        Scores (B,) and members (B, k).
    """
    user_prompts = covariances.shape[-1]
    starts = min(starts or user_prompts, user_prompts)
    find = _enumerate if search == "exact" else _climb_from_several(starts)
    size = comb(user_prompts, k) if search == "exact" else starts * k * user_prompts
    step = max(1, _CHUNK // size)
    parts = [find(covariances[at : at + step], k) for at in range(0, len(covariances), step)]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def search_for(user_prompts: int, k: int, matrices: int = 1) -> SubsetSearch:
    """The most exact search that is fast enough.

    Args:
        user_prompts: Number of user prompts to choose from.
        k: Size of the subsets.
        matrices: Number of matrices to search.
    """
    subsets = comb(user_prompts, k)
    return "exact" if subsets <= EXACT_LIMIT and subsets * matrices <= EXACT_WORK else "greedy with swaps"


def score(covariance: Floats, user_prompts: tuple[int, ...] | Ints) -> float:
    """The score of one subset.

    Args:
        covariance: G, shape (K, K).
        user_prompts: Positions of the subset's members.
    """
    chosen = np.asarray(user_prompts)
    return float(covariance[np.ix_(chosen, chosen)].mean())


def _check_size(k: int, usable: int) -> None:
    if not 1 <= k <= usable:
        raise ValueError(
            f"`1 <= k_top <= usable user prompts` must hold, but got k_top {k} and {usable} usable: "
            "lower k_top, or add user prompts or responses"
        )


@lru_cache(maxsize=1)  # up to some 100 MB
def _combinations(n: int, k: int) -> Ints:
    """All k-subsets of range(n) as rows, in lexicographic order."""
    flat = np.fromiter(chain.from_iterable(combinations(range(n), k)), np.int32, comb(n, k) * k)
    return flat.reshape(-1, k)


def _enumerate(covariances: Floats, k: int) -> tuple[Floats, Ints]:
    size = covariances.shape[-1]
    subsets = _combinations(size, k)
    flat = covariances.reshape(len(covariances), -1)
    total = np.zeros((len(covariances), len(subsets)))
    for i, j in combinations(range(k), 2):
        total += flat.take(subsets[:, i] * size + subsets[:, j], axis=1)
    total *= 2
    for i in range(k):
        total += flat.take(subsets[:, i] * (size + 1), axis=1)
    best = total.argmax(axis=1)
    return total[np.arange(len(total)), best] / k**2, subsets[best]


def _climb_from_several(starts: int) -> Callable[[Floats, int], tuple[Floats, Ints]]:
    """A search that climbs from each of the user prompts with the highest variances, and returns the best result."""

    def find(covariances: Floats, k: int) -> tuple[Floats, Ints]:
        diagonals = np.diagonal(covariances, axis1=1, axis2=2)
        first = np.argsort(-diagonals, axis=1, kind="stable")[:, :starts]
        batch = np.repeat(np.arange(len(covariances)), first.shape[1])
        totals, members = _climb(covariances, batch, first.ravel(), k)
        totals = totals.reshape(first.shape)
        best = totals.argmax(axis=1)
        rows = np.arange(len(covariances))
        return totals[rows, best] / k**2, members.reshape(*first.shape, k)[rows, best]

    return find


def _climb(covariances: Floats, batch: Ints, first: Ints, k: int) -> tuple[Floats, Ints]:
    """Sums over S x S and members (R, k) of R climbs, each in matrix `batch[r]` from user prompt `first[r]`.

    Adds the best user prompt until there are k, then makes the best single swap until none improves the sum.
    """
    rows, size = np.arange(len(batch)), covariances.shape[-1]
    diagonal = np.diagonal(covariances, axis1=1, axis2=2)[batch]
    members = np.empty((len(batch), k), np.intp)
    inside = np.zeros((len(batch), size), bool)
    reach = np.zeros((len(batch), size))  # sum of each user prompt's covariances with the members
    for i in range(k):
        chosen = first if i == 0 else np.where(inside, -np.inf, diagonal + 2 * reach).argmax(axis=1)
        members[:, i] = chosen
        inside[rows, chosen] = True
        reach += covariances[batch, chosen]
    tolerance = 1e-12 * (np.abs(covariances).max(initial=0.0) + 1e-300)
    while True:
        entering = np.where(inside, -np.inf, diagonal + 2 * reach)
        leaving = np.take_along_axis(diagonal - 2 * reach, members, axis=1)
        gain = leaving[:, :, None] + entering[:, None, :] - 2 * covariances[batch[:, None], members]
        best = gain.reshape(len(batch), -1).argmax(axis=1)
        better = np.flatnonzero(gain.reshape(len(batch), -1)[rows, best] > tolerance)
        if not better.size:
            return np.take_along_axis(reach, members, axis=1).sum(axis=1), members
        place, new = np.divmod(best[better], size)
        old = members[better, place]
        members[better, place] = new
        inside[better, old], inside[better, new] = False, True
        reach[better] += covariances[batch[better], new] - covariances[batch[better], old]
