"""The results of very many examples: in a temporary file, with the columns that statistics need in memory.

In memory are two numbers a row; a row is read, with its neighbours, when it is needed.
"""

from __future__ import annotations

import math
import os
import pickle
import tempfile
import weakref
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, overload

BLOCK = 500
"""Results that are written, and read, together."""

Result = Any
"""An `ExampleResult`, whose module imports this one."""


class ResultFile(Sequence[Result]):
    """Results in a temporary file without a name, which ends with this object. Equal to a sequence of the same results.

    Attributes:
        repeats: The indices of the repeats.
        metrics: The names of the metrics.
        unparsed: The subtasks of which a result had no parsable response.
        scored: Number of results with a score.
    """

    def __init__(self, results: Iterable[Result] = ()) -> None:
        with tempfile.TemporaryFile() as file:
            self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)
        self._open: list[Result] = []
        self._rows, self._ends = array("Q"), array("Q")
        self._read: tuple[int, list[Result]] = (-1, [])
        self._scores, self._seconds, self._faulty = array("d"), array("d"), array("Q")
        self._measures: tuple[str, ...] = ()
        self._sums: dict[str, tuple[list[float], list[float]]] = {}
        self.repeats, self.metrics, self.unparsed = set[int](), dict[str, None](), set[str]()
        self.scored = 0
        self.extend(results)

    def append(self, result: Result) -> None:
        """Add a result.

        Args:
            result: The result.
        """
        if result.error is not None or result.failure:
            self._faulty.append(len(self))
        self._scores.append(math.nan if result.score is None else result.score)
        if result.score is not None:
            self.scored += 1
            if result.seconds is not None:
                self._seconds.append(result.seconds)
        self.repeats.add(result.repeat)
        self.metrics.update(dict.fromkeys(result.metrics))
        self.unparsed.update(result.unparsed)
        self._open.append(result)
        if len(self._open) >= BLOCK:
            self._write()

    def extend(self, results: Iterable[Result]) -> None:
        """Add results.

        Args:
            results: The results.
        """
        for result in results:
            self.append(result)

    def pairs(self) -> Iterator[tuple[str, float]]:
        """Yield the example's id and the score of each result that has one."""
        place = 0
        for number in range(len(self._blocks())):
            ids: list[str] = self._stored(number, is_ids=True)
            for one in ids:
                if not math.isnan(self._scores[place]):
                    yield one, self._scores[place]
                place += 1

    def faulty(self) -> Iterator[Result]:
        """Yield the results with an error or a failed call."""
        return (self[place] for place in self._faulty)

    @property
    def latencies(self) -> list[float]:
        """Seconds of each result that has a score and whose latency is known."""
        return self._seconds.tolist()

    def total(self, measure: str, subtask: str | None = None, *, is_scored: bool = False) -> float:
        """Return the sum of one field of `SubtaskUse`.

        Args:
            measure: Name of the field.
            subtask: Only this subtask; all unless given.
            is_scored: Whether only results with a score count.
        """
        self._blocks()
        sums = [of[is_scored] for name, of in self._sums.items() if subtask in (None, name)]
        return sum(of[self._measures.index(measure)] for of in sums)

    def __len__(self) -> int:
        return len(self._scores)

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> list[Result]: ...
    def __getitem__(self, index: int | slice) -> Result | list[Result]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        place = range(len(self))[index]
        number = bisect_right(self._blocks(), place)
        return self._block(number)[place - (self._rows[number - 1] if number else 0)]

    def __iter__(self) -> Iterator[Result]:
        for number in range(len(self._blocks())):
            yield from self._block(number)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, tuple | list | ResultFile):
            return NotImplemented
        return len(other) == len(self) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def _blocks(self) -> array[int]:
        """The number of results up to the end of each block; all results are in one."""
        if self._open:
            self._write()
        return self._rows

    def _write(self) -> None:
        block, self._open = self._open, []
        ids, rows = (zlib.compress(pickle.dumps(part), 1) for part in ([result.id for result in block], block))
        start = self._ends[-1] if self._ends else 0
        os.pwrite(self._file, ids + rows, start)
        self._ends.extend((start + len(ids), start + len(ids) + len(rows)))
        self._rows.append(len(self) if not self._rows else self._rows[-1] + len(block))
        if not self._measures:
            self._measures = next((tuple(use.__dataclass_fields__) for r in block for use in r.subtasks.values()), ())
        for place, kept in enumerate((block, [result for result in block if result.score is not None])):
            for name, sums in _sums(self._measures, kept).items():
                of = self._sums.setdefault(name, ([0.0] * len(sums), [0.0] * len(sums)))[place]
                of[:] = [a + b for a, b in zip(of, sums, strict=True)]

    def _block(self, number: int) -> list[Result]:
        if self._read[0] != number:
            self._read = number, self._stored(number)
        return self._read[1]

    def _stored(self, number: int, *, is_ids: bool = False) -> Any:
        part = 2 * number + (not is_ids)
        start = self._ends[part - 1] if part else 0
        # What is read is what this object has written to a file that no other process can open.
        return pickle.loads(zlib.decompress(os.pread(self._file, self._ends[part] - start, start)))  # noqa: S301


