"""Parsers read what they promise to read, and on any text at all either give a value or call it unparsable."""

from __future__ import annotations

import math
import re
from contextlib import suppress
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.errors import ScorerError
from agentopt.core.task import Parser, Unparsable
from agentopt.workflow import parsers

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("1,234.5", 1234.5),
        ("The total is 2,000,000.", 2_000_000),
        ("3, 7", 7),
        ("-3", -3),
        ("\u22123.5 degrees", -3.5),
        ("between 10-20", 20),
        ("10\u201320", 20),
        ("- 5", 5),
        ("-$5", -5),
        ("$-5", -5),
        ("it costs \u20ac12.50", 12.5),
        ("45%", 45),
        ("3/4", 0.75),
        ("-3/4", -0.75),
        ("1 1/2 cups", 1.5),
        ("3\u20444", 0.75),
        ("1/2/2020", 2020),
        ("first 7, then 1/0", 7),
        (".5", 0.5),
        ("1e-3", 0.001),
        ("5.", 5),
        ("\uff11\uff12", 12),
        ("3.0", 3),
        ("12345678901234567890", 12345678901234567890),
        (r"\boxed{$9{,}500}", 9500),
        (r"so $9{,}500 in all", 9500),
        (r"9\,500", 9500),
        (r"\frac{3}{4}", 0.75),
        *(
            (text, -0.75)
            for text in (r"\frac{-3}{4}", r"-\frac{3}{4}", r"\frac{3}{-4}", r"{-3 \over 4}", r"\frac{-3}4")
        ),
        *((text, 0.75) for text in (r"{3\over 4}", r"\frac3{4}", r"\frac{3}4", r"\tfrac34", r"\frac{-3}{-4}")),
        *(
            (text, 42)
            for text in ("\u0664\u0662", "\u06f4\u06f2", "\u096a\u0968", "\u09ea\u09e8", "\u0e54\u0e52", "\uff14\uff12")
        ),
        ("\u0661\u066c\u0662\u0663\u0664\u066b\u0665", 1234.5),
        *((text, 9500) for text in (r"9,\!500", r"9\!,500", r"9\ 500", r"9~500", r"9{,}500", "9'500")),
        *((text, 9.5) for text in ("9{.}5", "9{,}5")),
        *((text, 1024) for text in ("2**10", "2 ** 10", "2^{10}")),
        ("**5**", 5),
        *(
            (text, 1_500_000)
            for text in ("1.5 million", "$1.5M", "$ 1.5m", "\u00a31.5 mn", "1,500 thousand", "15 lakh")
        ),
        *((text, 45_000) for text in ("4\u4e075\u5343\u5186", "4\u4e075", "4\u4e075000", "4.5\u842c")),
        ("5 m", 5),
        ("7B", 7),
        ("Rs.500", 500),
        ("No.5", 5),
        *((text, -5) for text in ("minus 5", "The answer is negative 5.", "= minus $5", "\u22125", "$-5", "-$5")),
        ("ten minus 5", 5),
        ("10 minus 5", 5),
        (r"\dfrac34", 0.75),
        (r"1\frac{1}{2}", 1.5),
        (r"-\frac{1}{2}", -0.5),
        ("1,00", 1),
        ("12,50 \u20ac", 12.5),
        ("1,00,000", 100_000),
        ("12,5", 12.5),
        ("12,5 kg", 12.5),
        (r"\boxed{12,5}", 12.5),
        ("-0,5", -0.5),
        ("0,125", 0.125),
        ("1234,567", 1234.567),
        ("3,1416", 3.1416),
        ("1,5e3", 1500),
        ("1.234,5", 1234.5),
        ("1.234,56 \u20ac", 1234.56),
        ("1.234.567", 1_234_567),
        ("1 234,5", 1234.5),
        ("\uff11\uff12\uff0c\uff15", 12.5),
        ("1'234.5", 1234.5),
        ("1\u2019234\u2019567", 1_234_567),
        ("1,2,3", 3),
        ("1.5,2.5", 2.5),
        ("12,345", 12_345),
        ("version 1.2.3, so 4", 4),
        ("1_000", 1000),
        ("1 000", 1000),
        ("1\u202f234\u202f567.5", 1_234_567.5),
        ("10^6", 1_000_000),
        ("10\u2076", 1_000_000),
        (r"2.5 \times 10^{3}", 2500),
        ("3\u00d710^-2", 0.03),
        ("2^10", 1024),
        ("12 cm^2", 12),
        ("12 cm\u00b2", 12),
        ("5 m2", 5),
        ("45\\%", 45),
        ("25 km/h", 25),
        ("12,5/2", 6.25),
        ("1/2,5", 0.4),
        ("1.5/2", 0.75),
        ("1,000/4", 250),
        ("3/4/x", 0.75),
        (r"\frac{12,5}{2}", 6.25),
        ("10^6/4", 250_000),
        ("1,234 1/2", 1234.5),
        ("12\u066b5", 12.5),
        ("12\u066b345", 12.345),
        ("1\u066c234\u066b5", 1234.5),
        ("10,20,30", 30),
        ("8, then 12,345,67", 8),
        ("8, then 1.2.3", 8),
        ("8, then 1/2,3/4", 8),
    ],
)
def test_a_number_is_the_last_one_in_the_response(response: str, value: float) -> None:
    assert parsers.number()(response) == value


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("1.234,5", 1234.5),
        ("es sind 1.000.", 1000),
        ("0,5", 0.5),
        ("-3,25 \u20ac", -3.25),
        ("1 234,5", 1234.5),
        ("12.5", 12.5),
        ("1,234.5", 1234.5),
        ("1,234", 1.234),
        ("1.234.567", 1_234_567),
        ("0.5", 0.5),
        ("12\u066b345", 12.345),
        ("1.000,5/2", 500.25),
        ("1,2,3", 3),
        ("8 in version 1.2.3", 8),
    ],
)
def test_a_decimal_comma_is_read_by_setting(response: str, value: float) -> None:
    assert parsers.number(",")(response) == value


