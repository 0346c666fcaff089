"""Reads a dataset in its public format: the reader of the task folder turns rows into examples, which are split.

Implements `data.source`, `data.reader`, `data.options` and `data.splits`. A row's split depends only on its id, so that
appended rows do not change the splits of earlier ones.
"""

from __future__ import annotations

import hashlib
import inspect
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from agentopt.core.duplicates import groups_of
from agentopt.core.errors import AgentoptError, TaskError
from agentopt.core.message_text import counted
from agentopt.core.records import Split
from agentopt.core.stored_rows import repeating, rows_at
from agentopt.core.task import Example
from agentopt.core.user_functions import Functions
from agentopt.core.yaml_models import did_you_mean
from agentopt.taskfile.columns import ColumnError, DatasetRow
from agentopt.taskfile.data import Row
from agentopt.taskfile.hub import HubLoader
from agentopt.taskfile.schema import DataSpec, SplitSpec, SplitsSpec
from agentopt.taskfile.sources import rows_of, source_name
from agentopt.taskfile.table import Placed

FILE_OPTION = "_file"
"""Suffix of options whose value is the path of a file."""


def read_dataset(
    data: DataSpec, folder: Path, functions: Functions, where: str, *, hub: HubLoader | None = None
) -> tuple[dict[Split, Sequence[Row]], tuple[str, ...]]:
    """Read the examples of `data.source`.

    Args:
        data: The key `data`.
        folder: The task folder.
        functions: Loads the reader.
        where: The place of the key, for messages.
        hub: Loads `hf:` datasets; by default with the library `datasets`.

    Returns:
        Split -> rows, in the order of the source; the rows of a group are adjacent. And a note on the rows that the
        reader left out, if there are any.

    Raises:
        TaskError: There is no source, an option is refused, or the reader fails on a row.
    """
    if data.source is None:
        rule = "the task reads a dataset that is not part of it, and none was given"
        remedy = "add -c data=FILE; the task's README has its address"
        raise TaskError(rule, where=f"{where}.source", remedy=remedy)
    assert data.reader
    own = SplitSpec(source=data.source, reader=data.reader, options=data.options)
    rows, notes = read_split(own, folder, functions, where, hub=hub)
    return into_splits(rows, data.splits, data.split_seed, source_name(data.source, folder)), notes


def read_split(
    data: SplitSpec, folder: Path, functions: Functions, where: str, *, hub: HubLoader | None = None
) -> tuple[list[Row], tuple[str, ...]]:
    """Read the examples of one dataset, as `read_dataset` without splitting them.

    Args:
        data: The source, the reader and its options.
        folder: The task folder.
        functions: Loads the reader.
        where: The place of the key, for messages.
        hub: Loads `hf:` datasets; by default with the library `datasets`.

    Returns:
        The rows, in the order of the source, and a note on those that the reader left out, if there are any.

    Raises:
        TaskError: An option is refused, or the reader fails on a row.
    """
    read = _reader(data, folder, functions, where)
    rows, left_out = _rows(rows_of(data.source, folder, f"{where}.source", hub), read, source_name(data.source, folder))
    return rows, (_left_out_note(left_out, len(rows), bool(data.options)),) if left_out else ()


def _left_out_note(places: Sequence[str], used: int, has_options: bool) -> str:
    """What a user should know about the rows for which the reader returned None."""
    remedy = "; its options (data.options) and the task's README name the reasons" if has_options else ""
    return f"the reader left out {len(places)} of {counted(len(places) + used, 'row')}, such as {places[0]}{remedy}"


def _reader(data: SplitSpec, folder: Path, functions: Functions, where: str) -> Callable[[Mapping[str, Any]], Any]:
    """The reader with its options, which are checked against its parameters."""
    function = functions(data.reader, f"{where}.reader")
    known = list(inspect.signature(function).parameters.values())[1:]
    names = [p.name for p in known if p.kind is not p.VAR_KEYWORD]
    for name in data.options:
        if name not in names and len(names) == len(known):
            rule = f"the reader {data.reader} must have an option {name!r}"
            raise TaskError(
                rule,
                where=f"{where}.options",
                remedy=did_you_mean(name, names, None if names else "remove it: the reader has no option"),
            )
    for parameter in known:
        if parameter.name not in data.options and parameter.name in names and parameter.default is parameter.empty:
            rule = f"the reader {data.reader} needs the option {parameter.name!r}"
            remedy = f"add -c data.options.{parameter.name}=..."
            raise TaskError(rule, where=f"{where}.options", remedy=remedy)
    _check_kinds(data, function, f"{where}.options")
    options = {
        name: folder / value if name.endswith(FILE_OPTION) and isinstance(value, str) else value
        for name, value in data.options.items()
    }
    return lambda row: function(row, **options)


_PLAIN = {str, int, float, bool, NoneType}


