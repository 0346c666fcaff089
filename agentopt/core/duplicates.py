"""Rows that repeat each other: grouped by their inputs, and counted as one row in every mean and comparison."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

Groups = Mapping[str, Hashable]
"""Row id -> its group; rows of equal inputs share one."""

MOST_DUPLICATES = 0.5
"""Share of duplicate rows above which a split is refused by default."""


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """Two rows of different splits whose text is the same but for case, spacing and punctuation."""

    split: str
    row: str
    other_split: str
    other_row: str


def grouped(inputs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Row id -> the first row id with the same inputs.

    Args:
        inputs: row id -> the row's inputs, of JSON types; other values are compared by their `str`.
    """
    first: dict[str, str] = {}
    return {row: first.setdefault(_key(values), row) for row, values in inputs.items()}


def duplicate_share(groups: Groups) -> float:
    """Share of rows that repeat an earlier one; 0 for no rows."""
    return 1 - len(set(groups.values())) / len(groups) if groups else 0.0


def by_group(scores: Mapping[str, float], groups: Groups) -> dict[str, float]:
    """Group -> mean score of its rows. A row that is missing in `groups` forms a separate group.

    Pass the result to `mean_interval` and `paired_difference` in place of the scores. For a comparison, restrict both
    sides to their shared rows first (`shared_by_group`).
    """
    members: dict[str, list[float]] = {}
    for row, score in scores.items():
        members.setdefault(str(groups.get(row, row)), []).append(score)
    return {group: sum(values) / len(values) for group, values in members.items()}


def shared_by_group(
    a: Mapping[str, float], b: Mapping[str, float], groups: Groups
) -> tuple[dict[str, float], dict[str, float]]:
    """Scores by group of two candidates, over the rows that both have."""
    shared = a.keys() & b.keys()
    return tuple(by_group({row: of[row] for row in shared}, groups) for of in (a, b))  # type: ignore[return-value]


def near_duplicates(splits: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[NearDuplicate]:
    """Pairs of rows across splits with the same normalised text, each later row with the first of an earlier split.

    Args:
        splits: split -> row id -> the row's inputs.
    """
    seen: dict[str, tuple[str, str]] = {}
    found = []
    for split, rows in splits.items():
        for row, values in rows.items():
            other, other_row = seen.setdefault(normalised(values), (split, row))
            if other != split:
                found.append(NearDuplicate(split, row, other, other_row))
    return found


def normalised(values: Mapping[str, Any]) -> str:
    """Letters and digits of all inputs in lower case, with single spaces between words."""
    text = unicodedata.normalize("NFKC", _key(values)).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in text).split())


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str, ensure_ascii=False)