NO_NUMBER = ["", "No numbers", "nan", "-inf", "1/0", "1e999", "1e999/1e999", "9" * 5000]
IN_WORDS = ["twelve", "The answer is twenty-one.", r"\boxed{twelve}", "No one; the last one is right"]
PARTS_ONLY = ["12,345,67", "1.2.3", "192.168.0.1", "1,2345,678", "1/2,3/4", "1,5/2/3", "10^6,5", "1,234.5.6", "2e5.5"]


@pytest.mark.parametrize("response", [*NO_NUMBER, *IN_WORDS, *PARTS_ONLY])
def test_a_response_without_a_finite_number_is_unparsable(response: str) -> None:
    with pytest.raises(Unparsable, match="expected a number"):
        parsers.number()(response)


def test_a_whole_number_is_an_int_so_that_prompts_show_no_point_zero() -> None:
    assert isinstance(parsers.number()("3.0"), int)
    assert isinstance(parsers.number()("6/2"), int)


@given(st.integers(-(10**15), 10**15))
def test_a_number_written_with_thousands_separators_is_read_back(value: int) -> None:
    assert parsers.number()(f"It is {value:,}.") == value


def whole_values(run: str) -> set[float]:
    """Every value of a run of digits, commas, points and slashes that uses all its digits as one number."""
    if "/" in run:
        top, *bottoms = map(whole_values, run.split("/"))
        return {a / b for a in top for b in bottoms[0] if b} if len(bottoms) == 1 else set()
    written = (run.replace(",", ""), run.replace(".", "").replace(",", "."), run.replace(",", "."))
    return {float(text) for text in written if text.count(".") < 2}


DIGITS = st.text("0123456789", min_size=1, max_size=4)