def _check_kinds(data: SplitSpec, function: Callable[..., Any], where: str) -> None:
    """Raise `TaskError` for an option that is not of the type of the reader's parameter, if that is a plain one."""
    try:
        hints = get_type_hints(function)
    except NameError:  # an annotation may name an import for type checkers only
        return
    for name, value in data.options.items():
        hint = hints.get(name)
        kinds: set[Any] = set(get_args(hint)) if get_origin(hint) in {Union, UnionType} else {hint}
        if kinds <= _PLAIN and type(value) not in kinds and not (float in kinds and type(value) is int):
            called = " or ".join(sorted("null" if kind is NoneType else kind.__name__ for kind in kinds))
            rule = f"the option {name} must be of the type {called}, but got {value!r}"
            raise TaskError(rule, where=where, remedy=f"correct -c data.options.{name}=...")


def _rows(source: Iterable[Placed], read: Callable[[Mapping[str, Any]], Any], name: str) -> tuple[list[Row], list[str]]:
    """The rows of the examples, and the places of the rows that the reader left out."""
    rows: list[Row] = []
    left_out: list[str] = []
    places: dict[str, str] = {}
    number = 0
    for number, (place, row) in enumerate(source, 1):
        example = _example(read, row, place)
        if example is None:
            left_out.append(place)
            continue
        numbered = not example.id
        example = replace(example, id=str(number)) if numbered else example
        if example.id in places:
            rule = f"an id must be given once in a dataset, but {example.id!r} is also at {places[example.id]}"
            raise TaskError(rule, where=place, remedy="remove one of the two rows")
        places[example.id] = place
        rows.append(Row(example, place, numbered))
    if not number:
        raise TaskError("a dataset must have rows, but it is empty", where=name, remedy="give the file that holds them")
    return rows, left_out


def _example(read: Callable[[Mapping[str, Any]], Any], row: Mapping[str, Any], place: str) -> Example | None:
    try:
        example = read(DatasetRow(row))
    except TaskError as error:  # an Example that breaks a rule does not name its row
        raise TaskError(
            error.message, where=": ".join(map(str, filter(None, (place, error.where)))), remedy=error.remedy
        ) from error
    except ColumnError as error:
        remedy = "use a file that has the columns which the task's reader reads"
        raise TaskError(error.args[0], where=place, remedy=remedy) from error
    except AgentoptError:
        raise
    except Exception as error:  # a user's function may raise anything
        problem = f"the reader failed: {type(error).__name__}: {error}"
        raise TaskError(problem, where=place, remedy="correct the row, or the reader in the task's file") from error
    if example is not None and not isinstance(example, Example):
        rule = f"a reader must return an Example or None, but got {type(example).__name__}"
        raise TaskError(rule, where=place, remedy="return agentopt.Example(id, inputs, target, metadata)")
    return example


def into_splits(rows: Sequence[Row], shares: SplitsSpec, seed: int, where: str) -> dict[Split, Sequence[Row]]:
    """Assign each row to a split by a hash of the seed and its id. Rows with equal inputs, or one group, share a split.

    A split that would be empty gets the first rows of the largest one.

    Args:
        rows: The rows.
        shares: Expected share of each split; divided by their sum.
        seed: Of the hash.
        where: The source, for messages.

    Raises:
        TaskError: There are fewer groups of rows than splits.
    """
    given: dict[Split, float] = {"train": shares.train, "validation": shares.validation, "test": shares.test}
    wanted = {split: share for split, share in given.items() if share > 0}
    leads, splits = _led(rows, wanted, seed)
    counts = dict.fromkeys(wanted, 0) | Counter(splits[lead] for place, lead in enumerate(leads) if place == lead)
    if (groups := sum(counts.values())) < len(wanted):
        rule = f"a dataset must have at least one usable row for each of {', '.join(wanted)}, but has {groups}"
        rule += " with distinct inputs and groups; rows that share either stay in one split" * (len(rows) > groups)
        raise TaskError(rule, where=where, remedy=f"give a dataset of at least {counted(len(wanted), 'usable row')}")
    for empty in (split for split in wanted if not counts[split]):
        largest = max(wanted, key=counts.__getitem__)
        moved = next(lead for lead in leads if splits[lead] == largest)
        splits[moved] = empty
        counts[largest], counts[empty] = counts[largest] - 1, 1
    places: dict[Split, array[int]] = {split: array("Q") for split in wanted}
    for place in sorted(range(len(leads)), key=leads.__getitem__):
        places[splits[leads[place]]].append(place)
    return {split: rows_at(rows, of) for split, of in places.items()}


def _led(rows: Sequence[Row], shares: Mapping[Split, float], seed: int) -> tuple[array[int], list[Split]]:
    """For each row the place of the first row of its group, and the split that its own id gives it."""
    first = groups_of({row.example.id: row.example.same_as for row in repeating(rows, ("inputs", "group"))})
    leads, splits, places = array("Q"), list[Split](), dict[str, int]()
    for place, row in enumerate(rows):
        group = first.get(row.example.id)
        leads.append(place if group is None else places.setdefault(group, place))
        splits.append(_split_of(row.example.id, shares, seed))
    return leads, splits


def _split_of(id: str, shares: Mapping[Split, float], seed: int) -> Split:  # noqa: A002 - the field's name
    place = int.from_bytes(hashlib.sha256(f"{seed}:{id}".encode()).digest()[:8]) / 2**64 * sum(shares.values())
    ends = zip(shares, accumulate(shares.values()), strict=True)
    return next((split for split, end in ends if place < end), list(shares)[-1])
