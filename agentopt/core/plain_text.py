"""Text that a terminal, a file and a database take: control characters are shown as escapes, and some are refused."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

_BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_NOT_ASCII = re.compile("[^\0-\x7e]")


def visible(text: str) -> str:
    """The text with its control characters as escapes such as `\\x1b`, except for line ends and tabs.

    Text of a model that is printed as it is could move the cursor, or change how a terminal shows later lines.
    """
    return "".join(c if c in "\n\t" or not controls(c) else ascii(c)[1:-1] for c in text.replace("\r\n", "\n"))


def controls(character: str) -> bool:
    """Whether a terminal may interpret a character: a control, half a surrogate pair, or a change of direction."""
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _BIDIRECTIONAL


def one_line(text: str, most: int | None = None) -> str:
    """The text in one line, with control characters and line ends as escapes.

    Args:
        text: Any text.
        most: Characters of the result; a longer text ends with an ellipsis.
    """
    line = "".join(ascii(c)[1:-1] if controls(c) else c for c in text)
    return line if most is None or len(line) <= most else line[: most - 1] + "…"


def visible_json(document: str) -> str:
    """JSON whose control characters are escapes of JSON, so that it can be printed and is the same document."""
    return _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1] if controls(found[0]) else found[0], document)


def unstorable(text: str) -> str | None:
    """The character because of which a text can be no name, path or key: files and databases cannot store it.

    Args:
        text: Any text.

    Returns:
        `a zero byte`, or `half a surrogate pair`; None if the text can be stored.
    """
    if text.isascii() and "\0" not in text:
        return None
    found = _UNSTORABLE.search(text)
    return None if found is None else "a zero byte" if found[0] == "\0" else "half a surrogate pair"


def unstorable_in(value: Any) -> str | None:
    """The same for the first such text in plain data: lists, tuples, and mappings with their keys.

    Args:
        value: Plain data; other objects are not inspected.
    """
    return next(filter(None, map(unstorable, _texts(value))), None)


def _texts(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, Mapping):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, list | tuple):
            waiting += part
