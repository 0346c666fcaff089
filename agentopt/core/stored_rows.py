"""Rows that stay in a file, for splits that would not fit into memory, and which of them may be equal.

Rows are compared by 64-bit hashes. They select the few rows that may be equal, which are then read and compared, so
that a collision of hashes has no effect.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar, overload

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Hashes = array  # of "Q"
"""One unsigned 64-bit number per row; 0 for a row without a key of that kind."""

Item = TypeVar("Item", covariant=True)


class StoredRows(Sequence[Item]):
    """Rows that are read when they are needed. They were checked when they were indexed."""

    @property
    @abstractmethod
    def hashes(self) -> Mapping[str, Hashes[int]]:
        """Kind of key -> its hash for each row: `id`, `inputs`, `group`, and `text`, the normalised inputs."""

    @abstractmethod
    def at(self, places: Iterable[int]) -> Iterator[Item]:
        """Read the rows at some places.

        Args:
            places: Indices of rows, from 0.
        """

    @abstractmethod
    def of(self, places: Sequence[int]) -> StoredRows[Item]:
        """Return the rows at some places, without reading them.

        Args:
            places: Indices of rows, from 0.
        """

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> StoredRows[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | StoredRows[Item]:
        if isinstance(index, slice):
            return self.of(range(len(self))[index])
        return next(self.at([range(len(self))[index]]))

    def __iter__(self) -> Iterator[Item]:
        return self.at(range(len(self)))


def hash_of(text: str) -> int:
    """Return a hash of a text that is the same in every process, and never 0."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def repeating(rows: Sequence[Item], kinds: Sequence[str]) -> Iterable[Item]:
    """Return the rows that may share a key of some kind with another row, in their order; all that are in memory.

    Args:
        rows: The rows.
        kinds: Kinds of keys.
    """
    return rows_at(rows, repeating_places(rows, kinds))


def repeating_places(rows: Sequence[Item], kinds: Sequence[str]) -> Sequence[int]:
    """Return the places of the rows that `repeating` returns.

    Args:
        rows: The rows.
        kinds: Kinds of keys.
    """
    if not isinstance(rows, StoredRows):
        return range(len(rows))
    import numpy as np

    found = np.zeros(len(rows), bool)
    for kind in kinds:
        hashes = _numbers(rows.hashes[kind])
        values, counts = np.unique(hashes, return_counts=True)
        found |= np.isin(hashes, values[(counts > 1) & (values > 0)])
    places: list[int] = np.flatnonzero(found).tolist()
    return places


Split = TypeVar("Split", bound=str)


def shared(
    splits: Mapping[Split, Sequence[Item]], marks: Callable[[Sequence[Item]], Sequence[Hashes[int]]]
) -> dict[Split, Iterable[Item]]:
    """Return the rows of each split that may share a key with a row of another one, in their order.

    Args:
        splits: The rows of each split. If all are in memory, they are returned.
        marks: Returns the hashes of the rows of a split, for each kind of key; 0 for a row without such a key.
    """
    if not any(isinstance(rows, StoredRows) for rows in splits.values()):
        return dict(splits)
    import numpy as np

    found = {split: np.zeros(len(rows), bool) for split, rows in splits.items()}
    for of_kind in zip(*(marks(rows) for rows in splits.values()), strict=True):
        numbers = dict(zip(splits, map(_numbers, of_kind), strict=True))
        values, counts = np.unique(np.concatenate([np.unique(of) for of in numbers.values()]), return_counts=True)
        both = values[(counts > 1) & (values > 0)]
        for split, of in numbers.items():
            found[split] |= np.isin(of, both)
    return {split: rows_at(rows, np.flatnonzero(found[split]).tolist()) for split, rows in splits.items()}


def rows_at(rows: Sequence[Item], places: Sequence[int]) -> Sequence[Item]:
    """Return the rows at some places, without reading those that are in a file.

    Args:
        rows: The rows.
        places: Indices of rows, from 0.
    """
    return rows.of(places) if isinstance(rows, StoredRows) else [rows[place] for place in places]


def _numbers(hashes: Hashes[int]) -> NDArray[np.uint64]:
    import numpy as np

    return np.frombuffer(hashes, dtype=np.uint64) if len(hashes) else np.zeros(0, np.uint64)
