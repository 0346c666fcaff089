"""Who earned what: the trials of each proposer, what they added to the highest score, and what the agent cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from agentopt.core.budget import Usage
from agentopt.core.records import TrialState
from agentopt.core.ties import is_higher
from agentopt.search.proposer_names import WITHOUT_AGENT

AGENT = "agent"
"""Purpose of the agent's calls, and its name if none of its candidates became a trial."""


@dataclass(frozen=True, slots=True)
class Earned:
    """The trials of one proposer, and what they added to the highest score.

    Attributes:
        proposer: Its name, such as `agent` or `surrogate`.
        trials: Number of its trials.
        raised: Number of its complete trials that raised the highest score of the complete trials before them.
        gain: Sum of these rises.
        best: Highest score of its complete trials; None without one.
        usage: Calls of the search agent, also those that brought no candidate. None for the other proposers, which
            call no model.
    """

    proposer: str
    trials: int = 0
    raised: int = 0
    gain: float = 0.0
    best: float | None = None
    usage: Usage | None = None


class Scored(Protocol):
    """What is read of a trial: of a `Trial`, or of a `TrialLine` of a result."""

    @property
    def proposer(self) -> str: ...

    @property
    def state(self) -> TrialState: ...

    @property
    def score(self) -> float | None: ...


def earned(trials: Sequence[Scored], spent: Mapping[str, Usage]) -> tuple[Earned, ...]:
    """What each proposer earned, in the order of the first trials. The first score of a run is no rise.

    Args:
        trials: The history, oldest first.
        spent: Usage by purpose.
    """
    rows: dict[str, Earned] = {}
    best: float | None = None
    for trial in trials:
        row = rows.get(trial.proposer, Earned(trial.proposer))
        row = replace(row, trials=row.trials + 1)
        if trial.state == "complete" and trial.score is not None:
            row = replace(row, best=max(trial.score, trial.score if row.best is None else row.best))
            if best is not None and is_higher(trial.score, best):
                row = replace(row, raised=row.raised + 1, gain=row.gain + trial.score - best)
            best = max(trial.score, trial.score if best is None else best)
        rows[trial.proposer] = row
    if AGENT in spent:
        name = next((name for name in rows if name not in WITHOUT_AGENT), AGENT)
        rows[name] = replace(rows.get(name, Earned(name)), usage=spent[AGENT])
    return tuple(rows.values())
