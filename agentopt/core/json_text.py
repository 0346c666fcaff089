"""Finds JSON values in a model's reply, in prose and fences as well.

`json_values` is strict: it yields only JSON as RFC 8259 defines it. It reads the answers that are scored, because
whether a model follows a format is part of the measurement. `repaired_json_values` reads the replies of the search
agent and of prompt writers: it also accepts the near-JSON that small models write.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_START = re.compile(r"[\[{]")
_FENCE = re.compile(r"```[\w-]*\s*\n(.*?)```", re.DOTALL)
_MOST_STARTS = 256
_MOST_REPAIRS = 4

LONGEST_REPAIRED = 3000
"""Most characters that are repaired. The time grows with their square at worst: 2 s for 3,000 opening brackets and
quotes, and under 1 ms for what models usually write."""


def json_values(text: str, on_broken: Callable[[str], Iterable[Any]] = lambda rest: ()) -> Iterator[Any]:
    """Yield the JSON values in a text, likeliest first; NaN and infinite numbers are not JSON.

    The order is: the whole text, the blocks between ``` fences, then each object or array in the prose. If one is
    broken, those inside it follow. A value may be yielded more than once.

    Args:
        text: A model's reply.
        on_broken: Called with the text from a broken object or array to the end, for the first four of them; what it
            returns is yielded.
    """
    for candidate in (text.strip(), *(block.strip() for block in _FENCE.findall(text))):
        yield from (value for value, _ in _decoded(candidate, 0, to_end=True))
    position, starts, repairs = 0, 0, 0
    while (start := _START.search(text, position)) and starts < _MOST_STARTS:
        starts, position = starts + 1, start.end()
        found = _decoded(text, start.start())
        if not found and repairs < _MOST_REPAIRS:
            repairs += 1
            yield from on_broken(text[start.start() :])
        for value, end in found:
            yield value
            position = end


def repaired_json_values(text: str) -> Iterator[Any]:
    """Yield the JSON values in a text as `json_values` does, and before the parts of a broken one its repair.

    Repaired are, among others: trailing and missing commas, single or missing quotes, quotes and line breaks inside a
    string, Python's `None` and `True`, comments, and missing closing brackets. What follows the last closing bracket is
    dropped first, so that a string or number that was cut off is never taken for a whole one.
    """
    return json_values(text, _repaired)


def _repaired(text: str) -> Iterator[Any]:
    """Yield the repaired value, and each of its items if it is a list: several values in prose become one list."""
    from json_repair import repair_json  # takes 50 ms to load, and most replies need no repair

    whole = text[: max(text.rfind("}"), text.rfind("]")) + 1]
    if not whole or len(whole) > LONGEST_REPAIRED:
        return
    try:
        value = repair_json(whole, return_objects=True)
    except (ValueError, RecursionError):  # too deep
        return
    yield value
    if isinstance(value, list):
        yield from value


_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb"}


def json_objects(text: str) -> Iterator[str]:
    """Yield the text of each JSON object that is neither inside another one nor quoted, in order.

    Quoted is an object between quotation marks or single backticks, or in a line that starts with `>`.
    """
    position = 0
    while (start := text.find("{", position)) >= 0:
        found = _decoded(text, start)
        position = found[0][1] if found else start + 1
        if found and not _is_quoted(text, start, position):
            yield text[start:position]


def _is_quoted(text: str, start: int, end: int) -> bool:
    line = text[text.rfind("\n", 0, start) + 1 : start]
    if line.lstrip().startswith(">"):
        return True
    before, after = text[:start], text[end:]
    is_block = before.rstrip().endswith("```")
    return not is_block and bool(before) and after.startswith(_QUOTES.get(before[-1], "\0"))


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _refuse(digits)


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)


def _decoded(text: str, start: int, *, to_end: bool = False) -> list[tuple[Any, int]]:
    """The value that starts at `start`, with its end, as a list of one; empty if there is no valid value."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return []
    return [(value, end)] if end == len(text) or not to_end else []
