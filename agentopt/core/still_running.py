"""The event that reports once a minute that a run is alive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agentopt.core.budget import Usage
from agentopt.core.message_text import counted
from agentopt.core.observers import Event
from agentopt.core.usd_text import format_usd


@dataclass(frozen=True, slots=True)
class StillRunning(Event):
    """A run has not ended yet; once a minute, also while a call or a model's start takes longer.

    Attributes:
        activity: The last event that was logged, in one line: what the run does or waits for.
        spent: Usage of the run so far.
        seconds: Wall time of the run so far.
        seconds_left: Wall time left under its cap; None without one.
    """

    kind: ClassVar[str] = "still_running"

    activity: str
    spent: Usage
    seconds: float
    seconds_left: float | None = None

    @property
    def message(self) -> str:
        spent = f"{counted(self.spent.calls, 'call')}, {self.spent.tokens:,} tokens, {format_usd(self.spent.usd)} USD"
        left = "" if self.seconds_left is None else f", at most {self.seconds_left:.0f} s left"
        return f"{self.activity} | {spent}, {self.seconds:.0f} s{left}"
