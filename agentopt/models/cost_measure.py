"""Which measure candidates cost in, by what the catalogue has on their models."""

from __future__ import annotations

from collections.abc import Collection

from agentopt.core.cost import CostMeasure
from agentopt.models.catalog import ModelSpec


def measure_of(wanted: CostMeasure | None, specs: Collection[ModelSpec]) -> CostMeasure:
    """The measure of a task's costs.

    Args:
        wanted: The task's `cost_measure`. None: USD if a model has a price and no other's is unknown, units if all
            models have a parameter count and none a price, else seconds.
        specs: The entries of the task's models.
    """
    if wanted is not None:
        return wanted
    if all(spec.is_priced for spec in specs) and any(costs_usd(spec) for spec in specs):
        return "usd"
    is_free = not any(costs_usd(spec) for spec in specs)
    return "units" if is_free and all(spec.parameters is not None for spec in specs) else "seconds"


def costs_usd(spec: ModelSpec) -> bool:
    """Whether the catalogue has a price above 0 for the model."""
    return spec.prices.worst_usd(1, 1) > 0
