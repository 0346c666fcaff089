"""Credit: how the trials are shared between the agent and the surrogate, by what either has earned.

Everything follows from the recorded trials, so that an interrupted run continues with the same shares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from agentopt.core.records import Trial
from agentopt.search.base import ARCHIVE, BASELINE, INITIAL, PROMPTS

SURROGATE = "surrogate"
"""Proposer of the surrogate's own turns."""
BEFORE = (BASELINE, ARCHIVE, PROMPTS, INITIAL)
"""Proposers of the trials before the turns."""
FLOOR = 0.1
"""Least share of the trials of either proposer."""
SHARPNESS = 2
"""Exponent of the rates: the higher it is, the sooner the worse proposer steps back."""
PATIENCE = 2
"""Trials of the agent without an improvement after which it has the least share."""
LEAST_GAIN = 1e-9
"""Smallest rise of the highest score that counts as earned."""


def _won(trials: Sequence[Trial]) -> list[tuple[str, bool]]:
    """Of each trial its proposer, and whether it raised the highest score."""
    best, found = -math.inf, []
    for trial in trials:
        score = trial.score if trial.state == "complete" and trial.score is not None else -math.inf
        found.append((trial.proposer, score > best + LEAST_GAIN))
        best = max(best, score)
    return found


def is_agents_turn(trials: Sequence[Trial], agent: str, failed: int = 0) -> bool:
    """Whether the agent proposes next: its trials are below its share.

    The shares are in proportion to a power of (earned + 1) / (trials + 2), the posterior mean of the rate at which a
    proposer raises the highest score, under a uniform prior; each is at least `FLOOR`. An agent whose latest trials
    did not raise it has that. The first turn is the agent's.

    Args:
        trials: All trials, oldest first.
        agent: Proposer of the agent's trials.
        failed: Turns of the agent that brought no candidate; each counts as a trial that earned nothing.
    """
    won = _won(trials)
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
