"""Rows of a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agentopt.core.errors import TaskError
from agentopt.taskfile.table import Placed, table_rows

BATCH = 10_000
"""Rows that are decoded together."""


def parquet_rows(path: Path, where: str) -> Iterator[Placed]:
    """Yield the place and the cells of each row, without nulls and NaN.

    Args:
        path: The file.
        where: The key that names it, for messages.

    Raises:
        ImportError: The library `pyarrow` is not installed.
        TaskError: The file is not Parquet, has a column twice, or has a column of bytes.
    """
    parts = _parts(path, where)
    names = next(parts)
    rows = ((f"{path}:{number}", cells) for number, cells in enumerate(parts, 1))
    yield from table_rows(names, rows, str(path))


def parquet_size(path: Path) -> tuple[int, int]:
    """Return the number of rows of a Parquet file, and the bytes of its columns before compression; 0 if it is none.

    Args:
        path: The file.

    Raises:
        ImportError: The library `pyarrow` is not installed.
    """
    import pyarrow.parquet  # an extra

    try:
        of = pyarrow.parquet.read_metadata(path)
    except (pyarrow.ArrowException, OSError):
        return 0, 0
    return of.num_rows, sum(of.row_group(number).total_byte_size for number in range(of.num_row_groups))


def _parts(path: Path, where: str) -> Iterator[Sequence[Any]]:
    """Yield the names of the columns, and then the cells of each row."""
    import pyarrow.parquet  # an extra

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file.schema_arrow.names
            for batch in file.iter_batches(BATCH):
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
    except (pyarrow.ArrowException, OSError) as error:
        rule = f"the file {path} is not Parquet: {' '.join(str(error).split())[:200]}"
        raise TaskError(rule, where=where, remedy="write it again, or convert it to JSONL") from error
