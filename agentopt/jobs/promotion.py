"""Evidence for promotions over the life of a job: each comparison pooled over nights, all of them within one error.

A job compares many challengers with its champion. Every comparison that is opened gets a part of the error that the
whole job may make (alpha-spending), and gathers an e-value over nights, so that it may be looked at every night. At
most `ALPHA` of all jobs ever promote a challenger falsely: one that is no better, or cheaper and worse by the margin.
The rows must not be those that the search chose the challenger by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from agentopt.core.message_text import counted, three_digits
from agentopt.core.stats import Floats

ALPHA = 0.05
"""Share of jobs that ever promote falsely."""

MARGIN = 0.01
"""Score that a cheaper challenger may lose against the anchor."""

STAKES = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
"""Stakes of the e-values; their average is an e-value, too."""

Night = tuple[Mapping[str, float], Mapping[str, float]]
"""Scores within 0 and 1 of two candidates in one night: row id -> score."""

Promotion = Literal["better", "cheaper"]


@dataclass(frozen=True, slots=True)
class PromotionRules:
    """What a promotion needs."""

    alpha: float = ALPHA
    """Share of jobs that ever promote falsely."""

    margin: float = MARGIN
    """Score that a cheaper challenger may lose against the anchor, with that certainty."""

    cheaper_by: float | None = 0.1
    """Share of the champion's cost that a cheaper challenger saves at least; None promotes none for its price."""

    max_cost_ratio: float | None = 1.5
    """Most that a promoted challenger costs, relative to the job's first champion; None sets no limit."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A challenger against the champion and its anchor, over all nights in which they met on the same rows.

    The anchor is the last champion that was promoted for being better (the first champion before any). Costs are per
    example at today's prices.
    """

    number: int
    """Comparisons that the job has opened, this one included. A challenger that comes again continues its own."""
    against_champion: Sequence[Night]
    against_anchor: Sequence[Night]
    cost: float
    champion_cost: float
    first_cost: float
    """Cost of the job's first champion."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether to promote and why, and the evidence: e-values, of which `needed` is enough."""

    promotion: Promotion | None
    better: float
    better_than_anchor: float
    non_inferior: float
    needed: float
    rows: int
    mean: float
    held: str = ""
    """Why it is not promoted although the evidence is enough."""
    not_cheaper: str = ""
    """Why it cannot be promoted as cheaper, whatever the evidence."""

    @property
    def reason(self) -> str:
        """One sentence."""
        pooled, needed = f"{self.mean:+.3f} on {counted(self.rows, 'row')}", f"{three_digits(self.needed)} is needed"
        better, non_inferior = three_digits(self._better), three_digits(self.non_inferior)
        if self.promotion == "better":
            return f"better than the champion ({pooled}, evidence {better}; {needed})"
        if self.promotion == "cheaper":
            return f"cheaper and not inferior to the anchor (evidence {non_inferior}; {needed})"
        evidence = f"{pooled}, evidence {better} for better"
        if self.not_cheaper and not self.held:
            return f"not enough evidence yet ({evidence}; {needed}): {self.not_cheaper}"
        evidence = f"{evidence} and {non_inferior} for not inferior; {needed}"
        return f"held ({evidence}): {self.held}" if self.held else f"not enough evidence yet ({evidence})"

    @property
    def _better(self) -> float:
        return min(self.better, self.better_than_anchor)


