"""Adaptive sampling of a vote: when to stop before all samples are drawn, and how many to draw next. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

Vote = str | None
"""The `vote_key` of one sample's value; None for a sample that cannot be parsed, which does not vote."""

Stop = Literal["decided"] | float
"""`decided`: stop once the samples left cannot change the winner. A level: stop, too, once the posterior probability
that the leader is more likely than the runner-up has reached it.

A vote of N samples is decided after N / 2 equal ones, so levels above `leader_probability(N / 2 - 1, 0)` save little
more than `decided`: .94 for 8 samples. `vote_list` is not offered: items of one list are level until a sample names one
of them without the other, so the order of its items is rarely decided before the last sample."""

# Separate, since exported modules copy `Stop` and have no pydantic.
StopOption = Literal["decided"] | Annotated[float, Field(gt=0.5, lt=1)]
"""A `Stop` in a file. At a level of one half or less, a vote would stop before its first sample."""


def samples_to_draw(votes: Sequence[Vote], total: int, stop: Stop) -> int:
    """The fewest further samples after which the rule can stop; 0 to stop now.

    Drawn in steps of this size, a vote takes exactly the samples that it would take one by one, in fewer requests: no
    outcome of the step's first samples would have stopped it. All samples of a step may be drawn concurrently, or in
    one request with `n`. The size does not depend on the endpoint, so every program that draws the same samples stops
    after the same one.

    Args:
        votes: The votes of the samples drawn so far, in the order they were drawn.
        total: The number of samples that the candidate allows.
        stop: The rule. `decided` never changes the winner of `fusion.vote`; a higher level never draws fewer samples.
    """
    left = total - len(votes)
    leader, runner_up, tie = _standings(votes)
    # A step ends a vote soonest if all of it goes to the leader, or to a first value.
    return next((k for k in range(left) if _can_stop(leader + k, runner_up, left - k, stop, tie=tie)), left)


def steps(votes: Sequence[Vote], stop: Stop) -> tuple[int, ...]:
    """Replay the rule on samples that are at hand: the size of each step; the sum is the number of samples used.

    Args:
        votes: The votes of all samples that the candidate allows, in the order they were drawn.
        stop: The rule.
    """
    sizes: list[int] = []
    while size := samples_to_draw(votes[: sum(sizes)], len(votes), stop):
        sizes.append(size)
    return tuple(sizes)


def leader_probability(leader: int, runner_up: int) -> float:
    """The probability that the leader is more likely than the runner-up, given their numbers of votes.

    P(p > 1/2) for p ~ Beta(leader + 1, runner_up + 1), the stopping criterion of adaptive consistency (Aggarwal et al.,
    EMNLP 2023, arXiv 2305.11860). For whole numbers the regularised incomplete beta function at 1/2 is a binomial sum
    (DLMF 8.17.5), which needs no library in exported modules.
    """
    n = leader + runner_up + 1
    return sum(math.comb(n, i) for i in range(leader + 1)) / (1 << n)


def _standings(votes: Sequence[Vote]) -> tuple[int, int, bool]:
    """Votes of the leader and of the runner-up, and whether the leader wins a tie: the earliest of equals does."""
    tally = Counter(vote for vote in votes if vote is not None)
    # Both orders are stable, so the first of each is the earliest of equals, as in `fusion.vote`.
    (first, leader), (second, runner_up) = [*tally.most_common(2), ("", 0), ("", 0)][:2]
    earliest = list(tally)
    return leader, runner_up, not runner_up or earliest.index(first) < earliest.index(second)


def _can_stop(leader: int, runner_up: int, left: int, stop: Stop, *, tie: bool) -> bool:
    # The runner-up is the strongest rival: any other has fewer votes, or as many and loses ties to it.
    is_decided = leader >= runner_up + left + (0 if tie else 1)
    return is_decided or (stop != "decided" and leader_probability(leader, runner_up) >= stop)
