"""The dynamic test: the program is run, and how it ended is told to the model that mends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopt.evaluation.checkers.programs import sandbox, told

sandbox()  # a machine that cannot confine programs is refused when the task is read


async def run_program(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
    """How the reviewed program ended, and what it printed."""
    return told(await sandbox().run(outputs["static_review"]))
