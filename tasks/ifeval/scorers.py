"""Whether a response follows its instructions; see `agentopt.checkers.instructions`."""

from __future__ import annotations

from agentopt.checkers.instructions import scorers_of

share, every, every_loosely = scorers_of("ifeval")
