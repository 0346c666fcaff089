"""Right answers in the forms that models write them, with and without a thought before them, are read as such."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agentopt.core.candidate import SubtaskChoice
from agentopt.core.task import Fusion, Parser, Subtask, Unparsable
from agentopt.models.base import Request
from agentopt.models.catalog import ModelSpec
from agentopt.models.scripted import ScriptedModel
from agentopt.workflow import parsers
from agentopt.workflow.parsers import FrontParser, choice
from agentopt.workflow.sampling import SubtaskSampler, request_for

THOUGHTS = [
    "",
    "<think>\nIs it 5, or Vard?\n</think>\n",
    "<think>5</think>",
    "<thinking>\n1. 5\n2. 6\n</thinking>\n\n",
    "[THINK]It may be 5.[/THINK]",
    "It may be \\boxed{5}.\n</think>\n",
]


def subtask(parse: Parser, **fields: Any) -> Subtask:
    made = Subtask("answer", lambda inputs, outputs: "?", ("m",), parse=parse, fusion=Fusion("vote"))
    return replace(made, **fields)


async def read(parse: Parser, response: str, **fields: Any) -> Any:
    """The value of a response through the sampler, which honours the stop sequences that are sent."""

    def respond(request: Request, repeat: int) -> str:
        ends = [place for stop in request.stop if (place := response.find(stop)) >= 0]
        return response[: min(ends, default=len(response))]

    model = ScriptedModel(respond)
    sampler = SubtaskSampler(model, {"m": ModelSpec(name="m", base_url="http://127.0.0.1:9/v1")})
    answer = await sampler.answer(subtask(parse, **fields), SubtaskChoice("m", 1, ""), "?", {})
    return answer.value


FIRST_LINE = parsers.text(first_line=True)


@pytest.mark.parametrize("thought", THOUGHTS)
@pytest.mark.parametrize("opening", ["", "\n", "\n\n", " \n", "```\n", "```text\n", "\n~~~\n", "  ```\n\n"])
async def test_a_stop_at_line_ends_leaves_the_first_line_whatever_precedes_it(opening: str, thought: str) -> None:
    for parse in (FIRST_LINE, parsers.text(first_line=True, bare=True), parsers.choice(["Kell", "Vard"])):
        assert await read(parse, f"{thought}{opening}Kell\nVard\n", stop=("\n",), max_tokens=50) == "Kell"


def test_other_stop_sequences_are_sent_and_line_ends_to_parsers_that_read_the_whole_response() -> None:
    choice = SubtaskChoice("m", 1, "")
    assert request_for(subtask(FIRST_LINE, stop=("\n", "\n\n", ";")), choice, "?").stop == (";",)
    assert request_for(subtask(parsers.text(), stop=("\n",)), choice, "?").stop == ("\n",)
    assert request_for(subtask(parsers.ids(), stop=("\n", ".")), choice, "?").stop == ("\n", ".")


BARE = [
    "Kell",
    "\nKell",
    "Answer: Kell",
    "answer: Kell",
    "**Answer:** Kell",
    "**Answer: Kell**",
    "# Answer: Kell",
    "Answer:\nKell",
    "Final answer: **Kell**",
    "Short answer: Kell",
    "The answer is Kell",
    "So, the final answer is: Kell",
    "1. Kell",
    "1. Kell\n2. Vard",
    "1) **Kell**",
    "- Kell",
    "\u2022 Kell",
    "\u201cKell\u201d",
    "\u2018Kell\u2019",
    "\u00abKell\u00bb",
    '"Kell".',
    "`Kell`",
    "*Kell*",
    "_Kell_",
    "__Kell__",
    "Answer: \u201cKell\u201d.",
    '1. "Kell"',
    '{"answer": "Kell"}',
    '{"answer": "Kell", "confidence": 0.9}',
    '{"Final_Answer": "Kell", "why": "it is"}',
    '{"person": {"name": "Kell"}}',
    '["Kell"]',
    '```json\n{"answer": "Kell"}\n```',
    '{\n  "answer": "Kell"\n}',
    "```\nKell\n```",
    "~~~\nKell\n~~~",
]


@pytest.mark.parametrize("response", BARE)
async def test_a_bare_answer_is_without_what_models_write_around_it(response: str) -> None:
    for thought in THOUGHTS:
        assert await read(parsers.text(first_line=True, bare=True), thought + response) == "Kell"


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("It\u2019s a \u201cmill\u201d", 'It\'s a "mill"'),
        ('"Kell" and "Vard"', '"Kell" and "Vard"'),
        ("Answers vary", "Answers vary"),
        ("A: Kell", "A: Kell"),
        ("3.5", "3.5"),
        ("1970", "1970"),
        ("7. Juli 1950", "7. Juli 1950"),
        ("-5", "-5"),
        ("[3] Kell", "[3] Kell"),
        ('{"a": 1, "b": 2}', '{"a": 1, "b": 2}'),
        ('["Kell", "Vard"]', '["Kell", "Vard"]'),
        ("{}", "{}"),
        ('{"answer": 12}', "12"),
        ("Answer", "Answer"),
        ("__init__", "__init__"),
        ("`__init__`", "__init__"),
        ("**__call__**", "__call__"),
        ("Answer: __class_getitem__", "__class_getitem__"),
        ('{"answer": "__all__"}', "__all__"),
        ("\u2014", "\u2014"),
    ],
)
def test_a_bare_answer_keeps_what_belongs_to_it(response: str, value: str) -> None:
    assert parsers.text(first_line=True, bare=True)(response) == value


def test_a_bare_text_may_have_several_lines() -> None:
    assert parsers.text(bare=True)("Answer:\n```\nKell\nVard\n```") == "Kell\nVard"


@pytest.mark.parametrize("response", ["```", "```\n```", "Answer:", "**Answer:**\n", '""', '{"answer": ""}'])
def test_a_response_with_nothing_but_its_frame_is_unparsable(response: str) -> None:
    with pytest.raises(Unparsable, match="expected an answer"):
        parsers.text(first_line=True, bare=True)(response)


BOTH = [
    "3, 7",
    "1. 3\n2. 7",
    "1) Sentence 3\n2) Sentence 7",
    "**1.** 3\n**2.** 7",
    "1. [3]\n2. [7]",
    "1: 3\n2: 7",
    "1. Sentence 3\n\n2. Sentence 7",
    "1. **Sentence 3**: Ada was born in 1950\n2. **Sentence 7**: Kell is 5 km away",
    "1. [3] Ada was born in 1950\n2. [7] Kell was born in 1960",
    "- 3\n- 7",
    "* [3]\n* [7]",
    "\u2022 3\n\u2022 7",
    "- 3: Ada was born in 1950\n- 7: The tower of 1900",
    "3\n7",
    "[3] Ada was born in 1950.\n[7] The tower has 12 floors.",
    "3. Ada was born in 1950.\n7. The tower has 12 floors.",
    "Needed are:\n- Sentence 3\n- Sentence 7",
    "```\n3\n7\n```",
    "3 is needed, 7 too",
    "3 and then also 7",
    '{"ids": [3, 7]}',
]


@pytest.mark.parametrize("response", BOTH)
async def test_no_list_loses_an_item_or_gains_one(response: str) -> None:
    for thought in THOUGHTS:
        assert await read(parsers.ids(), thought + response) == ["3", "7"]


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("9 (12 less 3)", 9),
        ("9 apples (12 less 3)", 9),
        (r"\frac{18}{2} (12 less 3)", 9),
        ("It is $9 (from 12 to 3).", 9),
        ("\u00bd", 0.5),
        ("1\u00bd", 1.5),
        ("1 \u00bd cups", 1.5),
        ("-2\u00bc", -2.25),
        ("\u2153", 1 / 3),
        ("1e3", 1000),
        ("2 1/2", 2.5),
        (r"\boxed{1\,234}", 1234),
        (r"first \boxed{7}, then \boxed{9}", 9),
        (r"\boxed{9} (12 less 3)", 9),
        (r"$\boxed{9}$, see step 3", 9),
        (r"\boxed{\frac{3}{4}} of 8", 0.75),
        ("f(3)", 3),
    ],
)
async def test_a_number_is_read_with_its_fraction_and_without_a_remark(response: str, value: float) -> None:
    for thought in THOUGHTS:
        assert await read(parsers.number(), thought + response) == value


SEVERAL = [
    "9-12",
    "9\u201312",
    "12, 13",
    "12 and 13",
    "3 or 4",
    "3 to 4",
    "3/4/5",
    "7 apples and 3 pears",
    "2x",
    "2 x",
    "5:30",
]


@pytest.mark.parametrize("written", SEVERAL)
@pytest.mark.parametrize("frame", ["{}", "The answer is {}.", r"\boxed{{{}}}", "#### {}", "so 8 at first.\nAnswer: {}"])
async def test_several_numbers_are_refused_if_one_is_wanted(written: str, frame: str) -> None:
    for thought in THOUGHTS[:2]:
        assert await read(parsers.number(single=True), thought + frame.format(written)) is None


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("9", 9),
        ("The answer is 9 (12 less 3).", 9),
        ("The answer is 9, because 12 - 3 = 9.", 9),
        ("12 - 3 = 9", 9),
        ("The answer is 2 1/2 cups.", 2.5),
        ("There are 12, so 3 leave.\n#### 9", 9),
        (r"\boxed{7} or rather \boxed{9}", 9),
        ("The answer is 12. Or rather, the answer is 9.", 9),
        ("Answer: 3m", 3),
        ("The 12 less the 3 that left are 9", 9),
        (r"x = 9", 9),
        (".5", 0.5),
        ("= .5", 0.5),
        ("+9", 9),
        ("9 km/h", 9),
        ("<answer>9</answer>", 9),
        (r"\boxed{\num{9}}", 9),
        (r"\boxed{\underline{9}}", 9),
        ("The answer is 9 million.", 9_000_000),
        ("2x = 18, so x = 9", 9),
        ("12 = 3*4", 12),
        ("So we have 12 = 3 * 4", 12),
        ("The answer is 12 = 3 \u00d7 4 = 6 + 6.", 12),
        (r"\boxed{12 = 3 \cdot 4}", 12),
        ("#### 12 = 15 - 3", 12),
        ("3*4 = 12", 12),
        ("The answer is not 5 but 6", 6),
        ("The answer is not 5, it is 6.", 6),
        ("The answer isn't 5 apples but 6 apples", 6),
        ("The answer is not **5** but **6**", 6),
        (r"The answer is not \frac{1}{2} but \frac{3}{4}", 0.75),
        ("The answer is not 5 or 7, but 6", 6),
        ("It is 6, not 5", 6),
        ("The answer is 6 rather than 5.", 6),
        ("It cannot be 5. The answer is 6.", 6),
        ("The answer is 6. The answer is not 5.", 6),
        ("Es sind nicht 5, sondern 6", 6),
        ("A knot 6", 6),
    ],
)
def test_one_number_is_read_from_the_final_answer(response: str, value: float) -> None:
    assert parsers.number(single=True)(response) == value


@pytest.mark.parametrize(
    "response",
    ["The answer is not 5", "The answer isn't 5.", "Not 5 or 6.", "x = 3*4", "y - 5 = 3*4", "2x = 3*4", "12 = 3x"],
)
def test_a_response_that_states_no_number_is_unparsable(response: str) -> None:
    with pytest.raises(Unparsable):
        parsers.number(single=True)(response)


def test_a_decimal_comma_holds_for_the_final_answer_too() -> None:
    assert parsers.number(",", single=True)("Die Antwort: 1.234,5") == 1234.5


@pytest.mark.parametrize(
    ("response", "option"),
    [
        ("A is wrong because it is late. Answer: B", "B"),
        ("A and C fail.\n\n**Answer:** B", "B"),
        ("A fails.\n**Answer: (B)**", "B"),
        ("A fails.\nAnswer:\n\nB", "B"),
        ("A fails, so the correct answer is **B**. C is close.", "B"),
        ("Option A? No.\n#### B", "B"),
        ("#### About A\nIt fails.\nFinal answer: B", "B"),
        (r"A fails. The answer is C, no: \boxed{\text{B}}", "B"),
        ("A \u4e0d\u5bf9\u3002\u7b54\u6848\u662fB\u3002", "B"),
        ("A \u4e0d\u5bf9\u3002\u7b54\u6848\uff1aB", "B"),
        ("A \u3067\u306f\u306a\u3044\u3002\u7b54\u3048\u306f B", "B"),
        ("Answer: A\nOn reflection A is wrong.\nAnswer: B", "B"),
        ("Answer: A. The answer is unclear.", "A"),
        (r"\boxed{42} Answer: B", "B"),
        ("B, not A", "B"),
        ("B", "B"),
    ],
)
def test_the_option_of_the_final_answer(response: str, option: str) -> None:
    parse = choice(["A", "B", "C"], final=True)
    assert parse(response) == option
    assert not isinstance(parse, FrontParser)


def test_without_final_the_first_option_counts() -> None:
    assert choice(["A", "B"])("A is wrong. Answer: B") == "A"
