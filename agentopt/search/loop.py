"""The search that alternates between a strategy's proposals and their evaluation."""

from __future__ import annotations

from agentopt.core.records import Trial
from agentopt.search.base import ARCHIVE, BASELINE, PROMPTS, Runner, SearchSpace, Strategy


class LoopSearch:
    """Spends the trials on batches of proposals from one strategy.

    It resumes by replay: it starts again from the trials before the search. A strategy is a function of the history,
    and the runner returns the recorded trial of a known candidate, so the loop reaches the same state without
    evaluating anything twice.

    Args:
        strategy: Proposes the candidates.
        batch_size: Number of proposals per call of the strategy.
    """

    def __init__(self, strategy: Strategy, batch_size: int = 5) -> None:
        self._strategy, self._batch_size = strategy, batch_size

    async def run(self, space: SearchSpace, runner: Runner) -> None:
        """Run until no trials are left or the strategy proposes nothing; see `Search.run`."""
        history: list[Trial] = [t for t in runner.trials if t.proposer in (BASELINE, ARCHIVE, PROMPTS)]
        while runner.trials_left > 0:
            # Always whole batches, also near the end: a replay must make the same calls as before.
            proposals = await self._strategy.propose(space, history, self._batch_size)
            if not proposals:
                return
            for proposal in proposals:
                if runner.trials_left <= 0:
                    return
                history.append(await runner.run(proposal))
