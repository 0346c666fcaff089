"""Seeded mutations of files: of the values of a document, and of its text."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2**63, 10**400, -(10**30), 1.5, 1e308, float("nan"), float("inf"), -0.0,
    "", " ", "x", "a\0b", "\ud800", "a\udfffb", "\x1b[31mred\x1b[0m", "\x9b31m", "two\nlines", "\r", "\u202eabc",
    "\ufeff",
    "x" * 5000, "ü" * 3000, "../../../etc/passwd", "/dev/zero", "/dev/stdin", "pipe", "task", ".", "~",
    "file:///etc/passwd",
    "hf:", "hf:a\0b", "{{", "}}", "{{ inputs.word", "{{ 1/0 }}", "{{ inputs.__class__ }}", "{% for i in x %}",
    "%s%n{0}",
    "{% for i in range(10000000) %}{% for j in range(10000000) %}x{% endfor %}{% endfor %}", "{{ 'x' * 10000000000 }}",
    "{{ range(1000000000) | list }}", "(a+)+$", "[", "(?P<", "a" * 300 + "!", "os.system", "task.py:find",
    "nothing.py:f",
    "2026-11-27", "1e6", "0x1F", "yes", "null", "__proto__", "http://", "http://[::1", "http://127.0.0.1:99999/v1",
    "http://user:password@127.0.0.1:9/v1", "http://a b/", "http://127.0.0.1:9/v1\r\nX: y", "ftp://127.0.0.1/",
    "127.0.0.1",
    "sqlite:///", "sqlite:////dev/null/x.db", "postgresql://127.0.0.1:9/x", "nosuch://x", "://", "60 * * * *", "@daily",
    [], [[]], [None], [1, "a", None], ["a", "a"], ["small", "small"], [0], [3, 2, 1], list(range(3000)),
    ["x" * 2000] * 50,
    {}, {"a": 1}, {"max": 10**8}, {"max": -1}, {"max": True}, {"kind": "x"}, {"kind": ["x"]}, {"": ""}, {"name": "x"},
    {"kind": "python", "function": "nothing.py:f"}, {"kind": "choice", "options": ["x" * 100] * 500}, {1: 2}, {None: 1},
    {"type": "array", "uniqueItems": True}, {"$ref": "#"}, {"pattern": "(a+)+$"},
]  # fmt: skip
"""Values that are wrong for most keys, and those that break careless readers of values that are right."""

KEYS: list[Any] = [
    "",
    " ",
    "a\0b",
    "\ud800",
    "\x1b[31m",
    "x" * 3000,
    "__class__",
    "name",
    "kind",
    1,
    None,
    True,
    1.5,
    "a.b",
    "<<",
]

PIECES = [
    b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\x1b[2J", b"\t", b"\r", b"\n", b"\n\n", b"  ", b": ", b"- ", b"? ",
    b"#",
    b"'", b'"', b"{", b"}", b"[", b"]", b",", b"|", b">", b"&a ", b"*a", b"*nothing", b"!!int x",
    b"!!python/object:os.x {}",
    b"!x ", b"%YAML 9.9\n---\n", b"---\n", b"...\n", b"<<: *a", b"[" * 400, b"{a: " * 400, b"9" * 5000, b"x" * 20000,
    b"\\",
    b'"\\ud800"', b'"\\u0000"', b"\xed\xa0\x80", b"a: &a [x,x]\nb: &b [*a,*a,*a,*a]\nc: [*b,*b,*b]\n", b"=", b"`",
    b"@", b"%",
    b"&a [*a]", b"1e999", b"-", b".nan", b"\xc2\x85", b"\xe2\x80\xa8", b"null", b"{{ x }}", b"\x7f", b"0" * 100,
]  # fmt: skip
"""Text that is inserted at random places."""


def changed_data(draw: random.Random, data: Any) -> Any:
    """A copy of plain data with one to three changes at random places."""
    data = json.loads(json.dumps(data))
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        places = list(_places(data))
        if not places:
            return draw.choice(HOSTILE)
        inside, key = draw.choice(places)
        draw.choice(_CHANGES)(draw, inside, key)
    return data


def changed_text(draw: random.Random, text: bytes) -> bytes:
    """A text with one to four changes of its bytes or lines."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        text = draw.choice(_EDITS)(draw, text)
    return text