def _sums(measures: Sequence[str], results: Sequence[Result]) -> dict[str, list[float]]:
    """Subtask -> the sum of each measure of its use."""
    found: dict[str, list[tuple[float, ...]]] = {}
    if not measures:
        return {}
    read = attrgetter(*measures)
    for result in results:
        for name, use in result.subtasks.items():
            found.setdefault(name, []).append(read(use))
    return {name: [sum(values) for values in zip(*of, strict=True)] for name, of in found.items()}


def scored_pairs(results: Sequence[Result]) -> Iterable[tuple[str, float]]:
    """Return the id and the score of each result that has one."""
    return (
        results.pairs()
        if isinstance(results, ResultFile)
        else ((r.id, r.score) for r in results if r.score is not None)
    )


def faulty(results: Sequence[Result]) -> Iterable[Result]:
    """Return the results with an error or a failed call, and maybe others."""
    return results.faulty() if isinstance(results, ResultFile) else results


def repeat_indices(results: Sequence[Result]) -> set[int]:
    """Return the indices of the repeats."""
    return results.repeats if isinstance(results, ResultFile) else {r.repeat for r in results}


def metric_names(results: Sequence[Result]) -> Iterable[str]:
    """Return the names of the metrics, in their order."""
    return results.metrics if isinstance(results, ResultFile) else dict.fromkeys(n for r in results for n in r.metrics)


def unparsed_subtasks(results: Sequence[Result]) -> set[str]:
    """Return the subtasks of which a result had no parsable response."""
    return results.unparsed if isinstance(results, ResultFile) else {name for r in results for name in r.unparsed}


def known_latencies(results: Sequence[Result]) -> list[float]:
    """Return the seconds of each result that has a score and whose latency is known."""
    if isinstance(results, ResultFile):
        return results.latencies
    return [r.seconds for r in results if r.score is not None and r.seconds is not None]


def scored_count(results: Sequence[Result]) -> int:
    """Return the number of results with a score."""
    return results.scored if isinstance(results, ResultFile) else sum(r.score is not None for r in results)


def total(results: Sequence[Result], measure: str, subtask: str | None = None, *, is_scored: bool = False) -> float:
    """Return the sum of one field of `SubtaskUse`.

    Args:
        results: The results.
        measure: Name of the field.
        subtask: Only this subtask; all unless given.
        is_scored: Whether only results with a score count.
    """
    if isinstance(results, ResultFile):
        return results.total(measure, subtask, is_scored=is_scored)
    counted = (r for r in results if r.score is not None) if is_scored else results
    uses = (use for r in counted for name, use in r.subtasks.items() if subtask in (None, name))
    found: float = sum(getattr(use, measure) for use in uses)
    return found
