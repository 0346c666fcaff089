"""Finds cost limits that no candidate is predicted to meet."""

from __future__ import annotations

from agentopt.core.cost import SHOWN, CostMeasure, cost_in_words
from agentopt.core.message_text import in_words
from agentopt.core.usd_text import format_usd
from agentopt.search.base import SearchSpace
from agentopt.search.neighbourhood import affordable

SETTINGS: dict[CostMeasure, str] = {
    "usd": "cost.max_usd_per_1000",
    "seconds": "cost.max_seconds",
    "units": "cost.max_units",
}
"""Measure -> the setting of its limit, in the amount that costs are shown for."""


def unmet_limits(space: SearchSpace) -> str | None:
    """The limits that no candidate meets, and the least cost in their measures; None if some candidate meets all.

    Args:
        space: The search space, with the costs that were measured so far.
    """
    if next(affordable(space), None) is not None:
        return None
    costs = {measure: cheapest(space, measure) for measure, _ in space.limits}
    above = {measure: most for measure, most in space.limits if costs[measure] > most} or dict(space.limits)
    least = [cost_in_words(costs[measure], measure) for measure in above]
    limits = [f"{SETTINGS[measure]}={format_usd(SHOWN[measure][0] * most)}" for measure, most in above.items()]
    none = f"none of the {space.size:,} candidates is" if space.size > 1 else "the only candidate is not"
    together = " together" if len(above) > 1 else ""
    return f"{none} within {in_words(limits)}{together}; the cheapest is predicted to cost {in_words(least)}"


def cheapest(space: SearchSpace, measure: CostMeasure) -> float:
    """The least cost of any candidate with the seed prompts, whatever the limits.

    Args:
        space: The search space.
        measure: The measure.
    """
    return float(space.total(measure, [min(s.cost_of(measure, c) for c in s.choices()) for s in space.subtasks]))
