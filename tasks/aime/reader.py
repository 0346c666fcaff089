"""A row of an AIME collection, a problem and a whole number, or of another contest, whose answers are expressions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentopt import Example
from agentopt.taskfile.columns import number, text


def read(row: Mapping[str, Any], *, prefix: str = "") -> Example:
    r"""The problem, with its answer from 0 to 999 as the target; 025 is 25, and 336^\circ, as one has it, is 336.

    `prefix` begins the id, so that the rows of several collections differ.
    """
    given = number(row, "answer")
    answer = given.removesuffix(r"^\circ") if isinstance(given, str) else given
    return Example(_id(row, prefix), {"question": text(row, "problem", "question").strip()}, str(int(answer)))


def read_expression(row: Mapping[str, Any], *, prefix: str = "") -> Example:
    """The problem, with its answer as the target, which may be any expression."""
    question = text(row, "problem", "question").strip()
    return Example(_id(row, prefix), {"question": question}, str(row["answer"]).strip())


def _id(row: Mapping[str, Any], prefix: str) -> str:
    name = row.get("id", row.get("problem_idx"))
    return "" if name is None else f"{prefix}{name}"
