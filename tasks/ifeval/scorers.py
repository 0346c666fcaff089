"""Whether a response follows its instructions; see `agentopt.evaluation.checkers.instructions`."""

from __future__ import annotations

from agentopt.evaluation.checkers.instructions import scorers_of

share, every, every_loosely = scorers_of("ifeval")
