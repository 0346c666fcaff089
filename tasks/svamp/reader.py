"""A row of SVAMP: a body and a question about it, and a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopt import Example
from agentopt.taskfile.columns import number, text


def read(row: Mapping[str, Any]) -> Example:
    """Body and question as one text; the answer 3.0 as 3."""
    body = text(row, "Body").strip()
    question = f"{body}{'' if body.endswith(('.', '!', '?')) else '.'} {text(row, 'Question').strip()}"
    return Example(str(row.get("ID", "")), {"question": question}, f"{float(number(row, 'Answer')):.15g}")
