"""Parsers: convert the text of a response to a value.

Parsers do not judge answers. Every factory returns a `Parser` that returns a value or raises `Unparsable` for any text;
a user's function that fails raises `ScorerError`.
"""

from __future__ import annotations

import inspect
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from agentopt.core.json_text import json_values
from agentopt.core.registry import parser
from agentopt.core.task import Parser, Unparsable, Value
from agentopt.core.user_functions import name_of, reporting
from agentopt.workflow.answer_text import bare_answer, content_lines
from agentopt.workflow.final_answer import final_answer, last_box, single_number, stated_answers, without_denied
from agentopt.workflow.json_schema import bounded
from agentopt.workflow.number_text import numbers_in, plain, without_remarks

if TYPE_CHECKING:
    from jsonschema.protocols import Validator


@dataclass(frozen=True, slots=True)
class FrontParser:
    """A parser that may find its value before the end of a response.

    Attributes:
        parse: The parser.
        is_settled: Whether a response has the same value whatever text follows it, so that a cut does no harm.
    """

    parse: Parser
    is_settled: Callable[[str], bool]

    def __call__(self, response: str) -> Value:
        return self.parse(response)


@parser("text", sample="text")
def text(*, first_line: bool = False, bare: bool = False) -> Parser:
    """The response without surrounding white space.

    Args:
        first_line: Only its first line that is neither blank nor the start of a fenced block.
        bare: Without what is written around an answer: a label (`Answer: Kell`), the marker of a list's first item
            (`1. Kell`), quotation marks and emphasis, a JSON object around one value (`{"answer": "Kell"}`).
    """
    if not first_line and not bare:
        return whole_text

    def parse(response: str) -> str:
        whole_text(response)
        line = bare_answer(response, first_line=first_line) if bare else next(iter(content_lines(response)), "")
        if not line:
            raise Unparsable(f"expected an answer, got {shown(response)}")
        return line

    def is_settled(response: str) -> bool:
        complete = "\n".join(f"{response}.".splitlines()[:-1])
        if bare and (not first_line or complete.lstrip("`~ \n").startswith(("{", "[", "json"))):
            return False
        with suppress(Unparsable):
            return bool(parse(complete))
        return False

    return FrontParser(parse, is_settled)


def whole_text(response: str) -> str:
    """Return the response without surrounding white space. Raises `Unparsable` if it is empty."""
    stripped = response.strip()
    if not stripped:
        raise Unparsable("expected a string, got an empty response")
    return stripped


@parser("number", sample=1)
def number(decimal: Literal[".", ","] = ".", *, single: bool = False) -> Parser:
    r"""The last number in the response, or in its last \boxed{...}.

    An int if it is whole, else a float; never nan or infinite. Reads 1,234.5, 1 000, 1_000, 9{,}500, -3, .5, 1e-3,
    10^6, 2**10, $12.50, $5k, 1.5 million, 3/4, 1 1/2, 1½, \frac{3}{4} and the digits of any script. A remark in
    brackets after a number, as in 9 (12 less 3), is ignored.
    Units and percent signs are dropped (45% is 45, 5 cm^2 is 5); a hyphen between two numbers is a dash, not a sign
    (10-20 is 20), and so is one followed by a space at the start of a line (a list). Of a list or a date, such as 1,2,3
    or 1/2/2020, the last part is read. A run of digits and separators that is no number, such as 12,345,67 or 1.2.3, is
    skipped.

    Args:
        decimal: The decimal separator of a number that can be read in two ways: 1,234 is 1234, or 1.234 with `,`.
            Whatever the setting, 12,5 and 12.5 are 12.5, and 1.234,5 and 1,234.5 are 1234.5.
        single: Read the final answer (the last box, else what follows `####` or `The answer is`, else the last line),
            and refuse one that is several numbers (`9-12`, `12, 13`, `3 or 4`) or a term (`2x`). Of 12 = 3*4 it is 12;
            a denied number is skipped (`not 5 but 6`).
    """

    def parse(response: str) -> int | float:
        if single:
            return _single(response, decimal)
        box = last_box(response)
        read = box if box is not None and numbers_in(box, decimal) else without_remarks(response)
        found = [number.value for number in numbers_in(read, decimal)]
        if not found:
            raise Unparsable(f"expected a number, got {shown(response)}")
        return found[-1]

    return parse


def _single(response: str, decimal: str) -> int | float:
    """The final answer, if it is one number."""
    found = single_number(final_answer(without_denied(response)), decimal)
    if found is None:
        raise Unparsable(f"expected a number, got {shown(response)}")
    return found.value


