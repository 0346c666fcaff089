"""Why a search, or a part of a run, ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class StopKind(StrEnum):
    """The kinds of `StopReason`."""

    TRIALS_SPENT = "trials spent"
    """The cap on trials is reached."""
    NOTHING_LEFT = "nothing left"
    """The strategy had nothing more to propose."""
    CAP_REACHED = "cap reached"
    """A cap on USD, tokens, calls or seconds is reached."""
    FAILED = "failed"
    """Further calls would fail too, or too many examples failed; `StopReason.detail` is the reason."""
    UNKNOWN = "unknown"
    """Recorded by another version of agentopt; `StopReason.detail` is its sentence."""


_SENTENCES = {
    StopKind.TRIALS_SPENT: "every trial was spent",
    StopKind.NOTHING_LEFT: "the search had nothing more to try",
}


KEPT_FOR_PROMPTS = "the last one was kept for better prompts after the search, and none were found"
"""Detail of `StopKind.TRIALS_SPENT` if one trial is left."""


@dataclass(frozen=True, slots=True)
class StopReason:
    """Why a search, or a part of a run, ended. `str()` gives a sentence.

    Attributes:
        kind: The kind of reason.
        cap: The cap that was reached, such as `usd`, or `agent.usd` for a cap on one purpose; None for other kinds.
        detail: Further details, such as the spent part of the cap, or why nothing was left to try.
        enough: The least cap that the call which the cap prevented fits in; 0 if a cap was not the reason.
        finishes: The cap with which the run is expected to finish; 0 if it is not known.
    """

    kind: StopKind
    cap: str | None = None
    detail: str = ""
    enough: float = 0.0
    finishes: float = 0.0

    def __str__(self) -> str:
        return ": ".join(filter(None, (_SENTENCES.get(self.kind), self.detail)))

    @property
    def budget_cap(self) -> str | None:
        """The setting of `budget` that ended it: `trials`, or the cap on the whole run; None for other reasons."""
        return "trials" if self.kind is StopKind.TRIALS_SPENT else self.run_cap

    @property
    def run_cap(self) -> str | None:
        """The cap, if it is one on the whole run rather than on one purpose."""
        return None if self.cap is None or "." in self.cap else self.cap


def from_sentence(ended: object) -> object:
    """Read `ended` of a `result.json` of version 0.1.0, which is a sentence; anything else is returned as it is."""
    if not isinstance(ended, str):
        return ended
    known = [StopReason(kind) for kind in (StopKind.TRIALS_SPENT, StopKind.NOTHING_LEFT)]
    return next((reason for reason in known if str(reason) == ended), StopReason(StopKind.UNKNOWN, detail=ended))
