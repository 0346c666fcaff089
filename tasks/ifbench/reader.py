"""A row of IFBench; see `agentopt.evaluation.checkers.instructions`."""

from __future__ import annotations

from agentopt.evaluation.checkers.instructions import read

__all__ = ["read"]
