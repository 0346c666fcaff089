"""A row of MultiArith, in either of its two public forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopt import Example
from agentopt.taskfile.columns import number, text


def read(row: Mapping[str, Any]) -> Example:
    """`input` and `target`, or `question` and `final_ans`."""
    return Example("", {"question": text(row, "input", "question").strip()}, str(number(row, "target", "final_ans")))
