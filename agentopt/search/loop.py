"""The plain loop: ask a strategy, run what it proposes, again."""

from __future__ import annotations

from agentopt.core.records import Trial
from agentopt.search.base import ARCHIVE, BASELINE, PROMPTS, Runner, SearchSpace, Strategy


class LoopSearch:
    """Spends the trials in batches of `batch_size` proposals of one strategy.

    Resume is replay: the loop starts again from what the run was given, and since a strategy is a function of history
    and the runner returns the recorded trial of a known candidate, it arrives where it was without running anything
    twice.
    """

    def __init__(self, strategy: Strategy, batch_size: int = 5) -> None:
        self._strategy, self._batch_size = strategy, batch_size

    async def run(self, space: SearchSpace, runner: Runner) -> None:
        """Until no trials are left or the strategy has nothing left to try. Raises what the runner raises."""
        history: list[Trial] = [t for t in runner.trials if t.proposer in (BASELINE, ARCHIVE, PROMPTS)]
        while runner.trials_left > 0:
            # Always whole batches, also near the end: a replay must ask what was asked before.
            proposals = await self._strategy.propose(space, history, self._batch_size)
            if not proposals:
                return
            for proposal in proposals:
                if runner.trials_left <= 0:
                    return
                history.append(await runner.run(proposal))
