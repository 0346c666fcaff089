"""One race over the seed prompt and every batch of proposals: sequential halving on rows that all share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from agentopt.core.message_text import counted
from agentopt.core.stats import Floats
from agentopt.prompts.halving import RaceSettings, halving, standing
from agentopt.prompts.prompt_proposers import NewPrompt
from agentopt.prompts.rewards import Cell
from agentopt.prompts.settings import PromptSettings

SEED = "seed"
"""The `proposer` of the seed prompt."""


class CellRewards(Protocol):
    """Draws rewards of cells and keeps them; see `Rewards`."""

    async def sample(self, cells: Iterable[Cell]) -> None:
        """Draw the cells that are not known yet."""

    def table(self, system_prompts: Sequence[str], examples: Sequence[int]) -> Floats:
        """The rewards, shape (system prompts, examples, repeats), NaN if unknown."""


LEAST_EACH = 12
"""Fewest responses per system prompt, on average, for which a race is worth its calls."""


@dataclass(frozen=True, slots=True)
class RacePlan:
    """How many proposals enter a race, and how many responses it draws."""

    batches: int
    """Batches of proposals; each is written from the results so far."""
    batch_size: int
    """Proposals in a batch."""
    responses: int
    """Responses in all, those of the seed prompt that the first batch is written from included."""

    @classmethod
    def of(cls, settings: PromptSettings) -> RacePlan:
        """As many proposals and responses as the settings allow."""
        prompts = 1 + settings.rounds * settings.batch_size
        return cls(settings.rounds, settings.batch_size, settings.responses * prompts)

    @classmethod
    def within(cls, settings: PromptSettings, responses: float) -> RacePlan | None:
        """The plan with at most that many responses; None if they are too few for a race of two prompts.

        A lack of responses reduces the proposals, so that each has `LEAST_EACH` or more.
        """
        whole = cls.of(settings)
        proposals = int(min(responses, whole.responses) // min(LEAST_EACH, settings.responses)) - 1
        if proposals < 1:
            return None
        size = min(settings.batch_size, proposals)
        batches = min(settings.rounds, proposals // size)
        most = settings.responses * (1 + batches * size)
        return cls(batches, size, int(min(responses, most)))

    @property
    def each(self) -> int:
        """Responses per system prompt on average."""
        return self.responses // (1 + self.batches * self.batch_size)

    def upto(self, batch: int) -> int:
        """Responses that may be drawn by the end of a batch, counted from 0."""
        return self.responses * (1 + (batch + 1) * self.batch_size) // (1 + self.batches * self.batch_size)


class Race:
    """Races system prompts on the rows of `rewards`.

    Args:
        rewards: Draws the rewards.
        rows: Number of rows (training examples).
        seed_prompt: The prompt to beat, the first entrant.
        settings: How rows are chosen.
        seed: Orders rows.

    Attributes:
        entrants: Every prompt so far, the seed prompt first.
        alive: Positions of the entrants that are left.
    """

    def __init__(
        self, rewards: CellRewards, rows: int, seed_prompt: str, settings: RaceSettings, *, seed: int = 0
    ) -> None:
        self.rewards, self.rows, self.settings, self.seed = rewards, rows, settings, seed
        self.entrants = [NewPrompt(seed_prompt, SEED)]
        self.alive: tuple[int, ...] = (0,)

    async def run(self, plan: RacePlan, propose: Callable[[int], Awaitable[Sequence[NewPrompt]]]) -> int:
        """Race one batch after the other; those that a batch leaves race against the next one. Call `look` before.

        Args:
            plan: The numbers of proposals and responses.
            propose: Returns at most that many new prompts, given the race so far; none ends the race.

        Returns:
            The number of batches that were raced.

        Raises:
            BudgetExceeded: A cap is reached; the rewards so far are kept.
        """
        for batch in range(plan.batches):
            new = await propose(plan.batch_size)
            if not new:
                return batch
            self.enter(new)
            await self.halve(max(0, plan.upto(batch) - self.responses))
        return plan.batches

    async def look(self, responses: int) -> None:
        """Draw one response of the seed prompt on each row, at most that many in all, for the first batch's writer."""
        order: list[int] = np.random.default_rng(self.seed).permutation(self.rows).tolist()
        await self.rewards.sample(Cell(self.entrants[0].system_prompt, row, 0) for row in order[:responses])

    def enter(self, new: Sequence[NewPrompt]) -> None:
        """Add proposals to the race."""
        self.alive += tuple(range(len(self.entrants), len(self.entrants) + len(new)))
        self.entrants += new

    async def halve(self, responses: int) -> None:
        """Halve the prompts that are left until two remain, with at most that many new responses."""
        plan = halving(self.table(), self.alive, responses, self.settings, seed=self.seed)
        try:
            step = next(plan)
            while True:
                self.alive = step.candidates
                await self.rewards.sample(Cell(self.entrants[n].system_prompt, k, m) for n, k, m in step.cells)
                step = plan.send(self.table())
        except StopIteration as end:
            self.alive = end.value.candidates

    @property
    def leader(self) -> int:
        """Position of the best entrant that is left; the seed prompt if none has a reward."""
        first = standing(self.table(), self.alive, self.settings)
        return first.candidates[0] if np.isfinite(first.scores[0]) else 0

    @property
    def responses(self) -> int:
        """Number of responses with a reward."""
        return int((~np.isnan(self.table())).sum())

    def table(self) -> Floats:
        """The rewards so far, shape (entrants, rows, repeats), NaN if unknown."""
        return self.rewards.table([entrant.system_prompt for entrant in self.entrants], range(self.rows))


def counted_by_proposer(proposers: Iterable[str]) -> str:
    """The number of prompts beside the seed prompt, by origin, such as `4 variants (4 from the authored bank)`."""
    by = Counter(proposer for proposer in proposers if proposer != SEED)
    origins = {"components": "from the authored bank"}
    parts = ", ".join(f"{count} {origins.get(name, f'by {name}')}" for name, count in by.items())
    return f"{counted(by.total(), 'variant')} ({parts})" if by else "no variant"
