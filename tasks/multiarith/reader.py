"""A row of MultiArith, in either of its two public forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopt import Example


def read(row: Mapping[str, Any]) -> Example:
    """`input` and `target`, or `question` and `final_ans`."""
    question, target = ("input", "target") if "input" in row else ("question", "final_ans")
    return Example("", {"question": row[question].strip()}, str(row[target]))
