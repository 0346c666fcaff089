"""2WikiMultihopQA rows, as published or with about 100 candidate sentences each, become examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopt.core.task import Example
from agentopt.taskfile.columns import items, text
from agentopt.taskfile.retrieval import Question, hotpot_question, retrieval_example


def read(row: Mapping[str, Any], *, max_passages: int = 8, seed: int = 0) -> Example | None:
    """The example, with `max_passages` sentences; None without an answer, or with more needed than that."""
    question = _with_candidates(row) if "ctxs_candidate" in row else hotpot_question(row)
    return retrieval_example(question, called="passages", most=max_passages, seed=seed)


def _with_candidates(row: Mapping[str, Any]) -> Question:
    """The form in which candidates were retrieved beforehand: `ctxs_candidate`, and `ctxs_gt` among them."""
    identity = str(row.get("id", ""))
    candidates, gold = items(row, "ctxs_candidate"), items(row, "ctxs_gt")
    return Question(text(row, "question"), items(row, "answers"), candidates, gold, identity)