@parser("choice", values="options")
def choice(options: Sequence[str], *, final: bool = False) -> Parser:
    """One of `options`, as written there: the whole response, or else the option that occurs first in it.

    An option occurs as a whole word, in any case; an option of one letter must match in case, so that the article
    `a` is not the answer A. Scripts without spaces between words, such as Chinese, do not continue a word. Of a
    checklist only the checked lines count, and text that is struck out does not. If several options start at the same
    place, the longest is taken.

    Args:
        options: The options.
        final: Read the final answer first (the last box, else what follows the last `####`, `Answer:` or
            `The answer is`), for responses that reason about the options before they answer.

    Raises:
        ValueError: If options are empty, or differ in case only.
    """
    by_folded = {_folded(option): option for option in options}
    if not options or "" in by_folded or len(by_folded) != len(options):
        raise ValueError(f"options must be given, not blank and different, but got {list(options)}")
    longest_first = sorted(options, key=lambda option: (_starts_unspaced(option), -len(option)))
    pattern = re.compile("|".join(_starting_alike(alike) for _, alike in groupby(longest_first, _starts_unspaced)))

    def parse(response: str) -> str:
        for text in (*(stated_answers(response) if final else ()), response):
            if exact := by_folded.get(_folded(text)):
                return exact
            found = pattern.search(_chosen(_normal(text)))
            if found and found.lastindex:
                return longest_first[found.lastindex - 1]
        raise Unparsable(f"expected one of {_few(options)}, got {shown(response)}")

    def is_settled(response: str) -> bool:
        if re.search(f"{_CHECKED}|{_UNCHECKED}|~~", response):  # a later line may be checked, or this one struck out
            return False
        try:  # the last word may be cut, or continue an option
            return parse(re.sub(r"\S+$", "", response)) == parse(response)
        except Unparsable:
            return False

    return parse if final else FrontParser(parse, is_settled)


FEW_OPTIONS = 6
"""Options that a message lists; of more, one fewer and their number, so that what was got is seen."""


def _few(options: Sequence[str]) -> str:
    if len(options) <= FEW_OPTIONS:
        return ", ".join(options)
    return f"{', '.join(options[: FEW_OPTIONS - 1])}, ... ({len(options)} options)"