@given(DIGITS, st.lists(st.tuples(st.sampled_from(",./"), DIGITS), min_size=1, max_size=3), st.sampled_from(".,"))
def test_a_part_of_a_number_is_never_read(first: str, more: list[tuple[str, str]], decimal: Literal[".", ","]) -> None:
    run = first + "".join(separator + digits for separator, digits in more)
    items = run.split(",")
    if len(items) > 1 and all(re.fullmatch(r"(?!\d{3}(\.|$))\d+(\.\d+)?", item) for item in items):
        allowed = whole_values(run) | whole_values(items[-1])
    elif run.count("/") > 1 and run.replace("/", "").isdecimal():
        allowed = {float(run.split("/")[-1])}
    else:
        allowed = whole_values(run)
    with suppress(Unparsable):
        assert parsers.number(decimal)(f"It is {run} m.") in allowed


def test_text_is_stripped_and_can_be_cut_to_its_first_line() -> None:
    assert parsers.text()("  Kell\nVard \n") == "Kell\nVard"
    assert parsers.text(first_line=True)("\n Kell \nVard") == "Kell"
    with pytest.raises(Unparsable, match="empty"):
        parsers.text()(" \n")


@pytest.mark.parametrize(
    ("options", "response", "value"),
    [
        (["yes", "no"], "Yes.", "yes"),
        (["yes", "no"], "**NO**", "no"),
        (["yes", "no"], "Yes, because there is no other way", "yes"),
        (["yes", "no"], "I know nothing, so no", "no"),
        (["not sure", "sure"], "I am not  sure", "not sure"),
        (["A", "B"], "It is a dog, so B", "B"),
        (["A", "B"], "a", "A"),
        (["C", "C++"], "I choose C++", "C++"),
        (["Zürich", "Genf"], "in ZÜRICH", "Zürich"),
        (["istanbul", "ankara"], "I say \u0130stanbul", "istanbul"),
        (["A", "B"], "\u7b54\u6848\u662fB\u3002", "B"),
        (["A", "B"], "\u9009B", "B"),
        (["A", "B"], "\uff22", "B"),
        (["A", "B"], "\u7b54\u3048\uff1a\uff22\u3067\u3059", "B"),
        (["A", "B"], "B\uc785\ub2c8\ub2e4", "B"),
        (["\u662f", "\u5426"], "\u7b54\u6848\uff1a\u662f", "\u662f"),
        (["\u662f", "\u5426"], "\u4e0d\u662f\uff0c\u5426", "\u5426"),
        (["\u0434\u0430", "\u043d\u0435\u0442"], "**\u041d\u0435\u0442**", "\u043d\u0435\u0442"),
        (["A", "B"], "_B_", "B"),
        (["A", "B"], "- [ ] A\n- [x] B", "B"),
        (["A", "B"], "~~A~~ B", "B"),
        (["yes", "no"], "> **No**", "no"),
        (["yes", "no"], "[ ] yes [x] no", "no"),
        (["yes", "no"], "\u2610 yes\n\u2611 no", "no"),
        (["yes", "no"], "- \u2612 yes \u2610 no", "yes"),
        (["yes", "no"], "yes, as in f [x] no", "yes"),
        (["A", "B"], "\u24b7", "B"),
        (["A", "B"], "\U0001d401", "B"),
        (["A", "B"], "\u0627\u0644\u0625\u062c\u0627\u0628\u0629 B", "B"),
        (["1", "2"], "\u2461", "2"),
        (["1", "2"], "\u0968", "2"),
        (["1", "2"], "1.5 is between, so 2", "2"),
        (["1", "2"], "2.", "2"),
        (["\u662f", "\u5426"], "\u7b54\u6848\u662f\uff1a\u5426", "\u5426"),
        (
            ["\u306f\u3044", "\u3044\u3044\u3048"],
            "\u7b54\u3048\u306f\u3044\u3044\u3048\u3067\u3059",
            "\u3044\u3044\u3048",
        ),
        (["\u0646\u0639\u0645", "\u0644\u0627"], "\u0627\u0644\u062c\u0648\u0627\u0628: \u0644\u0627", "\u0644\u0627"),
    ],
)
def test_a_choice_is_the_option_that_occurs_first_as_a_whole_word(
    options: list[str], response: str, value: str
) -> None:
    assert parsers.choice(options)(response) == value


