"""Finding JSON in a model's reply: strictly, and with what small models write repaired."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.json_text import LONGEST_REPAIRED, json_values, repaired_json_values

VALUE = {"candidates": [{"find": "qwen x3"}]}

BROKEN = {
    "trailing commas": '{"candidates": [{"find": "qwen x3",},],}',
    "single quotes": "{'candidates': [{'find': 'qwen x3'}]}",
    "no quotes around keys": '{candidates: [{find: "qwen x3"}]}',
    "typographic quotes": "{\u201ccandidates\u201d: [{\u201cfind\u201d: \u201cqwen x3\u201d}]}",
    "a missing comma": '{"candidates": [{"find": "qwen x3"} ]  "x": 1}',
    "missing closing brackets": '{"candidates": [{"find": "qwen x3"}',
    "a comment": '{"candidates": [ // the best\n {"find": "qwen x3"}]}',
    "an ellipsis": '{"candidates": [{"find": "qwen x3"}, ...]}',
    "prose around": 'Sure {I think} so [1]:\n{"candidates": [{"find": "qwen x3"},]}\nGood luck {well}.',
    "fences": 'Sure:\n```json\n{"candidates": [{"find": "qwen x3"},]}\n```\nIs that what you meant?',
    "fences left open": 'Sure:\n```json\n{"candidates": [{"find": "qwen x3"}\n]}',
    "cut off": '{"candidates": [{"find": "qwen x3"}, {"find": "qwen x1',
}


def of_candidates(values: Any) -> Any:
    """The first value that has candidates."""
    return next((v["candidates"] for v in values if isinstance(v, dict) and "candidates" in v), None)


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_what_small_models_write_in_place_of_json_is_repaired(text: str) -> None:
    assert of_candidates(repaired_json_values(text)) == VALUE["candidates"]


@pytest.mark.parametrize("name", [name for name in BROKEN if name != "fences left open"])
def test_scored_answers_are_never_repaired(name: str) -> None:
    assert of_candidates(json_values(BROKEN[name])) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'prompt': None, 'short': True}", {"prompt": None, "short": True}),
        ('{"prompt": "Answer "yes" or "no" only."}', {"prompt": 'Answer "yes" or "no" only.'}),
        ('{"prompt": "Be brief.\nBe exact."}', {"prompt": "Be brief.\nBe exact."}),
    ],
)
def test_literals_of_python_and_text_that_was_not_escaped_are_read(text: str, value: object) -> None:
    assert next(repaired_json_values(text)) == value


@pytest.mark.parametrize("text", ['{"prompt": "Be bri', '[{"a": 1}, {"b": 12', '[{"a": 1}, tru'])
def test_a_value_that_was_cut_off_is_dropped(text: str) -> None:
    found = list(repaired_json_values(text))
    assert not found or found[0] == [{"a": 1}]
    assert {"b": 12} not in found


@pytest.mark.parametrize(
    "text", ['{"a": [1, {"b": null}]}', '```json\n{"a": [1, {"b": null}]}\n```', 'x {"a": [1, {"b": null}]} y']
)
def test_json_is_not_altered_by_repairing(text: str) -> None:
    assert list(repaired_json_values(text)) == list(json_values(text))


def test_nan_and_infinite_numbers_are_not_json() -> None:
    assert list(json_values('{"a": NaN} {"a": 1e999} {"a": 1}')) == [{"a": 1}]


def test_a_reply_that_is_too_long_or_too_deep_is_left_as_it_is() -> None:
    assert list(repaired_json_values("{'a': 1}" + " " * LONGEST_REPAIRED + "}")) == []
    assert list(repaired_json_values("[" * 900 + "]")) == []


@given(st.text() | st.text(st.sampled_from("{}[]\"',:a1 \n`/*#\\")))
def test_no_reply_raises(text: str) -> None:
    list(repaired_json_values(text))
    list(json_values(text))
