"""Drafts the files of a new task folder from the rows of a data file."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any, Literal

from agentopt.core.errors import TaskError
from agentopt.core.message_text import counted
from agentopt.core.power import power_advice
from agentopt.core.records import Split
from agentopt.taskfile.profile import AnswerKind, Profile, Row, profile_of

TemplateName = Literal["qa", "classify-then-write", "rag", "program"]

FOR_PROMPTS = 30
"""From so many rows on, a fifth is for training: prompts are not optimised on fewer."""

_ANSWERS: dict[AnswerKind, tuple[str, str, str]] = {
    "label": ("Reply with one of: {labels}.", "{{kind: choice, options: {options}}}", "exact_match"),
    "number": ("Reply with a number only.", "number", "numeric"),
    "short": ("Reply with the answer only, in a few words.", "text", "exact_match"),
    "long": ("Answer in a few sentences.", "text", "token_f1"),
}
"""Kind of an answer -> instruction, parser and scorer."""

_JUDGE = """# The scorer counts words shared with the expected answer. For free text, a judge is often better; check it
# against people's labels with `agentopt judge check`:
# scorer: {kind: judge, model: NAME, rubric: "Is the answer as good as the expected one?"}
"""


@dataclass(frozen=True)
class Draft:
    """The files of a folder, and what to print about them."""

    files: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ModelsDraft:
    """The models of a task: their names, and how to call them.

    Attributes:
        names: Catalogue names.
        is_local: Whether they run here, so that a candidate's cost is its latency.
    """

    names: tuple[str, ...]
    is_local: bool


def sample_data() -> str:
    """The CSV of twelve invented rows that a folder without data of its own gets."""
    return _template("sample.csv")


def draft_task(
    name: str, rows: Sequence[Row], template: TemplateName, models: ModelsDraft, target: str | None, where: str
) -> Draft:
    """Draft task.yaml, the splits and, for a program, program.py.

    Args:
        name: Name of the task.
        rows: Rows of the data file; those without a target are left out.
        template: Form of the workflow.
        models: The models to choose from.
        target: The column of the expected answer; inferred unless given.
        where: The source of the rows, for messages.

    Raises:
        TaskError: The rows have no target, or there are too few with distinct inputs.
    """
    profile = profile_of(rows, target, where)
    used = [(number, row) for number, row in enumerate(rows, 1) if row.get(profile.target) is not None]
    passages = _passages(profile, rows) if template == "rag" else None
    examples = [_example(number, row, profile, passages) for number, row in used]
    splits = split_rows(examples, where)
    data = {f"data/{split}.jsonl": "".join(json_line(row) for row in part) for split, part in splits.items()}
    parts = _parts(name, profile, models, splits, passages)
    text = Template(_template(f"{template}.yaml")).substitute(parts)
    program = {"program.py": _template("program.py.txt")} if template == "program" else {}
    return Draft({"task.yaml": text, **program, **data}, tuple(_notes(profile, splits, len(rows) - len(used))))


def _template(file: str) -> str:
    return (files("agentopt.taskfile") / "templates" / file).read_text(encoding="utf-8")


def json_line(row: Any) -> str:
    """A row as a line of a JSONL file."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def _example(number: int, row: Row, profile: Profile, passages: str | None) -> dict[str, Any]:
    inputs = {name: row.get(column, "") for name, column in profile.inputs.items()}
    if passages and isinstance(inputs[passages], str):
        inputs[passages] = [line.strip() for line in inputs[passages].splitlines() if line.strip()]
    answer = row[profile.target]
    return {
        "id": str(number if profile.id is None else row[profile.id]),
        **inputs,
        "target": str(answer) if profile.kind == "label" else answer,
    }