FIRST_LINE, TOWN = parsers.text(first_line=True), parsers.choice(["Oakby", "Redfield", "Red"])


@pytest.mark.parametrize(
    ("parse", "response", "settled"),
    [
        (FIRST_LINE, "Paris\nIt is the capital of", True),
        (FIRST_LINE, "\n\nParis\n", True),
        (FIRST_LINE, "\n\nParis", False),
        (FIRST_LINE, "Paris is the ", False),
        (TOWN, "Kate lives in Oakby, which is a suburb of", True),
        (TOWN, "**Oakby** or Redfield", True),
        (TOWN, "Oakby", False),
        (TOWN, "Kate lives in Oakby", False),
        (TOWN, "Kate lives in Red", False),
        (TOWN, "In the context of your question, it can be", False),
        (TOWN, "- [ ] Oakby\n- [ ] Redfield\n-", False),
        (TOWN, "~~Oakby or", False),
    ],
)
def test_a_parser_that_has_its_value_before_a_cut_is_settled(parse: Any, response: str, settled: bool) -> None:
    assert parse.is_settled(response) is settled


@given(st.text("Oakby Redfil,.\n", max_size=40), st.text("Oakby Redfil,.\n", max_size=20))
def test_text_after_a_settled_response_does_not_change_its_value(response: str, more: str) -> None:
    for parse in (FIRST_LINE, TOWN):
        if parse.is_settled(response):  # type: ignore[attr-defined]
            assert parse(response + more) == parse(response)


def test_an_option_is_not_found_by_its_number_in_words() -> None:
    assert parsers.choice(["1", "12"])("twelve, so 1") == "1"
    with pytest.raises(Unparsable, match="expected one of 1, 12, got 'twelve'"):
        parsers.choice(["1", "12"])("twelve")


def test_a_response_without_any_option_is_unparsable_with_the_options_named() -> None:
    towns = [f"town {number}" for number in range(24)]
    with pytest.raises(Unparsable, match=r"expected one of town 0, .*, town 4, \.\.\. \(24 options\), got 'none'"):
        parsers.choice(towns)("none")
    with pytest.raises(Unparsable, match=f"expected one of {', '.join(towns[:6])}, got 'none'"):
        parsers.choice(towns[:6])("none")
    with pytest.raises(Unparsable, match="expected one of yes, no, got 'maybe'"):
        parsers.choice(["yes", "no"])("maybe")


@pytest.mark.parametrize("options", [[], ["yes", "Yes"], ["yes", " "]])
def test_options_that_cannot_be_distinguished_are_refused(options: list[str]) -> None:
    with pytest.raises(ValueError, match="options must be"):
        parsers.choice(options)


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("3, 7", ["3", "7"]),
        ("[3,7]", ["3", "7"]),
        ('["S3", "S07"]', ["3", "7"]),
        ("Sentence 3 and 7", ["3", "7"]),
        ("S3", ["3"]),
        ("7, 3, 7, 007", ["7", "3"]),
        ("0", ["0"]),
        ("[]", []),
        ("None.", []),
    ],
)
def test_ids_are_the_distinct_whole_numbers_in_order(response: str, value: list[str]) -> None:
    assert parsers.ids()(response) == value


def test_ids_keep_the_first_max_and_refuse_a_text_without_numbers() -> None:
    assert parsers.ids(2)("5 4 3 2") == ["5", "4"]
    with pytest.raises(Unparsable, match="list of numbers"):
        parsers.ids()("the second one")


