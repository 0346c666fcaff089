"""A row of GSM8K: a question, and a worked answer that ends in `#### 40`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopt import Example
from agentopt.taskfile.columns import ColumnError, text


def read(row: Mapping[str, Any]) -> Example:
    """The question, with the number behind #### as the target."""
    _, mark, target = text(row, "answer").rpartition("####")
    if not mark:
        raise ColumnError("the column 'answer' must have #### before its number")
    return Example(str(row.get("idx", "")), {"question": text(row, "question")}, target.strip())
