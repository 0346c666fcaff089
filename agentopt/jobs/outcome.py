"""The outcome of one run of a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agentopt.jobs.champion import Champion

State = Literal["promoted", "kept", "undecided", "unchanged", "refused", "failed"]


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """The outcome of a run.

    Attributes:
        state: How it ended.
        message: The reason in one sentence.
        alarms: The alarms that the champion raised.
        champion: The champion at the end.
        snapshot: Hash of the inputs that the outcome is final for; None if a later run should try again.
        by_hand: Whether a person replaced the champion during the run.
    """

    state: State
    message: str
    alarms: tuple[str, ...] = ()
    champion: Champion | None = None
    snapshot: str | None = None
    by_hand: bool = False
