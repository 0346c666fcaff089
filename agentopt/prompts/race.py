"""Best-arm identification among system prompts: repeat by repeat, and who loses to the best is dropped."""

from __future__ import annotations

from collections.abc import Sequence

from agentopt.core.stats import loses
from agentopt.prompts.pilot import mean_tokens
from agentopt.prompts.proposers import Attempt, Shown
from agentopt.prompts.rewards import Cell, Rewards

SEED = "seed"
"""The proposer of the prompt that was there before."""

DROP_LEVEL = 0.2
"""Level of the paired test that drops a proposal early. Generous: a good prompt that is dropped is a small loss, since
others will be proposed, and nothing is believed before the validation split has spoken."""

FAILURES_KEPT = 6
"""Failures of an attempt that are kept for the proposer."""


class Race:
    """The prompts that were tried on the chosen user prompts (positions of `rewards.examples`), and who wrote them."""

    def __init__(self, rewards: Rewards, examples: tuple[int, ...], proposers: dict[str, str], repeats: int) -> None:
        self.rewards, self.examples, self.proposers, self.repeats = rewards, examples, proposers, repeats

    async def run(self, system_prompts: Sequence[str]) -> None:
        """Draw up to `repeats` responses of each prompt on each user prompt. Raises `BudgetExceeded`."""
        alive = list(system_prompts)
        for repeat in range(self.repeats):
            await self.rewards.draw(Cell(p, k, repeat) for p in alive for k in self.examples)
            best = self.best
            alive = [p for p in alive if best is None or p == best.system_prompt or not self._loses(p, best)]

    @property
    def best(self) -> Attempt | None:
        """The best attempt; None while nothing has a reward."""
        return next(iter(self.attempts()), None)

    def _loses(self, system_prompt: str, best: Attempt) -> bool:
        scores, to_beat = self._scores(system_prompt), self._scores(best.system_prompt)
        return loses(scores, to_beat, level=DROP_LEVEL, looks=max(1, self.repeats - 1))

    def _scores(self, system_prompt: str) -> dict[str, float]:
        """Rewards by user prompt and repeat, so that two prompts are compared on the same ones."""
        return {
            f"{cell.example} {cell.repeat}": draw.reward
            for cell, draw in self.rewards.of(system_prompt, self.examples).items()
            if draw.reward is not None
        }

    def attempts(self) -> list[Attempt]:
        """Everything that was tried on the chosen user prompts, the best first.

        The order is by rewards drawn towards the mean of all, as if each prompt had been seen to be average once on
        every user prompt: a cap may leave a prompt with one lucky response.
        """
        tried = [a for p, proposer in self.proposers.items() if (a := self._attempt(p, proposer)) is not None]
        seen = sum(a.responses for a in tried)
        average, prior = sum(a.reward * a.responses for a in tried) / max(seen, 1), len(self.examples)
        return sorted(tried, key=lambda a: -(a.reward * a.responses + prior * average) / (a.responses + prior))

    def ranked(self, count: int) -> list[Attempt]:
        """The best `count` but the seed prompt."""
        return [attempt for attempt in self.attempts() if attempt.proposer != SEED][:count]

    def _attempt(self, system_prompt: str, proposer: str) -> Attempt | None:
        rewards = list(self._scores(system_prompt).values())
        if not rewards:
            return None
        draws = self.rewards.of(system_prompt, self.examples).values()
        failed = sorted((d for d in draws if d.reward is not None and d.reward < 1), key=lambda d: d.reward or 0.0)
        distinct = {d.user_prompt: Shown(d.user_prompt, d.output, d.feedback) for d in reversed(failed)}
        (tokens,) = mean_tokens(self.rewards, [system_prompt], self.examples)
        shown = tuple(list(distinct.values())[::-1][:FAILURES_KEPT])
        return Attempt(system_prompt, proposer, sum(rewards) / len(rewards), len(rewards), tokens, shown)
