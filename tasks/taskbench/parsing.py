"""Reads tool names and calls; see `agentopt.evaluation.checkers.tool_plans`."""

from __future__ import annotations

from agentopt.evaluation.checkers.tool_plans import calls, tools

__all__ = ["calls", "tools"]
