"""Whether a response follows its instructions; see `agentopt.checkers.instructions`."""

from __future__ import annotations

from agentopt import Example, Score
from agentopt.checkers.instructions import followed, share_followed
from agentopt.checkers.needs import needs

needs("if_verifiable", "nltk")


async def share(example: Example, output: str | None) -> Score:
    """The share of the instructions that are followed."""
    return share_followed(await followed("ifeval", example, output))


async def every(example: Example, output: str | None) -> float:
    """1 where all instructions are followed."""
    return float(all(one.strict for one in await followed("ifeval", example, output)))


async def every_loosely(example: Example, output: str | None) -> float:
    """1 where all are followed when the first and last line and asterisks are forgiven."""
    return float(all(one.loose for one in await followed("ifeval", example, output)))
