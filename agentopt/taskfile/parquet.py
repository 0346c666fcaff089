"""Rows of a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agentopt.core.errors import TaskError
from agentopt.taskfile.table import Placed, table_rows


def parquet_rows(path: Path, where: str) -> Iterator[Placed]:
    """Yield the place and the cells of each row, without nulls and NaN.

    Args:
        path: The file.
        where: The key that names it, for messages.

    Raises:
        ImportError: The library `pyarrow` is not installed.
        TaskError: The file is not Parquet, has a column twice, or has a column of bytes.
    """
    import pyarrow.parquet  # an extra

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names, columns = file.schema_arrow.names, [column.to_pylist() for column in file.read().columns]
    except (pyarrow.ArrowException, OSError) as error:
        rule = f"the file {path} is not Parquet: {' '.join(str(error).split())[:200]}"
        raise TaskError(rule, where=where, remedy="write it again, or convert it to JSONL") from error
    rows = ((f"{path}:{number}", cells) for number, cells in enumerate(zip(*columns, strict=True), 1))
    yield from table_rows(names, rows, str(path))
