"""RoG's measures of answers over a graph; see `agentopt.evaluation.checkers.graph_answers`."""

from __future__ import annotations

from agentopt.evaluation.checkers.graph_answers import accuracy, f1

__all__ = ["accuracy", "f1"]
