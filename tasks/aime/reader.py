"""A row of an AIME collection: a problem and a whole number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopt import Example
from agentopt.taskfile.columns import number, text


def read(row: Mapping[str, Any]) -> Example:
    r"""The problem, with its answer from 0 to 999 as the target; 025 is 25, and 336^\circ, as one has it, is 336."""
    given = number(row, "answer")
    answer = given.removesuffix(r"^\circ") if isinstance(given, str) else given
    return Example(str(row.get("id", "")), {"question": text(row, "problem", "question").strip()}, str(int(answer)))
