"""The context of the dynamic test: runs the program, and reports to the model how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopt.evaluation.checkers.programs import describe, sandbox

sandbox()  # a machine that cannot confine programs is refused when the task is loaded


async def run_program(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
    """Run the reviewed program, and describe its exit and its output."""
    return describe(await sandbox().run(outputs["static_review"]))
