"""MLCopilot, a baseline of AgentTTS (arXiv 2508.00890): a model proposes from what was found on a like task.

It is told the like task's best candidates and their scores, but sees nothing of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentopt.search.manner import Manner

SHOWN = 8
"""How many of the like task's best trials are told; a small model's context holds no more."""

Tried = tuple[Mapping[str, Mapping[str, Any]], float, float]
"""A candidate of the like task (as `Candidate.to_dict` gives it), its score, and its units."""


def mlcopilot(like: str, tried: Sequence[Tried]) -> Manner:
    """The manner with the experience of the task called `like`."""
    best = sorted(tried, key=lambda row: (-row[1], row[2]))[:SHOWN]
    lines = [f"On a like task, {like}, the best were, score first (units):", *(_line(row) for row in best)]
    return Manner("mlcopilot", experience="\n".join(lines))


def _line(row: Tried) -> str:
    candidate, score, units = row
    stages = " + ".join(f"{name} {c['model']} x{c['num_samples']}" for name, c in candidate.items())
    return f"{score:.2f} = {stages} ({units:.0f})"
