r"""Finds the final answer of a worked solution, and reads it as one number.

A list (`12, 13`), a range (`9-12`), alternatives (`3 or 4`) and a term with a variable (`2x`) are no number: reading a
part of them would score an answer that was not given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agentopt.core.task import Unparsable
from agentopt.workflow.number_text import FoundNumber, join_digits, numbers_in, plain_numbers, without_remarks

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)")
_PHRASE = re.compile(r"\banswer\b[*_`]*\s*(?:is|:|=|\uff1a)[*_`]*:?", re.IGNORECASE)
_STATED = re.compile(
    rf"####|{_PHRASE.pattern}|(?:\u7b54\u6848|\u56de\u7b54|\u7ed3\u8bba|\u7d50\u8ad6|\u7b54\u3048|\u6b63\u89e3)"
    r"[*_]*\s*[\u662f\u4e3a\u70ba\u306f:\uff1a=]",
    re.IGNORECASE,
)
"""`####`, and words for `the answer is` in English, Chinese and Japanese."""
_SENTENCE_END = re.compile(r"[.!?](?=[*_`\"')]*(?:\s|$))|\n")
_REASON = re.compile(
    r"[,;:]?\s+(?:because|since|as|so|which|where|given|that is|namely|after|when|if)\b", re.IGNORECASE
)
_EQUALS = re.compile(r"=|\u2248|\\approx|\\implies|\\Rightarrow|\u21d2|\u2192|->")
_JOINED = re.compile(
    r"\s*(?:[^\W\d_]+\s*|[%\u00b0$\u20ac\u00a3\u00a5]\s*){0,2}?(?:-|,|;|:|/|&|\+-|\u00b1|\b(?:or|and|to|oder|und|bis)\b)+"
    r"\s*(?:\b(?:or|and)\b)?\s*[$\u20ac\u00a3\u00a5]?\s*",
    re.IGNORECASE,
)
_LONGEST_GAP = 60
_VARIABLE = re.compile(r"\s?(?:[xyzXYZ](?![^\W_])|[abeinpqruvw](?![^\W_])(?=[^.\w]*$))")
_DENIED_NUMBER = r"[^\w\s]{0,4}(?:d?frac\{[^{}\n]*\}\{[^{}\n]*\}|\d+(?:[.,/]\d+)*)"
_DENIED = re.compile(
    rf"(?:(?<![^\W_])(?:can)?not|n['\u2019]t|\b(?:nicht|rather\s+than|instead\s+of))\s+(?:(?:be|equal|to)\s+){{0,3}}"
    rf"{_DENIED_NUMBER}(?:\s+n?or\s+{_DENIED_NUMBER})*",
    re.IGNORECASE,
)
_MARKUP = re.compile(
    r"\\[()\[\]]|\\[,;:! ]|\\q?quad|\\?[%$]|\^\s?\{?\s?\\(?:circ|degree)\s?\}?|\\(?:left|right)\b|[*_]{2}|[`~]"
)
_TAG = re.compile(r"</?[A-Za-z][\w-]*>")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|underline|num|SI)\s*\{([^{}]*)\}")
_CALCULATION = re.compile(r"(?:[\d.,\s()*+/^\u00d7\u00f7\u00b7xX-]|\\(?:times|cdot|div))*")
_WORD_BEFORE = re.compile(r"[^\W\d_]{2}[:*]*$")
"""A word, as before the number in `we have 12`; in `y - 12` the number is a part of a term."""
_OPERATOR = re.compile(
    r"\\|[\^*+!\u221a\u00d7\u00f7\u00b7\u03c0<>|]|\d\s*[xX]\s*\d|(?<![^\W\d_])/\s*[^\W\d]|\)\s*/|/\s*\("
)


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """The part of a response that states its answer.

    Attributes:
        text: The part.
        is_boxed: Whether it is the content of a box.
        is_marked: Whether the response marks it by a box, by `####` or by a phrase such as `The answer is`.
    """

    text: str
    is_boxed: bool = False
    is_marked: bool = True


def without_denied(text: str) -> str:
    """Remove the numbers that a text denies, as in `not 5 but 6`, `isn't 5` and `6 rather than 5`."""
    return _DENIED.sub(" ", text)


def final_answer(response: str) -> FinalAnswer:
    r"""Return the last `\boxed{...}` or what follows the last `####`, else the last `answer is`, else the last line.

    Only an answer with a digit or a fraction counts; a response without one is returned whole, as not marked.
    """
    box = last_box(response)
    place, mark, after = response.rpartition("####")
    line = after.strip().partition("\n")[0]
    if box is not None and (not _has_number(line) or not mark or response.rfind("\\boxed") > len(place)):
        return FinalAnswer(box, is_boxed=True)
    if mark and _has_number(line):
        return FinalAnswer(line)
    for phrase in reversed(list(_PHRASE.finditer(response))):
        rest = response[phrase.end() :].lstrip()
        rest = rest[: end.start()] if (end := _SENTENCE_END.search(rest)) else rest
        if _has_number(rest):
            return FinalAnswer(rest)
    lines = [line for line in response.splitlines() if _has_number(line)]
    return FinalAnswer(lines[-1] if lines else response, is_marked=False)


def stated_answers(response: str) -> Iterator[str]:
    """Yield the parts that may state the answer: the last box, then what follows `####` or `The answer is`, last first.

    Args:
        response: The response.
    """
    box = last_box(response)
    if box is not None:
        yield box
    for mark in reversed(list(_STATED.finditer(response))):
        rest = response[mark.end() :].lstrip()
        yield rest[: end.start()] if (end := _SENTENCE_END.search(rest)) else rest


def _has_number(text: str) -> bool:
    return any(character.isnumeric() for character in text)


def last_box(response: str) -> str | None:
    """Return the content of the last box that is not empty; braces inside it are balanced."""
    for box in reversed(list(_BOX.finditer(response))):
        depth, start = 0, box.end() + 1
        for place in range(box.end(), len(response)):
            depth += {"{": 1, "}": -1}.get(response[place], 0)
            if not depth:
                break
        else:
            place = len(response)
        if response[start:place].strip():
            return response[start:place]
    return None


def single_number(answer: FinalAnswer, decimal: str = ".") -> FoundNumber | None:
    """Read the answer as one number.

    Args:
        answer: The answer.
        decimal: The decimal separator, as in `plain_numbers`.

    Returns:
        The number; None if the answer is an expression to compute, or has no number.

    Raises:
        Unparsable: If it is a list, a range, alternatives, or a term with a variable.
    """
    text = _plain(answer, decimal)
    if _OPERATOR.search(text):
        return None
    found = numbers_in(text)
    if not found:
        return None
    text = plain_numbers(text)  # what the places of the numbers refer to
    number, neighbour = (found[0], found[1:2]) if answer.is_marked else (found[-1], found[-2:-1])
    if neighbour and _is_joined(text, *sorted((number, neighbour[0]), key=lambda one: one.start)):
        raise Unparsable(f"expected one number, got {answer.text.strip()[:80]!r}")
    if _VARIABLE.match(text[number.end :]):
        raise Unparsable(f"expected a number, got a term: {answer.text.strip()[:80]!r}")
    return number


def _plain(answer: FinalAnswer, decimal: str) -> str:
    """The answer without reasons, remarks, markup and the left sides of equations."""
    text = answer.text
    if answer.is_marked and (reason := _REASON.search(text)) and _has_number(text[: reason.start()]):
        text = text[: reason.start()]
    text = without_remarks(_TEXT.sub(r" \1 ", join_digits(_TAG.sub(" ", text))))
    sides = [_stripped(_MARKUP.sub("", plain_numbers(side, decimal))) for side in _EQUALS.split(text)]
    return _stated_side([side for side in sides if _has_number(side)])


def _stripped(side: str) -> str:
    """The text without punctuation around it and a plus before it; the point of .5 is no punctuation."""
    return re.sub(r"\A(?:[ ,;:]|\.(?!\d))*(?:\+\s?(?=[\d.]))?", "", side).rstrip(" .,;:")


def _stated_side(sides: Sequence[str]) -> str:
    """The last side of an equation; if it is a calculation, as in 12 = 3*4, the last number before it."""
    if sides and _CALCULATION.fullmatch(sides[-1]) and len(numbers_in(sides[-1])) > 1:
        return next(filter(_is_number, reversed(sides[:-1])), sides[-1])
    return sides[-1] if sides else ""


def _is_number(side: str) -> bool:
    found = numbers_in(side)
    if not found or found[-1].end != len(side) or _OPERATOR.search(side):
        return False
    before = side[: found[-1].start].rstrip()
    return not before or _WORD_BEFORE.search(before) is not None


def _is_joined(text: str, first: FoundNumber, second: FoundNumber) -> bool:
    gap = text[first.end : second.start]
    return first.exact != second.exact and len(gap) <= _LONGEST_GAP and _JOINED.fullmatch(gap) is not None
