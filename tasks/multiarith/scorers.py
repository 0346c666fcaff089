"""Reads and compares answers with math-verify; see `agentopt.evaluation.checkers.math`."""

from __future__ import annotations

from agentopt.evaluation.checkers.math import answer, score
from agentopt.evaluation.checkers.needs import needs

needs("math_verify")

__all__ = ["answer", "score"]
