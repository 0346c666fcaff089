"""HotpotQA rows, as published or in the hub's form, become examples: sentences to choose from, and the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopt.core.task import Example
from agentopt.taskfile.retrieval import hotpot_question, retrieval_example


def read(row: Mapping[str, Any], *, max_passages: int = 8, seed: int = 0) -> Example | None:
    """The example, with `max_passages` sentences; None without an answer, or with more needed than that."""
    return retrieval_example(hotpot_question(row), called="passages", most=max_passages, seed=seed)
