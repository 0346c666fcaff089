"""Reads the rows of a data file, or of a dataset of the Hugging Face hub, by the form of its name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from agentopt.core.errors import TaskError
from agentopt.core.extras import install_command
from agentopt.taskfile.hub import HUB, HubLoader, hub_rows, load_from_hub
from agentopt.taskfile.parquet import parquet_rows
from agentopt.taskfile.spreadsheet import sheet_rows
from agentopt.taskfile.table import Placed
from agentopt.taskfile.text_rows import CORRECT_PATH, check_is_file, csv_rows, json_lines, json_list

SUFFIXES = (".csv", ".tsv", ".xlsx", ".parquet", ".json", ".jsonl")

_SHEET = re.compile(r"(?P<file>.*\.xlsx)#(?P<sheet>.+)", re.IGNORECASE | re.DOTALL)


def rows_of(
    source: str, folder: Path, where: str, hub: HubLoader | None = None, remedy: str = CORRECT_PATH
) -> Iterator[Placed]:
    """Yield the place of each row, and the row.

    Args:
        source: A file with one of the suffixes `SUFFIXES`, `FILE.xlsx#SHEET`, or `hf:owner/name:config@split`.
        folder: The folder that a relative path is in.
        where: The key that names the source, for messages.
        hub: Loads `hf:` datasets; by default with the library `datasets`.
        remedy: What to do about a file that cannot be read.

    Raises:
        TaskError: The source has another form, cannot be read, or a library that reads it is not installed.
    """
    if source.startswith(HUB):
        return _with_extra(hub_rows(source, where, hub or load_from_hub), source, "huggingface", where)
    named = _SHEET.fullmatch(source)
    path = folder / (named["file"] if named else source)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        rule = f"data must be a file of {', '.join(SUFFIXES)}, or hf:owner/name, but got {source}"
        raise TaskError(rule, where=where, remedy="convert it to one of these formats, such as CSV")
    if suffix in (".csv", ".tsv"):
        return csv_rows(path, where, remedy)
    if suffix in (".json", ".jsonl"):
        return (json_list if suffix == ".json" else json_lines)(path, where, remedy)
    check_is_file(path, where, remedy)
    rows = sheet_rows(path, named and named["sheet"], where) if suffix == ".xlsx" else parquet_rows(path, where)
    return _with_extra(rows, source, "data", where)


def source_name(source: str, folder: Path) -> str:
    """The source in messages: a file with its folder."""
    return source if source.startswith(HUB) else str(folder / source)


def _with_extra(rows: Iterator[Placed], source: str, extra: str, where: str) -> Iterator[Placed]:
    try:
        yield from rows
    except ImportError as error:
        rule = f"reading {source} needs the library `{(error.name or str(error)).partition('.')[0]}`"
        remedy = f"{install_command(extra)}, or give a .csv or .jsonl file"
        raise TaskError(rule, where=where, remedy=remedy) from error
