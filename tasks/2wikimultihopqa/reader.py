"""2WikiMultihopQA rows, as published or with about 100 candidate sentences each, become examples."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from agentopt.core.task import Example
from agentopt.taskfile.columns import items, text
from agentopt.taskfile.retrieval import Question, hotpot_question, retrieval_example


def read(
    row: Mapping[str, Any], *, max_passages: int = 8, seed: int = 0, aliases_file: Path | None = None
) -> Example | None:
    """The example, with `max_passages` sentences; None without an answer, or with more needed than that.

    `aliases_file` is the dataset's id_aliases.json: any alias of a row's `answer_id` is right too.
    """
    question = _with_candidates(row) if "ctxs_candidate" in row else hotpot_question(row)
    if aliases_file is not None and row.get("answer_id"):
        question = replace(question, answers=[*question.answers, *aliases_of(aliases_file).get(row["answer_id"], ())])
    return retrieval_example(question, called="passages", most=max_passages, seed=seed)


@cache
def aliases_of(file: Path) -> dict[str, list[str]]:
    """Id of an entity -> its aliases and demonyms, from the lines of id_aliases.json."""
    with file.open(encoding="utf-8") as lines:
        entries = [json.loads(line) for line in lines if line.strip()]
    return {entry["Q_id"]: [*entry.get("aliases", ()), *entry.get("demonyms", ())] for entry in entries}


def _with_candidates(row: Mapping[str, Any]) -> Question:
    """The form in which candidates were retrieved beforehand: `ctxs_candidate`, and `ctxs_gt` among them."""
    identity = str(row.get("id", ""))
    candidates, gold = items(row, "ctxs_candidate"), items(row, "ctxs_gt")
    return Question(text(row, "question"), items(row, "answers"), candidates, gold, identity)
