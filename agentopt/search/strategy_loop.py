"""The search that alternates between a strategy's proposals and their evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentopt.core.candidate import Candidate
from agentopt.core.errors import AgentoptError, StrategyError
from agentopt.core.records import Trial
from agentopt.core.registry import GUIDE
from agentopt.search.base import Proposal, Runner, SearchSpace, Strategy, in_order
from agentopt.search.measured_costs import with_measured_costs
from agentopt.search.proposer_names import ARCHIVE, BASELINE, PROMPTS


class LoopSearch:
    """Spends the trials on batches of proposals from one strategy.

    It resumes from the recorded trials: those that lack rows are continued, a batch that was interrupted is proposed
    again from the trials before it, and nothing else that has a trial is proposed.

    Args:
        strategy: Proposes the candidates.
        batch_size: Number of proposals per call of the strategy.
    """

    def __init__(self, strategy: Strategy, batch_size: int = 5) -> None:
        self._strategy, self._batch_size = strategy, batch_size

    async def run(self, space: SearchSpace, runner: Runner) -> None:
        """Run until no trials are left or the strategy proposes nothing; see `Search.run`.

        Raises:
            StrategyError: The strategy failed, or proposed something that cannot be tried.
        """
        searched = [t for t in runner.trials if t.proposer not in (BASELINE, ARCHIVE, PROMPTS)]
        for trial in [t for t in searched if t.state == "incomplete"]:
            if runner.trials_left > 0:
                await runner.run(Proposal(trial.candidate, trial.proposer, trial.note, trial.fallback))
        history = runner.trials[: len(runner.trials) - len(searched) % self._batch_size]
        while runner.trials_left > 0:
            # Always whole batches, also near the end, so that a run with more trials begins with the same ones.
            proposals = await self._propose(with_measured_costs(space, history), history)
            if not proposals:
                return
            for proposal in await in_order(runner, proposals):
                if runner.trials_left <= 0:
                    return
                await runner.run(proposal)
            history = runner.trials

    async def _propose(self, space: SearchSpace, history: Sequence[Trial]) -> list[Proposal]:
        name = type(self._strategy).__name__
        try:
            proposals = await self._strategy.propose(space, history, self._batch_size)
        except AgentoptError:
            raise
        except Exception as error:  # a user's strategy may raise anything
            problem = f"the strategy {name} failed: {type(error).__name__}: {error}"
            raise StrategyError(f"{problem}\n  remedy: correct it, then resume the run") from error
        _check(name, proposals, space, {trial.candidate for trial in history})
        return proposals


def _check(name: str, proposals: Any, space: SearchSpace, tried: set[Candidate]) -> None:
    """Raise `StrategyError` unless `proposals` keeps what `Strategy.propose` promises."""
    if not isinstance(proposals, list) or not all(isinstance(proposal, Proposal) for proposal in proposals):
        raise _broken(name, f"must return a list of `Proposal`s, but returned {proposals!r:.100}", f"see {GUIDE}")
    for proposal in proposals:
        if not isinstance(proposal.candidate, Candidate) or not isinstance(proposal.proposer, str):
            rule = f"must propose a `Candidate` and name its proposer, but proposed {proposal!r:.100}"
            raise _broken(name, rule, f"see {GUIDE}")
        if not space.contains(proposal.candidate):
            rule = f"must stay within the search space and its cost limit, but proposed {proposal.candidate}"
            raise _broken(name, rule, "propose some of space.candidates(), or raise the limits of `cost`")
        if proposal.candidate in tried:
            rule = f"must propose each candidate once, but proposed {proposal.candidate} again"
            raise _broken(name, rule, "leave out the candidates of the trials, and return [] if nothing is left")
        tried.add(proposal.candidate)


def _broken(name: str, rule: str, remedy: str) -> StrategyError:
    return StrategyError(f"the strategy {name} {rule}\n  remedy: {remedy}")
