"""ComplexWebQuestions rows, with annotated triples or in RoG's `graph` form, become examples with numbered triples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopt.core.task import Example
from agentopt.taskfile.retrieval import graph_question, retrieval_example


def read(
    row: Mapping[str, Any], *, max_triples: int = 12, seed: int = 0, gold: str = "crucial_triples"
) -> Example | None:
    """The example, with `max_triples` triples; None without an answer or a path to it, or with more needed."""
    return retrieval_example(graph_question(row, gold), called="triples", most=max_triples, seed=seed)
