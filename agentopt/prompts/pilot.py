"""The pilot: a few system prompts on a few user prompts, repeated where it could matter to the filter's choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agentopt.core.errors import AgentoptError, BudgetExceeded
from agentopt.core.stats import Floats
from agentopt.prompts.filter import FilterResult, analyse, open_cells
from agentopt.prompts.rewards import Cell, Rewards
from agentopt.prompts.settings import PromptSettings

FIRST_REPEATS = 2
"""Responses for every cell before the first look; a variance needs two."""


class PilotError(AgentoptError):
    """Too many calls of a pilot failed for good."""


@dataclass(frozen=True, slots=True, eq=False)
class Pilot:
    """What was measured and what the filter made of it.

    `proposers` says who wrote each system prompt, in the order of axis 0. `rewards` has shape (system prompts, user
    prompts, repeats), NaN for what was not drawn; positions on axis 1 are positions of `Rewards.examples`. `tokens` is
    the mean output length of each system prompt, in tokens.
    """

    proposers: Mapping[str, str]
    rewards: Floats
    tokens: tuple[float, ...]
    analysis: FilterResult

    @property
    def responses(self) -> int:
        return int((~np.isnan(self.rewards)).sum())


async def run_pilot(
    rewards: Rewards,
    proposers: Mapping[str, str],
    settings: PromptSettings,
    *,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> Pilot:
    """Measure and analyse the system prompts that are the keys of `proposers`.

    Twice each cell, then once more wherever that could change the chosen subset or its score, up to the cap.

    Raises `BudgetExceeded` before every cell has its first responses, `PilotError` when too much failed to analyse.
    """
    system_prompts, everyone = list(proposers), list(range(len(rewards.examples)))
    k_top = min(settings.k_top, len(everyone))
    try:
        table = await _measure(rewards, system_prompts, k_top, settings.repeats, seed, say)
        analysis = analyse(table, k_top=k_top, intended=(len(everyone), float(settings.repeats)), seed=seed)
    except ValueError as error:  # the filter's word for rewards that are missing
        raise PilotError(f"the pilot cannot be analysed: {error}") from error
    return Pilot(dict(proposers), table, mean_tokens(rewards, system_prompts, everyone), analysis)


async def _measure(
    rewards: Rewards, system_prompts: Sequence[str], k_top: int, cap: int, seed: int, say: Callable[[str], None]
) -> Floats:
    """Draw until every open cell has `cap` responses, or the budget is out; rewards (N, K, M).

    Raises `BudgetExceeded` where it is out before every cell has its first responses.
    """
    everyone = range(len(rewards.examples))
    drawn = np.zeros((len(system_prompts), len(everyone)), int)
    wanted, repeats = np.ones(drawn.shape, bool), FIRST_REPEATS
    while wanted.any():
        cells = [
            Cell(system_prompts[n], int(k), int(drawn[n, k]) + m)
            for n, k in np.argwhere(wanted)
            for m in range(repeats)
        ]
        say(f"pilot: {len(cells)} responses after {int(drawn.sum())}")
        try:
            await rewards.draw(cells)
        except BudgetExceeded:
            if not drawn.any():
                raise
            return rewards.table(system_prompts, everyone)  # it has fewer repeats, but nothing is missing
        drawn[wanted] += repeats
        table, repeats = rewards.table(system_prompts, everyone), 1
        # A cell in which a call failed for good stays as it is: asking again would fail again.
        whole = (~np.isnan(table)).sum(axis=2) == drawn
        wanted = whole & open_cells(table, k_top=k_top, cap=cap, seed=seed)
    return table


def mean_tokens(rewards: Rewards, system_prompts: Sequence[str], examples: Sequence[int]) -> tuple[float, ...]:
    """Mean output tokens of each system prompt on these examples; 0 where nothing was drawn."""
    lengths = [[draw.tokens for draw in rewards.of(p, examples).values() if draw.error is None] for p in system_prompts]
    return tuple(sum(each) / len(each) if each else 0.0 for each in lengths)