def promotion(comparison: Comparison, rules: PromotionRules | None = None) -> Finding:
    """Decide on one comparison with the evidence of all its nights.

    Better: the pooled evidence against "no better than the champion" and against "no better than the anchor" is
    enough, so that anchors only ever rise. Cheaper: it saves its share, and the evidence against "worse than the anchor
    by the margin" is enough, so that a row of cheaper challengers cannot lose more than the margin in all. Neither may
    cost more than the limit.
    """
    rules = rules or PromotionRules()
    champion, anchor = pooled(comparison.against_champion), pooled(comparison.against_anchor)
    better, better_than_anchor = e_value_above(champion, 0.0), e_value_above(anchor, 0.0)
    non_inferior, needed = e_value_above(anchor, -rules.margin), 1 / spent(comparison.number, rules.alpha)
    found: Promotion | None = None
    if min(better, better_than_anchor) >= needed:
        found = "better"
    elif non_inferior >= needed and saves(comparison, rules):
        found = "cheaper"
    held = "" if found is None or within_cost(comparison, rules) else _too_dear(comparison, rules)
    mean = float(champion.mean()) if champion.size else 0.0
    evidence = (better, better_than_anchor, non_inferior, needed, champion.size)
    return Finding(None if held else found, *evidence, mean, held, _not_cheaper(comparison, rules))


def _not_cheaper(comparison: Comparison, rules: PromotionRules) -> str:
    if saves(comparison, rules):
        return ""
    must, share = "so that it must be better", rules.cheaper_by
    if share is None:
        return f"promotion.cheaper_by is null, {must}"
    if comparison.champion_cost <= 0:
        return f"it cannot be cheaper than the champion, which costs nothing, {must}"
    ratio = comparison.cost / comparison.champion_cost
    return f"it costs {ratio:.3g} times as much as the champion, and promotion.cheaper_by is {share:g}, {must}"


def _too_dear(comparison: Comparison, rules: PromotionRules) -> str:
    most = f"promotion.max_cost_ratio is {rules.max_cost_ratio:g}: raise it to promote"
    if comparison.first_cost <= 0:
        return f"it costs money, unlike the first champion, and {most}"
    return f"it costs {comparison.cost / comparison.first_cost:.3g} times as much as the first champion, and {most}"


def spent(number: int, alpha: float = ALPHA) -> float:
    """Error that the comparison with this number may make; over all numbers they add up to alpha."""
    if number < 1:
        raise ValueError(f"`number >= 1` must hold, but got {number}: count the comparisons from 1")
    return alpha / (number * (number + 1))


def spent_in_all(comparisons: int, alpha: float = ALPHA) -> float:
    """Error that this many comparisons may make together."""
    return alpha * comparisons / (comparisons + 1)


def pooled(nights: Sequence[Night]) -> Floats:
    """Differences of the rows in the order in which they were first scored by both; each row counts once.

    A row that comes again is no new evidence about rows in general.
    """
    found: dict[str, float] = {}
    for one, other in nights:
        for row in one:
            if row in other:
                found.setdefault(row, one[row] - other[row])
    return np.array(list(found.values()))


def e_value_above(differences: Floats, bound: float) -> float:
    """Evidence that the mean of the differences is above the bound, as an e-value.

    The average over stakes of prod(1 + stake (difference - bound) / (1 + bound)): every factor is at least 1 - stake
    and has a mean of at most 1 if the mean difference is at most the bound.

    Args:
        differences: within -1 and 1, in the order in which they came.
        bound: above -1.
    """
    if np.abs(differences).max(initial=0.0) > 1 + 1e-9:
        raise ValueError(f"differences must lie within -1 and 1, but got {float(np.abs(differences).max())}")
    wealth = np.log1p(STAKES[:, None] * (differences - bound)[None, :] / (1 + bound)).sum(axis=1)
    return float(np.exp(np.minimum(wealth, 700)).mean())


def within_cost(comparison: Comparison, rules: PromotionRules) -> bool:
    """Whether the challenger's cost is within the ratio of the first champion's."""
    limit = rules.max_cost_ratio
    return limit is None or comparison.cost <= limit * comparison.first_cost + 1e-12


def saves(comparison: Comparison, rules: PromotionRules) -> bool:
    """Whether the challenger costs less than the champion by the share that the rules require."""
    if rules.cheaper_by is None or comparison.champion_cost <= 0:
        return False
    return 1 - comparison.cost / comparison.champion_cost >= rules.cheaper_by - 1e-9
