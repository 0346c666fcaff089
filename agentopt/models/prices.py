"""Price keys of a catalogue entry and of a file of prices, and the rule that both obey."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from agentopt.core.yaml_models import Strict, broken_rule

Usd = Annotated[float, Field(ge=0, le=1e6)]
"""A price in USD, per 1M tokens or per request: far below what sums of it would overflow with."""


class FreeOrPriced(Strict):
    """Base of what has `price` and the keys `usd_per_...`: the model is free, or a price is above 0."""

    @model_validator(mode="after")
    def _is_free_or_priced(self) -> Self:
        given = dict(self)
        prices = {name: usd for name, usd in given.items() if name.startswith("usd_per_") and usd}
        if given.get("price") == "free" and prices:
            shown = " and ".join(f"`{name}: {usd:g}`" for name, usd in prices.items())
            raise broken_rule(
                f"with `price: free`, no price may be above 0, but got {shown}",
                f"remove `price: free`, or remove {' and '.join(f'`{name}`' for name in prices)}",
            )
        return self