def _passages(profile: Profile, rows: Sequence[Row]) -> str:
    """The input with the passages: the first list, otherwise the longest text."""

    def size(name: str) -> tuple[bool, int]:
        values = [row.get(profile.inputs[name], "") for row in rows]
        return any(isinstance(value, list) for value in values), sum(len(str(value)) for value in values)

    return max(profile.inputs, key=size)


def split_rows(examples: Sequence[dict[str, Any]], where: str) -> dict[Split, list[dict[str, Any]]]:
    """Shuffle the rows by a seed and cut them into splits; rows with equal inputs stay together.

    Args:
        examples: Rows with `id` and `target`; their other columns are the inputs.
        where: The source, for messages.

    Raises:
        TaskError: Fewer than two rows have different inputs.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for example in examples:
        inputs = {name: value for name, value in example.items() if name not in ("id", "target")}
        groups.setdefault(json.dumps(inputs, sort_keys=True), []).append(example)
    if len(groups) < 2:
        rule = f"a task needs at least two rows with different inputs and an answer, but the data has {len(groups)}"
        raise TaskError(rule, where=where, remedy="add rows; from about 50 on, a comparison can show something")
    shuffled = list(groups.values())
    random.Random(0).shuffle(shuffled)
    train = len(shuffled) // 5 if len(examples) >= FOR_PROMPTS else 0
    middle = train + (len(shuffled) - train) // 2
    cut: dict[Split, list[list[dict[str, Any]]]] = {
        "train": shuffled[:train],
        "validation": shuffled[train:middle],
        "test": shuffled[middle:],
    }
    return {split: [row for group in part for row in group] for split, part in cut.items() if part}


def _parts(
    name: str, profile: Profile, models: ModelsDraft, splits: Mapping[Split, Any], passages: str | None
) -> dict[str, str]:
    instruction, parse, scorer = _ANSWERS[profile.kind]
    labels = json.dumps(profile.labels, ensure_ascii=False)
    shown = {name: column for name, column in profile.inputs.items() if name != passages}
    return {
        "name": json.dumps(name),
        "description": json.dumps(f"Give the {profile.target} of each row.", ensure_ascii=False),
        "data": "\n".join(f"  {split}: data/{split}.jsonl" for split in splits),
        "instruction": json.dumps(instruction.format(labels=", ".join(profile.labels)), ensure_ascii=False),
        "inputs": "\n".join(f"      {_label(column)}: {{{{ inputs.{name} }}}}" for name, column in shown.items()),
        "passages": passages or "",
        "models": json.dumps(models.names),
        "max_tokens": "64" if models.is_local else "2000 # the thoughts of a reasoning model count",
        "parse": parse.format(options=labels),
        "scorer": (_JUDGE if profile.kind == "long" else "") + f"scorer: {scorer}",
        "cost": "cost: {measure: seconds} # what candidates cost; usd for models with a price"
        if models.is_local
        else "cost: {measure: auto} # USD, if the models have prices; max_usd_per_1000 sets a limit",
    }


def _label(column: str) -> str:
    """The column's name in a prompt, without what a template would read."""
    return " ".join(re.sub(r"[{}%#]", " ", column).split()) or "Input"


def _notes(profile: Profile, splits: Mapping[Split, Sequence[Any]], left_out: int) -> list[str]:
    kinds = {"label": f"one of {', '.join(profile.labels)}", "number": "a number", "short": "a short text"}
    answer = kinds.get(profile.kind, "a text")
    notes = [f"The target is the column {profile.target!r}, {answer}; prompts read {', '.join(profile.inputs)}."]
    if profile.unused:
        notes.append(
            f"The column {profile.unused!r} is not used: its values repeat, or some are no id. Rows are numbered."
        )
    if left_out:
        notes.append(f"{counted(left_out, 'row')} without a value in {profile.target!r} left out.")
    sizes = ", ".join(f"{len(rows)} {split}" for split, rows in splits.items())
    notes.append(f"Split by seed 0: {sizes}. In the test, {power_advice(len(splits['test']))}.")
    return notes
