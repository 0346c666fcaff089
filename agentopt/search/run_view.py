"""What a runner can show the agent beside the trials: the money left, and why examples fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from agentopt.core.records import Trial


@dataclass(frozen=True, slots=True)
class FailedExample:
    """An example that a candidate answers badly, as text."""

    inputs: str
    """Its inputs."""
    target: str
    """The expected answer; empty if there is none."""
    score: float
    """Its score."""
    output: str
    """The output of the workflow."""
    feedback: str
    """The scorer's remark; empty if there is none."""
    subtasks: Mapping[str, str]
    """The output of each subtask; empty if it is not known."""


@runtime_checkable
class RunView(Protocol):
    """A `Runner` that knows what is left, why examples fail, and how a stopped trial is completed."""

    @property
    def usd_left(self) -> float | None:
        """USD of the cap of the run beyond the cost of the recorded trials; None without a cap.

        What else was spent is not subtracted: it may differ after a resume, and with it the agent's prompt.
        """

    async def failed_examples(self, trial: Trial, count: int) -> Sequence[FailedExample]:
        """At most `count` examples with the lowest scores under a trial, the lowest first."""

    async def complete(self, trial: Trial, note: str, *, in_search: bool) -> Trial:
        """Evaluate a trial that was stopped early on its other examples; its number stays the same.

        Args:
            trial: The trial.
            note: Why it is completed.
            in_search: Whether the search is to know all of its scores.
        """
