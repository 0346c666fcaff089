"""Reads and compares answers with math-verify; see `agentopt.checkers.math`."""

from __future__ import annotations

from agentopt.checkers.math import answer, score
from agentopt.checkers.needs import needs

needs("math_verify")

__all__ = ["answer", "score"]
