"""Who earned what: how often the trials of each proposer raised the highest score of a run, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentopt.runs.result import TrialLine


@dataclass(frozen=True, slots=True)
class Earned:
    """The trials of one proposer, and what they added to the highest score.

    Attributes:
        proposer: Its name, such as `agent` or `surrogate`.
        trials: Number of its trials.
        raised: Number of its complete trials that raised the highest score of the complete trials before them.
        gain: Sum of these rises.
    """

    proposer: str
    trials: int
    raised: int
    gain: float


def earned(trials: Sequence[TrialLine]) -> tuple[Earned, ...]:
    """What each proposer earned, in the order of the first trials. The first score of a run is no rise.

    Args:
        trials: The history, oldest first.
    """
    counts, rises = dict[str, int](), dict[str, list[float]]()
    best: float | None = None
    for trial in trials:
        counts[trial.proposer] = counts.get(trial.proposer, 0) + 1
        if trial.state != "complete" or trial.score is None:
            continue
        if best is not None and trial.score > best:
            rises.setdefault(trial.proposer, []).append(trial.score - best)
        best = trial.score if best is None else max(best, trial.score)
    return tuple(
        Earned(name, count, len(rises.get(name, ())), sum(rises.get(name, ()))) for name, count in counts.items()
    )
