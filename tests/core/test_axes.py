"""Settings that a search may vary: one form of each value, axes with a type, and what a subtask takes from them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentopt.core.axes import Axis, as_axes
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.errors import CandidateError, TaskError
from agentopt.core.task import Subtask


def test_a_choice_without_settings_has_the_data_and_the_key_of_before() -> None:
    plain = Candidate.of({"find": SubtaskChoice("small", 2, "Be brief."), "answer": SubtaskChoice("large")})
    assert plain.to_dict()["find"] == {"model": "small", "num_samples": 2, "system_prompt": "Be brief."}
    assert plain.key == "79dc625e25c0"
    assert str(plain) == "find: small x2, answer: large x1"
    assert plain.having("find", settings={"temperature": 1}).having("find", settings=()) == plain


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.7}, {"max_tokens": 64, "knobs.deep": True}, {"effort": "low", "knobs.x": 1.5}]
)
def test_settings_survive_json_and_are_shown_as_a_mapping(settings: dict[str, Any]) -> None:
    candidate = Candidate.of({"find": SubtaskChoice("small", 2, settings=settings)})  # type: ignore[arg-type]
    assert Candidate.from_dict(json.loads(json.dumps(candidate.to_dict()))) == candidate
    assert candidate.to_dict()["find"]["settings"] == settings
    assert hash(candidate) == hash(candidate.having("find", settings=dict(reversed(settings.items()))))
    assert str(candidate) == "find: small x2 " + " ".join(f"{n}={v}" for n, v in sorted(settings.items()))


def test_equal_settings_have_one_key() -> None:
    one, same = (Candidate.of({"find": SubtaskChoice("m", settings={"x": v})}) for v in (0, 0.0))  # type: ignore[arg-type]
    assert one == same
    assert one.key == same.key


@pytest.mark.parametrize("settings", [3, "ab", [1], {"x": [1]}, {"x": None}, {"x": float("nan")}, {1: 2}])
def test_settings_of_another_form_are_refused(settings: Any) -> None:
    with pytest.raises(CandidateError, match="`settings` must map names to strings, numbers or truth values"):
        SubtaskChoice("m", settings=settings)
    with pytest.raises(CandidateError, match="`settings` must map names"):
        Candidate.from_dict({"find": {"model": "m", "settings": settings}})


@pytest.mark.parametrize(
    ("name", "values", "problem"),
    [
        ("temperature", (0, 3), "numbers from 0 to 2, but got 3"),
        ("temperature", (0, True), "numbers from 0 to 2, but got True"),
        ("max_tokens", (64, 0), "whole numbers from 1 to 10,000,000, but got 0"),
        ("max_tokens", (64, 64.0), "none twice"),
        ("effort", ("low", ""), "levels such as low"),
        ("effort", (), "at least one value"),
        ("temprature", (0, 1), "a setting must be one of"),
        ("knobs.two words", (0, 1), "a setting must be one of"),
        ("knobs.x", (0, None), "strings, numbers or truth values, but got None"),
        ("knobs.x", "abc", "must be a tuple or a list"),
    ],
)
def test_values_that_do_not_fit_are_refused_with_the_subtask(name: str, values: Any, problem: str) -> None:
    with pytest.raises(TaskError, match=problem) as caught:
        Subtask("find", lambda inputs, outputs: "?", ("m",), settings={name: values})  # type: ignore[arg-type]
    assert caught.value.where == "subtask find"
    assert caught.value.remedy


def test_a_subtask_has_the_first_value_of_each_setting() -> None:
    settings = {"temperature": (0, 0.7), "max_tokens": (256, 64), "effort": ("low", "high"), "knobs.passages": (5, 3)}
    subtask = Subtask("find", lambda inputs, outputs: "?", ("m",), settings=settings, knobs={"style": "brief"})  # type: ignore[arg-type]
    assert (subtask.temperature, subtask.max_tokens, subtask.effort) == (0.0, 256, "low")
    assert isinstance(subtask.temperature, float)
    assert subtask.knobs == {"style": "brief", "passages": 5}
    assert [axis.kind for axis in subtask.settings] == ["numeric", "numeric", "ordinal", "numeric"]
    assert as_axes({"knobs.style": ("a", "b")}) == (Axis("knobs.style", ("a", "b"), "categorical"),)


def test_a_numeric_axis_is_ordered_by_size_and_others_as_given() -> None:
    assert Axis("temperature", (0.7, 0, 1), "numeric").ordered == (0, 0.7, 1)
    assert Axis("effort", ("low", "high"), "ordinal").ordered == ("low", "high")
    with pytest.raises(TaskError, match="is numeric, but got"):
        Axis("knobs.x", ("a", 1), "numeric")
