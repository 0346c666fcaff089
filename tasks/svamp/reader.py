"""A row of SVAMP: a body and a question about it, and a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopt import Example


def read(row: Mapping[str, Any]) -> Example:
    """Body and question as one text; the answer 3.0 as 3."""
    body = row["Body"].strip()
    question = f"{body}{'' if body.endswith(('.', '!', '?')) else '.'} {row['Question'].strip()}"
    number = float(row["Answer"])
    return Example(str(row.get("ID", "")), {"question": question}, f"{number:.15g}")
