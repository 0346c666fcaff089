"""Which models a candidate calls."""

from __future__ import annotations

from agentopt.core.axes import escalating
from agentopt.core.candidate import Candidate
from agentopt.core.task import Task


def called_models(task: Task, candidate: Candidate) -> tuple[str, ...]:
    """Return the names of the models that a candidate calls, including those of fusions and cascades, each once.

    Args:
        task: The task.
        candidate: The candidate.
    """
    fusions = (task[name].fusion.model for name, choice in candidate.items() if choice.num_samples > 1)
    cascades = (escalating(task[name], choice) for name, choice in candidate.items())
    return tuple(dict.fromkeys([c.model for c in candidate.values()] + [m for m in (*fusions, *cascades) if m]))