def as_json(data: Any) -> bytes:
    """JSON, which is YAML too. Surrogates are escapes in it, as an attacker may write them."""
    return json.dumps(data, default=str, indent=1, skipkeys=False).encode()


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value below `data`."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield data, key
        yield from _places(value)


def _set(draw: random.Random, inside: Any, key: Any) -> None:
    inside[key] = draw.choice(HOSTILE)


def _delete(draw: random.Random, inside: Any, key: Any) -> None:
    del inside[key]


def _rename(draw: random.Random, inside: Any, key: Any) -> None:
    if isinstance(inside, dict):
        inside[draw.choice(KEYS)] = inside.pop(key)


def _add(draw: random.Random, inside: Any, key: Any) -> None:
    if isinstance(inside, dict):
        inside[draw.choice(KEYS)] = draw.choice(HOSTILE)
    else:
        inside.insert(key, draw.choice(HOSTILE))


def _nest(draw: random.Random, inside: Any, key: Any) -> None:
    value = inside[key]
    for _ in range(draw.choice((1, 1, 2, 50, 150))):
        value = [value] if draw.random() < 0.5 else {draw.choice(("a", "kind", "name")): value}
    inside[key] = value


def _append(draw: random.Random, inside: Any, key: Any) -> None:
    value = inside[key]
    if isinstance(value, str):
        extra = draw.choice([one for one in HOSTILE if isinstance(one, str)])
        at = draw.randrange(len(value) + 1)
        inside[key] = value[:at] + extra + value[at:]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        inside[key] = value * draw.choice((-1, 0, 0.1, 10**6, 10**12))
    else:
        inside[key] = str(value)


def _repeat(draw: random.Random, inside: Any, key: Any) -> None:
    if isinstance(inside, list):
        inside.extend([inside[key]] * draw.choice((1, 3, 200)))
    else:
        inside[key] = [inside[key]] * draw.choice((1, 2, 30))


_CHANGES: list[Callable[[random.Random, Any, Any], None]] = [
    _set, _set, _set, _set, _delete, _rename, _add, _nest, _append, _append, _repeat,
]  # fmt: skip


def _flip(draw: random.Random, text: bytes) -> bytes:
    if not text:
        return text
    at = draw.randrange(len(text))
    return text[:at] + bytes([draw.randrange(256)]) + text[at + 1 :]


def _insert(draw: random.Random, text: bytes) -> bytes:
    at = draw.randrange(len(text) + 1)
    return text[:at] + draw.choice(PIECES) + text[at:]


def _cut(draw: random.Random, text: bytes) -> bytes:
    return text[: draw.randrange(len(text) + 1)]


def _remove(draw: random.Random, text: bytes) -> bytes:
    at = draw.randrange(len(text) + 1)
    return text[:at] + text[at + draw.choice((1, 5, 50)) :]


def _double(draw: random.Random, text: bytes) -> bytes:
    lines = text.splitlines(keepends=True) or [b""]
    at = draw.randrange(len(lines))
    return b"".join(lines[: at + 1] + [lines[at]] * draw.choice((1, 20)) + lines[at + 1 :])


def _swap(draw: random.Random, text: bytes) -> bytes:
    lines = text.splitlines(keepends=True) or [b""]
    first, second = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return b"".join(lines)


def _recode(draw: random.Random, text: bytes) -> bytes:
    return text.decode(errors="replace").encode(draw.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7")))


_EDITS: list[Callable[[random.Random, bytes], bytes]] = [
    _flip, _flip, _flip, _insert, _insert, _insert, _cut, _remove, _double, _swap, _recode,
]  # fmt: skip
