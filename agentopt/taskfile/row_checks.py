"""Checks of all rows of a task, in memory or in a file: leaks between splits, duplicates, and columns."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from agentopt.core.duplicates import inputs_key
from agentopt.core.errors import TaskError
from agentopt.core.records import Split
from agentopt.core.stored_rows import Hashes, hash_of, repeating, shared
from agentopt.core.task import Example
from agentopt.core.yaml_models import shown
from agentopt.taskfile.data import Row
from agentopt.taskfile.stored_files import FileRows

Rows = Mapping[Split, Sequence[Row]]

PART = 5_000
"""Rows of a file that are checked together."""


def column_names(rows: Sequence[Row]) -> tuple[set[str], set[str]]:
    """Return the input columns of all rows, those with empty cells included, and those that every row has.

    Args:
        rows: The rows. Of those of a file, the columns are those of the whole file.
    """
    if isinstance(rows, FileRows):
        return rows.index_of_file.known, rows.index_of_file.everywhere
    known = {name for row in rows for name in (*row.example.inputs, *row.empty)}
    return known, {name for name in known if all(name in row.example.inputs for row in rows)}


def check_in_parts(rows: Rows, check: Callable[[Rows], None], how: object) -> None:
    """Check rows; those of files in parts, and not again if the same rows have passed before.

    Args:
        rows: The rows of each split.
        check: Raises `TaskError` for a row that does not pass.
        how: All that the check depends on, beside the rows, as JSON has it; None if that is not known.

    Raises:
        TaskError: By `check`.
    """
    if listed := {split: of for split, of in rows.items() if not isinstance(of, FileRows)}:
        check(listed)
    for split, of in rows.items():
        if isinstance(of, FileRows) and not of.has_passed(how):
            every = iter(of)
            while part := list(islice(every, PART)):
                check({split: part})
            of.keep_passed(how)


def check_leaks(splits: Mapping[Split, Sequence[Row]]) -> None:
    """Check that no example is in two splits.

    Args:
        splits: The rows of each split.

    Raises:
        TaskError: Two splits share an id, equal inputs or a group.
    """
    places: dict[tuple[str, str], tuple[Split, str]] = {}
    for split, rows in shared(splits, _marks).items():
        for row in rows:
            ids = () if row.numbered else (("id", row.example.id),)
            for mark in (*ids, *row.example.same_as):
                other, place = places.setdefault(mark, (split, row.where))
                if other != split:
                    what = "inputs are" if mark[0] == "inputs" else f"{mark[0]} {shown(mark[1])} is"
                    rule = f"an example must be in one split only, but its {what} also in {other}, at {place}"
                    raise TaskError(rule, where=row.where, remedy="remove it from one of the two splits")


def _marks(rows: Sequence[Row]) -> list[Hashes[int]]:
    """By which rows are in several splits: the hashes of their ids, unless these are numbers, inputs and groups."""
    if isinstance(rows, FileRows):
        given = (0 if is_number else of for of, is_number in zip(rows.hashes["id"], rows.numbered, strict=True))
        return [array("Q", given), rows.hashes["inputs"], rows.hashes["group"]]
    keys = [dict(row.example.same_as) for row in rows]
    return [
        array("Q", (0 if row.numbered else hash_of(row.example.id) for row in rows)),
        array("Q", (hash_of(of["inputs"]) for of in keys)),
        array("Q", (hash_of(of["group"]) if "group" in of else 0 for of in keys)),
    ]


def check_duplicates(split: Split, examples: Sequence[Example], most: float, where: str) -> None:
    """Check that not too many examples of a split repeat the inputs of an earlier one.

    Args:
        split: Name of the split.
        examples: Its examples.
        most: Largest share of repeating examples.
        where: The place of the value, for the error.

    Raises:
        TaskError: Their share is above `most`.
    """
    keys = [inputs_key(example.inputs) for example in repeating(examples, ["inputs"])]
    repeats = len(keys) - len(set(keys))
    if (share := 1 - (len(examples) - repeats) / len(examples)) > most:
        rule = f"at most {most:.0%} of a split's rows may repeat the inputs of an earlier row, but "
        rule += f"{repeats} of {len(examples)} {split} rows do"
        remedy = f"remove the repeated rows, or set data.duplicates: {math.ceil(100 * share) / 100:g}"
        raise TaskError(rule, where=where, remedy=remedy)