@pytest.mark.parametrize(
    "response",
    [
        '{"city": "Kell"}',
        'Sure!\n```json\n{"city": "Kell"}\n```\nAnything else?',
        'First [1], then {"city": "Kell"}; not {"city": "Vard"}',
        '{"town": "Vard"} or rather {"city": "Kell"}',
        "[" * 5 + '{"city": "Kell"}',
    ],
)
def test_json_is_found_in_prose_and_fences_and_must_follow_the_schema(response: str) -> None:
    assert parsers.json_value(SCHEMA)(response) == {"city": "Kell"}


def test_a_number_too_large_for_the_schema_to_compute_with_is_unparsable() -> None:
    with pytest.raises(Unparsable):
        parsers.json_value({"type": "number", "multipleOf": 0.1})("1" + "0" * 400)


@pytest.mark.parametrize(
    ("response", "complaint"),
    [
        ("Kell", "no JSON value found"),
        ('{"city": 3}', "'city'. 3 is not of type 'string'"),
        ('{"city": "Kell"', "no JSON value found"),
        ("[" * 100_000, "no JSON value found"),
        ('{"city": NaN}', "no JSON value found"),
        ('{"city": 1e999}', "no JSON value found"),
    ],
)
def test_json_that_is_broken_or_breaks_the_schema_is_unparsable(response: str, complaint: str) -> None:
    with pytest.raises(Unparsable, match=complaint):
        parsers.json_value(SCHEMA)(response)


@pytest.mark.parametrize(
    "schema", [{"type": "strng"}, {"$ref": "#/$defs/no"}, {"items": [], "$ref": "http://127.0.0.1:9/s.json"}]
)
def test_an_invalid_schema_and_one_that_points_elsewhere_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="schema"):
        parsers.json_value(schema)


def test_a_schema_may_refer_to_itself() -> None:
    schema = {"$defs": {"n": {"type": "integer"}}, "type": "array", "items": {"$ref": "#/$defs/n"}}
    assert parsers.json_value(schema)("[1, 2]") == [1, 2]
    with pytest.raises(Unparsable):
        parsers.json_value(schema)('["a"]')


def test_a_users_function_may_refuse_by_raising_or_by_none_and_its_bug_is_named() -> None:
    def shout(response: str) -> str | None:
        if response == "bad":
            raise Unparsable("bad")
        return response.upper() if response else dict[str, str]()["x"]

    async def later(response: str) -> str:
        return response

    with pytest.raises(ValueError, match="must be a plain function, but later is async"):
        parsers.python(later)
    assert parsers.python(shout)("hi") == "HI"
    with pytest.raises(Unparsable, match="bad"):
        parsers.python(shout)("bad")
    with pytest.raises(ScorerError, match="parser `shout` failed on '': KeyError"):
        parsers.python(shout)("")
    with pytest.raises(Unparsable, match="returned None for"):
        parsers.python(lambda _: None)("hi")


ALL: list[Parser] = [
    parsers.text(),
    parsers.text(first_line=True),
    parsers.number(),
    parsers.choice(["yes", "no", "A", "not sure", "C++"]),
    parsers.ids(3),
    parsers.json_value(SCHEMA),
    parsers.json_value({}),
]
LIKELY = st.lists(
    st.sampled_from(
        [*'0123456789.,-/$%[]{}":e \n`\u2212\u00bd\uff13', "yes", "No", "A", "```json\n", "NaN", '{"city": "x"}']
    )
).map("".join)


@given(response=st.one_of(st.text(), LIKELY), parser=st.sampled_from(ALL))
def test_every_parser_gives_a_finite_value_or_unparsable_on_any_text(response: str, parser: Parser) -> None:
    try:
        value = parser(response)
    except Unparsable as refused:
        assert "expected" in str(refused)  # noqa: PT017 - both ways out are right
    else:
        assert value is not None
        assert not isinstance(value, float) or math.isfinite(value)


@given(st.lists(st.integers(0, 999)))
def test_ids_read_back_what_str_writes(values: list[int]) -> None:
    assert parsers.ids()(str(values)) == list(dict.fromkeys(map(str, values)))
