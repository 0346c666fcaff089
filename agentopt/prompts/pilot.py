"""The pilot of `diagnose`: measures a few system prompts on a few user prompts, for the filter to analyse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agentopt.core.errors import AgentoptError, BudgetExceeded
from agentopt.core.message_text import counted
from agentopt.core.stats import Floats
from agentopt.prompts.filter import FilterResult, analyse, open_cells
from agentopt.prompts.rewards import Cell, Rewards
from agentopt.prompts.settings import PromptSettings

FIRST_REPEATS = 2
"""Responses for every cell in the first pass; a variance needs two."""


class PilotError(AgentoptError):
    """Too many pilot calls failed permanently."""


@dataclass(frozen=True, slots=True, eq=False)
class Pilot:
    """The rewards of a pilot, and the filter's analysis."""

    proposers: Mapping[str, str]
    """System prompt -> name of its proposer, in the order of axis 0 of `rewards`."""
    rewards: Floats
    """Rewards of shape (system prompts, user prompts, repeats), NaN if not sampled. Axis 1 is `Rewards.examples`."""
    tokens: tuple[float, ...]
    """Mean output length of each system prompt, in tokens."""
    analysis: FilterResult
    """The result of the filter."""

    @property
    def responses(self) -> int:
        """Number of responses with a reward."""
        return int((~np.isnan(self.rewards)).sum())


async def run_pilot(
    rewards: Rewards,
    proposers: Mapping[str, str],
    settings: PromptSettings,
    *,
    seed: int = 0,
    on_note: Callable[[str], None] = lambda _: None,
) -> Pilot:
    """Measure and analyse system prompts.

    Every cell gets two responses, and then further ones if they could change the chosen subset or its score.

    Args:
        rewards: Samples the rewards.
        proposers: System prompt -> name of its proposer.
        settings: `k_top`, `estimator` and `repeats`, the most responses per cell.
        seed: Seed of the analysis.
        on_note: Called with a line of progress before each pass.

    Raises:
        BudgetExceeded: A cap is reached before every cell has its first responses.
        PilotError: Too many calls failed for an analysis.
    """
    system_prompts, everyone = list(proposers), list(range(len(rewards.examples)))
    k_top = min(settings.k_top, len(everyone))
    try:
        table = await _measure(rewards, system_prompts, k_top, settings.repeats, seed, on_note)
        intended = (len(everyone), float(settings.repeats))
        analysis = analyse(table, k_top=k_top, intended=intended, estimator=settings.estimator, seed=seed)
    except ValueError as error:  # the filter raises it for missing rewards
        raise PilotError(f"the pilot cannot be analysed: {error}") from error
    tokens = tuple(rewards.mean_tokens(prompt, everyone) for prompt in system_prompts)
    return Pilot(dict(proposers), table, tokens, analysis)


async def _measure(
    rewards: Rewards, system_prompts: Sequence[str], k_top: int, cap: int, seed: int, on_note: Callable[[str], None]
) -> Floats:
    """Sample until every open cell has `cap` responses, or a cap of the budget is reached.

    Returns rewards (N, K, M). Raises `BudgetExceeded` if the cap is reached before every cell has its first responses.
    """
    everyone = range(len(rewards.examples))
    taken = np.zeros((len(system_prompts), len(everyone)), int)
    wanted, repeats = np.ones(taken.shape, bool), FIRST_REPEATS
    while wanted.any():
        cells = [
            Cell(system_prompts[n], int(k), int(taken[n, k]) + m)
            for n, k in np.argwhere(wanted)
            for m in range(repeats)
        ]
        on_note(f"pilot: {counted(len(cells), 'more response')} after {int(taken.sum())}")
        try:
            await rewards.sample(cells)
        except BudgetExceeded:
            if not taken.any():
                raise
            return rewards.table(system_prompts, everyone)  # with fewer repeats, but no missing cell
        taken[wanted] += repeats
        table, repeats = rewards.table(system_prompts, everyone), 1
        # A cell with a permanently failed call is left as it is: the same call would fail again.
        whole = (~np.isnan(table)).sum(axis=2) == taken
        wanted = whole & open_cells(table, k_top=k_top, cap=cap, seed=seed)
    return table
