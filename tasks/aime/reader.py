"""A row of an AIME collection: a problem and a whole number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopt import Example


def read(row: Mapping[str, Any]) -> Example:
    r"""The problem, with its answer from 0 to 999 as the target; 025 is 25, and 336^\circ, as one has it, is 336."""
    problem = row["problem"] if "problem" in row else row["question"]
    answer = row["answer"].removesuffix(r"^\circ") if isinstance(row["answer"], str) else row["answer"]
    return Example(str(row.get("id", "")), {"question": problem.strip()}, str(int(answer)))
