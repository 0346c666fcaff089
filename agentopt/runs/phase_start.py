"""Records what a run had spent when a prompt phase started, so that a resumed one measures its share from there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from agentopt.core.budget import Budget, Usage
from agentopt.core.files import own_file, write_atomically


@dataclass(frozen=True, slots=True)
class PhaseStart:
    """The spend of the run at the start of a phase.

    Attributes:
        spent: Usage of everything before the phase.
        seconds: Wall time of everything before it.
    """

    spent: Usage
    seconds: float


_starts = TypeAdapter(dict[str, PhaseStart])


def phase_start(file: Path, phase: str, budget: Budget) -> PhaseStart:
    """The start of a phase: now, unless an earlier session of the run started it.

    Args:
        file: The record of the run, which is created or extended.
        phase: Name of the phase.
        budget: The budget of the run.
    """
    starts: dict[str, PhaseStart] = {}
    if file.exists():
        with own_file(file, "remove the file: the share of the prompt phases is then counted from now on"):
            starts = _starts.validate_json(file.read_bytes())
    if phase not in starts:
        starts[phase] = PhaseStart(budget.spent, budget.seconds)
        write_atomically(file, _starts.dump_json(starts, indent=2))
    return starts[phase]
