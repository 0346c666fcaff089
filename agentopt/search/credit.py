"""Credit: how the trials are shared between the agent and the surrogate, by what either has earned.

Everything follows from the recorded trials, so that an interrupted run continues with the same shares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from agentopt.core.records import Trial
from agentopt.core.ties import is_higher
from agentopt.search.base import Proposal, SearchSpace
from agentopt.search.insight_strategy import in_seed_prompts, measured
from agentopt.search.neighbourhood import without_limits
from agentopt.search.proposer_names import ARCHIVE, BASELINE, INITIAL, PROMPTS
from agentopt.search.surrogate import Expectation, Scores, expectations, shares_behind

BEFORE = (BASELINE, ARCHIVE, PROMPTS, INITIAL)
"""Proposers of the trials before the turns."""
FLOOR = 0.1
"""Least share of the trials of either proposer."""
SHARPNESS = 2
"""Exponent of the rates: the higher it is, the sooner the worse proposer steps back."""
PATIENCE = 2
"""Trials of the agent without an improvement after which it has the least share."""
LEAST_SHARE = 0.65
"""Share of the space of which the surrogate must expect less than of a candidate of the agent."""


def _won(trials: Sequence[Trial]) -> list[tuple[str, bool]]:
    """Of each trial its proposer, and whether it raised the highest score."""
    best, found = -math.inf, []
    for trial in trials:
        score = trial.score if trial.state == "complete" and trial.score is not None else -math.inf
        found.append((trial.proposer, is_higher(score, best)))
        best = max(best, score)
    return found


def is_agents_turn(trials: Sequence[Trial], agent: str, failed: int = 0, declined: int = 0) -> bool:
    """Whether the agent proposes next: its latest trial raised the highest score, or its trials are below its share.

    The shares are in proportion to a power of (earned + 1) / (trials + 2), the posterior mean of the rate at which a
    proposer raises the highest score, under a uniform prior; each is at least `FLOOR`. An agent whose latest trials
    did not raise it has that. The first turn is the agent's.

    Args:
        trials: All trials, oldest first.
        agent: Proposer of the agent's trials.
        failed: Turns of the agent that brought no candidate; each counts as a trial that earned nothing.
        declined: Number of trials at which the agent expected nothing better; it has no turn until one is. 0 if it
            never did.
    """
    won = _won(trials)
    if declined and not any(wins for _, wins in won[declined:]):
        return False
    if won[-1:] == [(agent, True)]:
        return True
    own = [wins for proposer, wins in won if proposer == agent]
    others = [wins for proposer, wins in won if proposer not in (agent, *BEFORE)]
    turns = len(own) + failed
    rate, other = (sum(own) + 1) / (turns + 2), (sum(others) + 1) / (len(others) + 2)
    share = min(max(rate**SHARPNESS / (rate**SHARPNESS + other**SHARPNESS), FLOOR), 1 - FLOOR)
    if turns >= PATIENCE and not any(own[-PATIENCE:]):
        share = FLOOR
    return turns == 0 or turns + 1 <= share * (turns + len(others) + 1)


def turn_size(trials: Sequence[Trial], agent: str, batch_size: int) -> int:
    """Candidates of the agent's turn: one, and one more for each of its latest trials in a row that earned.

    Args:
        trials: All trials, oldest first.
        agent: Proposer of the agent's trials.
        batch_size: Most candidates.
    """
    own = [wins for proposer, wins in _won(trials) if proposer == agent]
    latest = next((i for i, wins in enumerate(reversed(own)) if not wins), len(own))
    return min(batch_size, 1 + latest)


def scores_in(space: SearchSpace, trials: Sequence[Trial]) -> Scores:
    """What the trials of candidates with allowed choices measured; others, such as those of earlier runs, are left out.

    Args:
        space: The search space.
        trials: All trials.
    """
    fits = without_limits(space)
    return measured(space, [trial for trial in trials if fits.contains(trial.candidate)])


def expected(space: SearchSpace, trials: Sequence[Trial], count: int, seed: int) -> list[Expectation]:
    """The untried candidates of which the surrogate expects most, best first.

    Args:
        space: The search space.
        trials: All trials so far.
        count: Most candidates to return.
        seed: Samples a large space.
    """
    fits = without_limits(space)
    tried = [in_seed_prompts(space, t.candidate) for t in trials if fits.contains(t.candidate)]
    return expectations(space, scores_in(space, trials), tried, seed, count)


def promising(
    space: SearchSpace, trials: Sequence[Trial], proposals: Sequence[Proposal], seed: int
) -> tuple[list[Proposal], str]:
    """The agent's proposals that are worth a trial by the surrogate, and why another is not; empty if all are.

    One is only if its expected improvement is among the highest third of the space.

    Args:
        space: The search space.
        trials: All trials so far.
        proposals: Candidates of the agent.
        seed: Samples a large space.
    """
    shares = shares_behind(space, scores_in(space, trials), [p.candidate for p in proposals], seed)
    kept = [p for p, share in zip(proposals, shares, strict=True) if share >= LEAST_SHARE]
    least = min(zip(shares, map(str, (p.candidate for p in proposals)), strict=True), default=(1.0, ""))
    if least[0] >= LEAST_SHARE:
        return kept, ""
    return kept, f"the surrogate expects more of {1 - least[0]:.0%} of all candidates than of {least[1]}"
