r"""Reads numbers as people write them, such as `$9{,}500`, `\frac{3}{4}` and `10^6`, for the parser `number`."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

_MINUS_SIGNS = "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"
_SPACES = "\u00a0\u2009\u202f"
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_PLAIN = _FULL_WIDTH | {ord(c): "-" for c in _MINUS_SIGNS} | {ord(c): " " for c in _SPACES} | {0x2044: "/"}
_ARABIC_DECIMAL, _ARABIC_GROUPS = "\u066b", "\u066c"
_SWAPPED = str.maketrans(".,", ",.")
_MOST_EXPONENT_DIGITS = 4
_GROUPED = re.compile(r"[1-9][0-9]{0,2}(?:,[0-9]{2,3})*,[0-9]{3}(?:\.[0-9]+)?")
_LIST_ITEM = re.compile(r"(?![0-9]{3}(?![0-9]))[0-9]+(?:\.[0-9]+)?")
_DATE = re.compile(r"[0-9]+(?:/[0-9]+){2,}")
_GROUPED_BY_POINTS = re.compile(r"[1-9][0-9]{0,2}(?:(?:\.[0-9]{3})+,[0-9]+|(?:\.[0-9]{3}){2,})")

_VULGAR = "\u00bc-\u00be\u2150-\u215e\u2189"
_REMARK = re.compile(r"(?<=[0-9%}\u00bc-\u00be\u2150-\u215e])((?:[ \t]+[^\W\d_]+){0,2})[ \t]+\([^()\n]*\)")

_DECIMAL = r"(?:\d+(?:\.\d+)?|(?<![A-Za-z])\.\d+)(?:[eE][-+]?\d+)?"
# A match neither begins nor ends inside a run such as 1.2.3: a part of a number is never read.
_NUMBER = re.compile(
    rf"""
    (?P<sign>(?<![\w.,)\]])-(?=[$€£¥.\d]))?    # a minus after a word or a number is a dash, as in 10-20
    [$€£¥]?\s?(?P<inner_sign>(?<=[$€£¥])-)?
    (?<!\d)(?<!\d[.,/eE])(?<!\d[eE][-+])
    (?:(?:(?P<whole>\d+)\ )?(?P<top>{_DECIMAL})/(?P<bottom>{_DECIMAL})|(?P<decimal>{_DECIMAL}))
    (?![.,/]?\d|[eE][-+]?\d)
    """,
    re.VERBOSE | re.ASCII,
)
_MOST_DIGITS = 300

_FRACTION = re.compile(
    r"\\[dtc]?frac(?:\s*\{\s*(-?\d[\d.,]*)\s*\}\s*\{\s*(-?\d[\d.,]*)\s*\}|\s*(\d)\s*(\d)(?!\d)|"
    r"\s*\{\s*(-?\d+)\s*\}\s*(\d)(?!\d)|\s*(\d)\s*\{\s*(-?\d+)\s*\})"
)

_MULTIPLES = {
    "hundred": 100,
    "thousand": 10**3,
    "k": 10**3,
    "lakh": 10**5,
    "million": 10**6,
    "mn": 10**6,
    "m": 10**6,
    "crore": 10**7,
    "billion": 10**9,
    "bn": 10**9,
    "b": 10**9,
    "trillion": 10**12,
}
_CHARACTERS = {
    **dict.fromkeys("\u4ebf\u5104", 10**8),
    **dict.fromkeys("\u4e07\u842c", 10**4),
    "\u5343": 1000,
    "\u767e": 100,
}
_FACTOR = r"[0-9]{1,15}(?:\.[0-9]{1,15})?"
_NUMBER_START = r"(?<![0-9A-Za-z.,/])"
_IN_WORDS = re.compile(
    rf"{_NUMBER_START}()({_FACTOR})[ -]?({'|'.join(word for word in _MULTIPLES if len(word) > 2)})s?\b", re.IGNORECASE
)
_OF_MONEY = re.compile(rf"([$\u20ac\u00a3\u00a5] ?)({_FACTOR}) ?(k|mn|m|bn|b)\b", re.IGNORECASE)
_IN_CHARACTERS = re.compile(rf"{_NUMBER_START}((?:{_FACTOR}[{''.join(_CHARACTERS)}])+)([0-9]{{0,15}})")

_SUPERSCRIPTS = str.maketrans("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b", "0123456789-")


@dataclass(frozen=True, slots=True)
class FoundNumber:
    """A number in a text that `plain_numbers` returned.

    Attributes:
        start: Index of its first character, a sign or currency symbol included.
        end: Index after its last character.
        value: Its value, an int if it is whole.
        exact: The value as text; a fraction of whole numbers is written as 5/2.
    """

    start: int
    end: int
    value: int | float
    exact: str


def numbers_in(text: str, decimal: str = ".") -> list[FoundNumber]:
    """Return the finite numbers of a text, in order; see `plain_numbers`."""
    matches = _NUMBER.finditer(plain_numbers(text, decimal))
    return [found for match in matches if (found := _found(match)) is not None]


def _found(match: re.Match[str]) -> FoundNumber | None:
    """The number of a match; None if it is not a finite one, such as 1/0."""
    if len(match[0]) > _MOST_DIGITS:
        return None
    sign = -1 if match["sign"] or match["inner_sign"] else 1
    whole, top, bottom = match["whole"] or "0", match["top"], match["bottom"]
    try:
        if match["decimal"] and match["decimal"].isdecimal():
            value: int | float = sign * int(match["decimal"])
        elif match["decimal"]:
            value = sign * float(match["decimal"])
        else:
            value = sign * (int(whole) * float(bottom) + float(top)) / float(bottom)
        if not math.isfinite(value):
            return None
    except (ZeroDivisionError, OverflowError):
        return None
    value = int(value) if value == int(value) else value
    if top and top.isdecimal() and bottom.isdecimal():
        exact = str(sign * (int(whole) + Fraction(int(top), int(bottom))))
    else:
        exact = str(value) if isinstance(value, int) else f"{value:.15g}"
    return FoundNumber(match.start(), match.end(), value, exact)


def without_remarks(text: str) -> str:
    """Remove what is in brackets after a number, and after a number with a unit, as in `9 (12 less 3)`."""
    return _REMARK.sub(r"\1", text)


def plain(text: str) -> str:
    """Return `text` with ASCII digits, minus signs, fraction slashes and spaces, and without full-width characters."""
    if text.isascii():
        return text
    return re.sub(r"[^\W\x00-\x7f]", _ascii_digit, text.translate(_PLAIN))


def _ascii_digit(match: re.Match[str]) -> str:
    """The ASCII digit of a decimal digit in any script; any other character is unchanged."""
    return str(unicodedata.decimal(match[0], match[0]))


def join_digits(text: str) -> str:
    r"""Remove what separates groups of digits: `\,`, `\!` and `_`, and before three digits `'`, `{,}`, `~` and `\ `."""
    text = re.sub(r"(?<=[0-9])(?:['\u2019~]|\{,\}|\\ |,\\!|\\!,)(?=[0-9]{3}(?![0-9]))", "", text)
    text = re.sub(r"(?<=[0-9])\{([.,])\}(?=[0-9])", r"\1", text)
    return re.sub(rf"(?<=[0-9])(?:\\[,!;:]|_|{_ARABIC_GROUPS})(?=[0-9])", "", text)


def plain_numbers(text: str, decimal: str = ".") -> str:
    r"""Rewrite the numbers in a text.

    Args:
        text: A response.
        decimal: The decimal separator, `.` or `,`; the other one separates groups of digits. A single separator that
            cannot separate groups of three digits is decimal, as in 12,5 and 0,125, and so is the last of two kinds, as
            in 1.234,5. Commas in a run with none of these forms separate the items of a list, as in 1,2,3, unless an
            item has three digits and may be a group, as in 12,345,67; three numbers between slashes are a date.

    Returns:
        The text with groups of digits joined, fractions as 3/4, powers of ten as 1e6, and lists and dates with spaces.
        A run that is none of these, such as 12,345,67 or 1.2.3, is unchanged.
    """
    text = re.sub(rf"([0-9]?)[ ]?([{_VULGAR}])", _vulgar_fraction, text)
    text = join_digits(plain(text)).replace(_ARABIC_DECIMAL, decimal)
    text = _FRACTION.sub(_fraction, text)
    text = re.sub(r"\{\s*(-?\d[\d.,]*)\s*\\over\s*(-?\d[\d.,]*)\s*\}", _fraction, text)
    text = re.sub(r"(?<![\w.,/])(\d{1,3})((?: \d{3})+)(?![\d/])(?! \d)", lambda m: m[1] + m[2].replace(" ", ""), text)
    text = re.sub(r"[0-9][0-9.,/]*[0-9]", lambda m: _separated(m[0], decimal), text)
    text = re.sub(r"(?im)(^|\bis |[:=(*] ?)(?:minus|negative) (?=[$\u20ac\u00a3\u00a5]?\.?[0-9])", r"\1-", text)
    return _without_multiples(_without_powers(text))


def _separated(run: str, decimal: str) -> str:
    """A run of digits, commas, points and slashes, with points as decimal separators only if it is a number."""
    if _DATE.fullmatch(run):
        return run.replace("/", " / ")
    sides = run.split("/")
    numbers = [_read_number(side.translate(_SWAPPED) if decimal == "," else side) for side in sides]
    if all(numbers):
        return "/".join(map(str, numbers))
    items = run.split(",")
    return ", ".join(items) if all(map(_LIST_ITEM.fullmatch, items)) else run


def _read_number(run: str) -> str | None:
    """A run of digits, commas and points as a number with a decimal point at most; None if it is not one."""
    if _GROUPED.fullmatch(run):
        return run.replace(",", "")
    if _GROUPED_BY_POINTS.fullmatch(run):
        return run.replace(".", "").replace(",", ".")
    # 12,5 has no group of three digits, so its comma is a decimal one.
    return run.replace(",", ".") if re.fullmatch(r"[0-9]+(?:[.,][0-9]+)?", run) else None


def _fraction(match: re.Match[str]) -> str:
    """3/4, after a space if a digit precedes it: 1\frac{1}{2} is 1 1/2. A minus in it comes first."""
    top, bottom = (next(filter(None, side)) for side in (match.groups()[::2], match.groups()[1::2]))
    joined = match.start() > 0 and match.string[match.start() - 1].isdigit()
    sign = "-" if top.startswith("-") != bottom.startswith("-") else ""
    return f"{' ' if joined else ''}{sign}{top.removeprefix('-')}/{bottom.removeprefix('-')}"


def _vulgar_fraction(match: re.Match[str]) -> str:
    """1/2 in place of a character, after a space if a digit precedes it."""
    digit, character = match.groups()
    space = " " if digit or match[0].startswith(" ") else ""
    return f"{digit}{space}{unicodedata.normalize('NFKC', character)}"


def _without_multiples(text: str) -> str:
    """The text with 1.5 million as 1500000 and $5k as $5000: the word is a part of the number."""
    for pattern in (_IN_WORDS, _OF_MONEY):
        text = pattern.sub(lambda m: f"{m[1]}{Decimal(m[2]) * _MULTIPLES[m[3].lower()]:f}", text)
    return _IN_CHARACTERS.sub(_sum_of_multiples, text)


def _sum_of_multiples(match: re.Match[str]) -> str:
    parts = re.findall(rf"({_FACTOR})([{''.join(_CHARACTERS)}])", match[1])
    last = _CHARACTERS[parts[-1][1]] // 10 if len(match[2]) == 1 else 1  # as in 4\u4e075, which is 45000
    return f"{sum(Decimal(factor) * _CHARACTERS[unit] for factor, unit in parts) + int(match[2] or 0) * last:f}"


def _without_powers(text: str) -> str:
    text = re.sub("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b]+", lambda m: f"^{m[0].translate(_SUPERSCRIPTS)}", text)
    text = re.sub(r"(?<=\d)\s?\*\*\s?(?=-?\d{1,4}(?![\d*]))", "^", text)
    # The exponent of a unit, as in cm^2 or m2, is no number of the answer.
    text = re.sub(r"(?<=[A-Za-z}])\s?\^\s?(?:\{\s*-?\d+\s*\}|-?\d+)", "", text)
    text = re.sub(r"(?<![A-Za-z])([cdkm]?m|ft|in)[23]\b", r"\1", text)
    power = rf"10\s?\^\s?\{{?\s?(-?\d{{1,{_MOST_EXPONENT_DIGITS}}})\s?\}}?"
    text = re.sub(rf"(\d)\s?(?:\*|\u00d7|x|X|\\times|\\cdot|\u00b7)\s?{power}", r"\1e\2", text)
    text = re.sub(rf"(?<![\d.,]){power}", r"1e\1", text)
    return re.sub(
        r"(?<![\d.,])(\d{1,6})\s?\^\s?\{?\s?(\d{1,2})\s?\}?(?!\d)", lambda m: str(int(m[1]) ** int(m[2])), text
    )
