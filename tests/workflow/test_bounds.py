"""Inputs whose parsing, checking or rendering took minutes or more: each is answered at once, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentopt.core.errors import TaskError
from agentopt.core.task import Unparsable
from agentopt.evaluation.checkers.programs import program
from agentopt.workflow import parsers
from agentopt.workflow.template_limits import MOST_STEPS
from agentopt.workflow.templates import compile_template

# Templates


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "100,000 rounds|RecursionError",
        ),
        ("{% for a in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}", "rounds|RecursionError"),
        ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}", "rounds"),
        ("{{ 'x' * 10000000000 }}", "10,000,000 characters"),
        ("{{ 9999999999 * [1] }}", "10,000,000 characters"),
        ("{{ 10 ** 999999999 }}", "10,000 bits"),
        ("{% set x = namespace(v=3) %}{% for a in range(99) %}{% set x.v = x.v * x.v %}{% endfor %}", "10,000 bits"),
    ],
)
def test_a_template_that_would_not_end_is_refused(text: str, problem: str) -> None:
    with pytest.raises(TaskError, match=problem) as refused:
        compile_template(text).render({}, {})
    assert len(str(refused.value)) < 300


def test_a_template_that_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(TaskError, match="cannot be compiled: ValueError"):
        compile_template("{{ " + "+".join([f"{'9' * 4200}"] * 2) + " * 1 + " + "9" * 4290 + "0" * 200 + " }}")


def test_steps_are_counted_for_each_rendering() -> None:
    rounds = MOST_STEPS * 2 // 3
    compiled = compile_template("{% for a in range(" + str(rounds) + ") %}{% endfor %}{{ 'ab' * 2 }} {{ 2 ** 10 }}")
    assert [compiled.render({}, {}) for _ in range(3)] == ["abab 1024"] * 3


# Parsers and checkers


@pytest.mark.parametrize(
    "text", ["`" * 3_000_000, "``` " * 700_000, "```" + "\t" * 3_000_000, "```a" * 700_000, "x```" * 700_000]
)
def test_a_response_of_fences_is_read_once(text: str) -> None:
    with pytest.raises(Unparsable, match="between"):
        program(text)


@pytest.mark.parametrize("filler", ["o", "option numbe ", "lorem ipsum "])
def test_a_choice_among_many_options_is_found_in_a_long_text(filler: str) -> None:
    parse = parsers.choice([f"option number {i}" for i in range(200)])
    assert parse(filler * (200_000 // len(filler)) + " option number 17") == "option number 17"


def test_options_that_start_differently_keep_their_order() -> None:
    parse = parsers.choice(["A", "a b", "不", "不好", "-x", "no"])
    texts = ["it is a b", "answer: A", "这是 不好", "not no", "-x"]
    assert [parse(text) for text in texts] == ["a b", "A", "不好", "no", "-x"]


def unique(*values: Any) -> Any:
    return parsers.json_value({"type": "array", "uniqueItems": True})(json.dumps(values))


def test_items_are_compared_once_each() -> None:
    assert len(unique(*({"a": i, "b": [i]} for i in range(50_000)))) == 50_000
    assert unique(1, True, "1", [1], {"a": 1}, {"a": True}, None, 1.5, 0, False) is not None


@pytest.mark.parametrize(
    "values", [(1, 1.0), ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}), ([1], [1.0]), (None, None), ("a", "a"), (0, 0.0)]
)
def test_equal_items_are_found(values: tuple[Any, ...]) -> None:
    with pytest.raises(Unparsable, match="non-unique"):
        unique(*values)


@pytest.mark.parametrize("pattern", ["^(a|a)*$", "^(a|aa)+$", "(.*)*x$", r"^(\w|a)+$", "^(?:a?){40}a{40}$"])
def test_a_pattern_that_takes_too_long_is_no_answer(pattern: str) -> None:
    parse = parsers.json_value({"type": "string", "pattern": pattern})
    with pytest.raises(Unparsable, match=r"the pattern|does not match"):
        parse(json.dumps("a" * 39 + "!"))


def test_a_pattern_is_searched_as_before() -> None:
    parse = parsers.json_value({"type": "string", "pattern": "^[a-z]+-[0-9]{2}$"})
    assert parse('"ab-12"') == "ab-12"
    with pytest.raises(Unparsable, match="does not match"):
        parse('"ab-1"')
