"""A row of IFBench; see `agentopt.checkers.instructions`."""

from __future__ import annotations

from agentopt.checkers.instructions import read

__all__ = ["read"]
