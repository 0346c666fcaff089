"""Rows that repeat each other: grouped by their inputs, and counted as one row in every mean and comparison."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

Groups = Mapping[str, str]
"""Row id -> id of the first row of its group. A row that is missing in it is a group of its own."""

MOST_DUPLICATES = 0.5
"""Share of duplicate rows above which a split is refused by default."""


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """Two rows of different splits whose text is the same but for case, spacing and punctuation."""

    split: str
    row: str
    other_split: str
    other_row: str


def groups_of(keys: Mapping[str, Collection[Hashable]]) -> dict[str, str]:
    """Row id -> id of the first row of its group, for the rows of groups of two or more.

    Rows that share a key are in one group, directly or through other rows.

    Args:
        keys: row id -> its keys, such as its inputs and the value of its group column.
    """
    above, place = {row: row for row in keys}, {row: number for number, row in enumerate(keys)}

    def root(row: str) -> str:
        while above[row] != row:
            above[row] = row = above[above[row]]
        return row

    with_key: dict[Hashable, str] = {}
    for row, of in keys.items():
        for key in of:
            ends = root(row), root(with_key.setdefault(key, row))
            above[max(ends, key=place.__getitem__)] = min(ends, key=place.__getitem__)
    sizes = Counter(root(row) for row in keys)
    return {row: root(row) for row in keys if sizes[root(row)] > 1}


def independent(rows: int, groups: Groups) -> int:
    """Number of rows that count, of a split of `rows` rows: each group counts once."""
    return rows - len(groups) + len(set(groups.values()))


def by_group(scores: Mapping[str, float], groups: Groups) -> dict[str, float]:
    """Id of a group's first row -> mean score of its rows. A row that is missing in `groups` is a separate group.

    Pass the result to `mean_interval` and `paired_difference` in place of the scores. For a comparison, restrict both
    sides to their shared rows first (`shared_by_group`).
    """
    if not groups:
        return dict(scores)
    members: dict[str, list[float]] = {}
    for row, score in scores.items():
        members.setdefault(groups.get(row, row), []).append(score)
    return {group: sum(values) / len(values) for group, values in members.items()}


def shared_by_group(
    a: Mapping[str, float], b: Mapping[str, float], groups: Groups
) -> tuple[dict[str, float], dict[str, float]]:
    """Scores by group of two candidates, over the rows that both have.

    Args:
        a: Row id -> score of the first candidate.
        b: Row id -> score of the second candidate.
        groups: Row id -> group.
    """
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


# Signs of mathematics are kept: "5 - 3" and "5 + 3" are two questions.
_PUNCTUATION = str.maketrans(dict.fromkeys("_.,;:!?'\"`\u2018\u2019\u201c\u201d\u00ab\u00bb\u2026()[]{}", " "))


def normalised(values: Mapping[str, Any]) -> str:
    """The text of all inputs in lower case, with single spaces in place of spacing and punctuation."""
    text = "\x1f".join([v if isinstance(v := values[name], str) else _to_json(v) for name in sorted(values)])
    text = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().translate(_PUNCTUATION).split())


_to_json = json.JSONEncoder(sort_keys=True, default=str, ensure_ascii=False).encode


def inputs_key(values: Mapping[str, Any]) -> str:
    """A text that is equal for equal inputs, including values that JSON has no type for, such as a date.

    `task_rules.check_written` refuses the values that have none.
    """
    return _to_json(dict(values))
