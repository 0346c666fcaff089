"""A row of an AIME collection: a problem and a whole number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopt import Example


def read(row: Mapping[str, Any]) -> Example:
    """The problem, with its answer from 0 to 999 as the target; 025 is 25."""
    problem = row["problem"] if "problem" in row else row["question"]
    return Example(str(row.get("id", "")), {"question": problem.strip()}, str(int(row["answer"])))
