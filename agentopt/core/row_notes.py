"""What a user should know about the rows of a task: those left out, and those that repeat each other."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence

from agentopt.core.duplicates import near_duplicates, normalised
from agentopt.core.message_text import counted
from agentopt.core.stored_rows import Hashes, StoredRows, hash_of, shared
from agentopt.core.task import Example, Task


def row_notes(task: Task) -> tuple[str, ...]:
    """The task's notes, and one sentence for each split with repeated rows or pair of splits with near-duplicates."""
    return (*task.notes, *_repeated(task), *_near_duplicates(task))


def _repeated(task: Task) -> Iterator[str]:
    for split, groups in task.groups.items():
        if groups:
            rows, count = len(task.splits[split]), task.independent(split)
            yield (
                f"{rows - count} of {rows} {split} rows repeat the inputs or the group of an earlier one: they count "
                f"as {counted(count, 'row')}"
            )


def _near_duplicates(task: Task) -> Iterator[str]:
    alike = shared(task.splits, _texts)
    pairs = near_duplicates({split: {e.id: e.inputs for e in rows} for split, rows in alike.items()})
    for (split, other), count in Counter((pair.split, pair.other_split) for pair in pairs).items():
        first = next(pair for pair in pairs if (pair.split, pair.other_split) == (split, other))
        yield (
            f"in the {other} split, too, but for case, spacing and punctuation: {counted(count, f'{split} row')}, "
            f"such as {first.row!r} ({first.other_row!r} there); remove them from one of the two"
        )


def _texts(rows: Sequence[Example]) -> list[Hashes[int]]:
    if isinstance(rows, StoredRows):
        return [rows.hashes["text"]]
    return [array("Q", (hash_of(normalised(example.inputs)) for example in rows))]
