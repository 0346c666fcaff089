"""Simulated runs on all cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

CHUNK = 4
"""Runs that a process takes at a time."""


def each(run: Callable[[S], T], arguments: Iterable[S]) -> list[T]:
    """Returns `run` of every argument, in their order.

    Args:
        run: A function of a module, or a `partial` of one. Its randomness comes from its argument alone.
        arguments: The seeds, or what an earlier call returned.
    """
    with ProcessPoolExecutor() as pool:
        return list(pool.map(run, arguments, chunksize=CHUNK))
