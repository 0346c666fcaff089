"""When two scores are equal, and which of equal ones comes first.

A score is a mean or a posterior mean of floating-point numbers: two that are equal may differ in the last digits. Every
comparison of scores that decides something uses these functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

T = TypeVar("T")

TIE = 1e-9
"""Scores that differ by at most this are equal."""


def is_higher(score: float, other: float) -> bool:
    """Whether a score is higher than another one, which it is not if they tie."""
    return score - other > TIE


def tied(scores: Sequence[float]) -> list[float]:
    """The scores in their order, each that ties with a higher one replaced by it, so that `<` and `==` compare them.

    Args:
        scores: The scores; none is NaN.
    """
    found = list(scores)
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    for above, place in pairwise(order):
        if not is_higher(scores[above], scores[place]):
            found[place] = found[above]
    return found


def ranked(items: Iterable[T], score: Callable[[T], float], cost: Callable[[T], Any]) -> list[T]:
    """The items by descending score; of those that tie the cheapest first, then in their order.

    Args:
        items: The items.
        score: The score of an item.
        cost: The cost of an item, or any other key to order those that tie by.
    """
    given = list(items)
    levels = tied([score(item) for item in given])
    keys = [(-level, cost(item)) for level, item in zip(levels, given, strict=True)]
    return [given[place] for place in sorted(range(len(given)), key=keys.__getitem__)]


def highest(items: Iterable[T], score: Callable[[T], float], cost: Callable[[T], Any]) -> T | None:
    """The item with the highest score, of those that tie the cheapest; None without an item.

    Args:
        items: The items.
        score: The score of an item.
        cost: As for `ranked`.
    """
    return next(iter(ranked(items, score, cost)), None)
