"""Racing (successive elimination): system prompts that lose a paired test against the leader are dropped."""

from __future__ import annotations

from collections.abc import Sequence

from agentopt.core.stats import loses
from agentopt.prompts.pilot import mean_tokens
from agentopt.prompts.proposers import Attempt, Failure
from agentopt.prompts.rewards import Cell, Rewards

SEED = "seed"
"""The `proposer` of the seed prompt."""

DROP_LEVEL = 0.2
"""Level of the paired test that drops a prompt. It is high, because dropping a good prompt costs little: others will be
proposed, and only the finals on the validation split decide."""

FAILURES_KEPT = 6
"""Failures per attempt that are kept for the proposers."""


class Race:
    """Races system prompts against each other on the chosen user prompts, repeat by repeat.

    Args:
        rewards: Samples the rewards.
        examples: The chosen user prompts, as positions in `rewards.examples`.
        proposers: System prompt -> name of its proposer; extended with each round of proposals.
        repeats: Most responses of each system prompt on each user prompt.
    """

    def __init__(self, rewards: Rewards, examples: tuple[int, ...], proposers: dict[str, str], repeats: int) -> None:
        self.rewards, self.examples, self.proposers, self.repeats = rewards, examples, proposers, repeats

    async def run(self, system_prompts: Sequence[str]) -> None:
        """Sample up to `repeats` responses of each prompt on each user prompt, dropping those that lose.

        Args:
            system_prompts: The prompts of this round; each must be in `proposers`.

        Raises:
            BudgetExceeded: A cap is reached; the rewards so far are kept.
        """
        alive = list(system_prompts)
        for repeat in range(self.repeats):
            await self.rewards.sample(Cell(p, k, repeat) for p in alive for k in self.examples)
            best = self.best
            alive = [p for p in alive if best is None or p == best.system_prompt or not self._loses(p, best)]

    @property
    def best(self) -> Attempt | None:
        """The first of `attempts()`; None if there is none."""
        return next(iter(self.attempts()), None)

    def _loses(self, system_prompt: str, best: Attempt) -> bool:
        scores, to_beat = self._scores(system_prompt), self._scores(best.system_prompt)
        return loses(scores, to_beat, level=DROP_LEVEL, looks=max(1, self.repeats - 1))

    def _scores(self, system_prompt: str) -> dict[str, float]:
        """Rewards by user prompt and repeat, so that two prompts can be compared pairwise."""
        return {
            f"{cell.example} {cell.repeat}": reward.reward
            for cell, reward in self.rewards.of(system_prompt, self.examples).items()
            if reward.reward is not None
        }

    def attempts(self) -> list[Attempt]:
        """All attempts on the chosen user prompts, the best first.

        They are ordered by shrunken mean reward: each prompt gets one additional average response per user prompt,
        because a cap may leave a prompt with one lucky response.
        """
        tried = [a for p, proposer in self.proposers.items() if (a := self._attempt(p, proposer)) is not None]
        responses = sum(a.responses for a in tried)
        average, prior = sum(a.reward * a.responses for a in tried) / max(responses, 1), len(self.examples)
        return sorted(tried, key=lambda a: -(a.reward * a.responses + prior * average) / (a.responses + prior))

    def ranked(self, count: int) -> list[Attempt]:
        """The best `count` attempts, without the seed prompt."""
        return [attempt for attempt in self.attempts() if attempt.proposer != SEED][:count]

    def _attempt(self, system_prompt: str, proposer: str) -> Attempt | None:
        rewards = list(self._scores(system_prompt).values())
        if not rewards:
            return None
        known = self.rewards.of(system_prompt, self.examples).values()
        failed = sorted((r for r in known if r.reward is not None and r.reward < 1), key=lambda r: r.reward or 0.0)
        distinct = {r.user_prompt: Failure(r.user_prompt, r.output, r.feedback) for r in reversed(failed)}
        (tokens,) = mean_tokens(self.rewards, [system_prompt], self.examples)
        shown = tuple(list(distinct.values())[::-1][:FAILURES_KEPT])
        return Attempt(system_prompt, proposer, sum(rewards) / len(rewards), len(rewards), tokens, shown)
