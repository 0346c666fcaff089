"""Rows of an XLSX spreadsheet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentopt.core.errors import TaskError
from agentopt.core.yaml_models import did_you_mean, listed, shown
from agentopt.taskfile.table import Placed, is_empty, table_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from python_calamine import CalamineSheet, CalamineWorkbook

EXACT = 10**15
"""Spreadsheets store numbers with 15 digits."""


def sheet_rows(path: Path, sheet: str | None, where: str) -> Iterator[Placed]:
    """Yield the place and the cells of each row below the header, the first row that has a value.

    Args:
        path: The file.
        sheet: Name of the sheet; may be None if one has values.
        where: The key that names the file, for messages.

    Raises:
        ImportError: The library `python_calamine` is not installed.
        TaskError: The file is no spreadsheet, no sheet can be chosen, cells are merged, a whole number is longer than
            15 digits, or the header or a row breaks a rule of tables.
    """
    import python_calamine  # an extra

    try:
        book = python_calamine.CalamineWorkbook.from_path(path)
        chosen = _chosen(book, sheet, path, where)
    except (python_calamine.CalamineError, OSError) as error:
        rule = f"the spreadsheet {path} cannot be read: {error}"
        remedy = "save it as .xlsx without a password, or as CSV UTF-8"
        raise TaskError(rule, where=where, remedy=remedy) from error
    named = f"{path}#{chosen.name}"
    _check_merged(chosen, named)
    rows = [
        (f"{named}:{number}", [_number(cell, f"{named}:{number}") for cell in row])
        for number, row in enumerate(chosen.to_python(skip_empty_area=False), 1)
        if not all(map(is_empty, row))
    ]
    if rows:
        yield from table_rows(rows[0][1], rows[1:], rows[0][0])


def _chosen(book: CalamineWorkbook, sheet: str | None, path: Path, where: str) -> CalamineSheet:
    if sheet is not None:
        if sheet not in book.sheet_names:
            rule = f"the spreadsheet {path} must have the sheet {sheet!r}"
            raise TaskError(rule, where=where, remedy=did_you_mean(sheet, book.sheet_names))
        return book.get_sheet_by_name(sheet)
    filled = [name for name in book.sheet_names if book.get_sheet_by_name(name).start is not None]
    if len(filled) > 1:
        rule = f"one sheet must be chosen, but {path} has {listed(filled)}"
        raise TaskError(rule, where=where, remedy=f"name it: {path.name}#{filled[0]}")
    return book.get_sheet_by_name(filled[0] if filled else book.sheet_names[0])


def _check_merged(sheet: CalamineSheet, named: str) -> None:
    for (top, left), (bottom, right) in sheet.merged_cell_ranges or ():
        merged = f"{_cell(top, left)}:{_cell(bottom, right)}"
        rule = f"each cell must be of one row and column, but those of {merged} are merged"
        raise TaskError(rule, where=f"{named}:{top + 1}", remedy="unmerge them, and fill in each cell")


def _cell(row: int, column: int) -> str:
    """A cell as spreadsheets name it, such as AB3."""
    letters, column = "", column + 1
    while column:
        column, rest = divmod(column - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return f"{letters}{row + 1}"


def _number(value: Any, place: str) -> Any:
    """A whole number as an int: a spreadsheet does not distinguish 3 from 3.0."""
    if not isinstance(value, float) or not value.is_integer():
        return value
    if abs(value) >= EXACT:
        rule = (
            f"a spreadsheet rounds numbers to 15 digits, so a whole number must have at most 15, but got {shown(value)}"
        )
        raise TaskError(rule, where=place, remedy="format the column as text, and enter the number again")
    return int(value)