_AROUND = "\"'`*.,;:!?()_~#>\u3002\uff0c\uff1a\uff01\uff1f\u300c\u300d\u201c\u201d"
"""Punctuation and markdown around an answer."""
_NEGATIONS = "\u4e0d\u975e\u6ca1\u6c92\u65e0\u7121\u672a"
_NO_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3100-\u318f\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Scripts that put no space between words, or attach particles to them, as character ranges."""
_CONTINUES = rf"[^\W_{_NO_SPACES}]"
"""A character that continues a word."""


_CHECKED = r"(?:\[[xX\u2713\u2714]\]|[\u2611\u2612])"
_UNCHECKED = r"(?:\[ \]|\u2610)"
_LABELS = re.compile(
    "(?:\u7b54\u6848|\u56de\u7b54|\u7d50\u8ad6|\u7ed3\u8bba)(?:\u662f|\u4e3a|\u70ba)|(?:\u7b54\u3048|\u6b63\u89e3|\u56de\u7b54|\u89e3\u7b54)\u306f"
)
"""Words for `the answer is` that end in a character with which an option may begin."""


def _normal(text: str) -> str:
    """The text with the plain form of letters such as those in circles and of digits of any script."""
    return text if text.isascii() else unicodedata.normalize("NFKC", plain(text))


def _folded(option: str) -> str:
    stripped = option.strip()
    return " ".join(stripped.strip(_AROUND).casefold().split()) or stripped.casefold()


def _chosen(response: str) -> str:
    """The response without what is struck out; of a checklist the checked lines only."""
    kept = re.sub(r"~~[^~\n]+~~", " ", response)
    boxes = re.findall(rf"^[ \t]*(?:[-*+][ \t]+)?((?:{_CHECKED}|{_UNCHECKED}).*)$", kept, re.MULTILINE)
    checked = [text for line in boxes for text in re.findall(rf"{_CHECKED}(.*?)(?={_CHECKED}|{_UNCHECKED}|$)", line)]
    return "\n".join(checked) or _LABELS.sub(" ", kept)


def _starts_unspaced(option: str) -> bool:
    return re.match(f"[{_NO_SPACES}]", _normal(option.strip())) is not None


def _starting_alike(options: Iterable[str]) -> str:
    """A pattern with a group for each option, which is tried only at a place at which one of them may start."""
    alike = [(option, _normal(option.strip())) for option in options]
    before = f"(?<![{_NEGATIONS}])" if _starts_unspaced(alike[0][0]) else f"(?<!{_CONTINUES})"
    starts = "".join(sorted({re.escape(written[:1]) for _, written in alike}))
    ahead = f"(?i:(?=[{starts}]))" if all(written for _, written in alike) else ""
    return f"{before}{ahead}(?:{'|'.join(f'({_option_pattern(option)})' for option, _ in alike)})"


def _option_pattern(option: str) -> str:
    words = r"\s+".join(re.escape(word) for word in _normal(option).split())
    flags = "" if len(option.strip()) == 1 else "i"
    after = "" if re.search(f"[{_NO_SPACES}]$", words) else f"(?!{_CONTINUES})"
    if words[-1:].isdigit():
        after += r"(?![.,]\d)"  # 1 is not the 1.5 of a response
    return f"(?{flags}:{words}){after}"


@parser("ids", sample=["1"])
def ids(max: int | None = None) -> Parser:  # noqa: A002 - the key of the task file
    """The whole numbers in the response as texts, in order, each once; the first `max` of them.

    Reads "3, 7", "[3, 7]", "Sentence 3 and 7" and "S3" (letters before a number are dropped, leading zeros too). The
    markers of a numbered list ("1. Sentence 3") are no ids. Of a line that quotes what it names ("[3] Ada was born in
    1950", "- 3: ...") only the leading number is one.
    "[]" and "none" are the empty list; any other response without a number is unparsable.

    Raises:
        ValueError: If `max` is below 1.
    """
    if max is not None and max < 1:
        raise ValueError(f"max must be at least 1, but got {max}")

    def parse(response: str) -> list[str]:
        found = [digits.lstrip("0") or "0" for digits in re.findall("[0-9]+", _references(plain(response)))]
        if not found and _folded(response) not in {"[]", "none"}:
            raise Unparsable(f"expected a list of numbers, got {shown(response)}")
        return list(dict.fromkeys(found))[:max]

    return parse


_LIST_MARKER = re.compile(
    r"^[ \t]*[*_]{0,2}([0-9]+)[.):][*_]{0,2}[ \t]+(?=(?:[^\s0-9]+[ \t]+){0,2}[^\s0-9]*[0-9])", re.MULTILINE
)
_QUOTING = re.compile(
    r"""
    ^\W*(?:[^\W\d_]+\s*)?                                         # a bullet, and a word such as Sentence
    (?:\W?\[([0-9]+)\]|\W?([0-9]+)[*_]*(?:[.):]|[ \t][\u2013-]))  # [3], 3., 3:, 3 -
    [:*_]*[ \t]+(?=(?:[^\s\d]+[ \t]+){2,}\S)                       # and some words
    """,
    re.VERBOSE,
)


def _references(response: str) -> str:
    """The response without the markers of a numbered list, and without what its lines quote."""
    numbers = [int(number) for number in _LIST_MARKER.findall(response[:20_000])]
    if numbers and numbers == list(range(1, len(numbers) + 1)):
        response = _LIST_MARKER.sub("", response)
    lines = response.splitlines()
    quoting = [_QUOTING.match(line) for line in lines]
    return "\n".join((found[1] or found[2]) if found else line for found, line in zip(quoting, lines, strict=True))


@parser("json", schema="schema")
def json_value(schema: dict[str, Any]) -> Parser:
    """The first JSON value in the response that follows `schema` (JSON Schema, by default of 2020-12).

    Tries the whole response, then the text between ``` fences, then each object or array in the prose. A null is
    unparsable, even if the schema allows it.

    Raises:
        ValueError: If the schema is invalid, or refers to another document.
    """
    validator = _validator(schema)

    def parse(response: str) -> Value:
        problem = "no JSON value found"
        for value in json_values(response):
            try:
                error = next(iter(validator.iter_errors(value)), None)
            except (RecursionError, OverflowError):  # too deep, or a number too large for the schema's arithmetic
                continue
            if error is None and value is not None:
                return value
            if error is None:
                problem = "null is not an answer"
                continue
            place = "".join(f"[{part!r}]" for part in error.absolute_path)
            problem = f"{place} {error.message}".strip()
        raise Unparsable(f"expected JSON by the schema, got {shown(response)}: {problem[:200]}")

    return parse


def _validator(schema: dict[str, Any]) -> Validator:
    import jsonschema  # imported late: it takes a tenth of a second, and few tasks need it
    import referencing.exceptions
    import referencing.jsonschema

    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"not a JSON schema: {error.message}") from error
    resource = referencing.jsonschema.DRAFT202012.create_resource(schema)
    # An empty registry: parsing a response never fetches anything from the network.
    resolver = referencing.Registry[Any]().with_resource("", resource).resolver()
    for reference in _schema_references(schema):
        try:
            resolver.lookup(reference)
        except referencing.exceptions.Unresolvable as error:
            raise ValueError(f"the JSON schema has no `{reference}` in it") from error
    return bounded(kind)(schema, registry=referencing.Registry())


def _schema_references(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"]
        for part in schema.values():
            yield from _schema_references(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _schema_references(part)


@parser("python", schema="schema")
def python(function: Callable[[str], Value], schema: dict[str, Any] | None = None) -> Parser:
    """A user's function. None means unparsable; any exception other than `Unparsable` becomes `ScorerError`.

    Args:
        function: Converts a response to a value.
        schema: JSON Schema that is sent to endpoints that can enforce one; what is read is up to the function.

    Raises:
        ValueError: The function is async.
    """
    if inspect.iscoroutinefunction(function):
        raise ValueError(f"the parser must be a plain function, but {name_of(function)} is async")

    def parse(response: str) -> Value:
        with reporting(f"the parser `{name_of(function)}` failed on {shown(response)}"):
            value = function(response)
        if value is None:
            raise Unparsable(f"`{name_of(function)}` returned None for {shown(response)}")
        return value

    return parse


def shown(value: object, most: int = 80) -> str:
    """Return the `repr` of a value, cut to `most` characters, for messages."""
    written = repr(value)
    return written if len(written) <= most else f"{written[: most - 3]}..."
