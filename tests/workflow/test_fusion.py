"""Fusion is a pure function of the values in the order they were drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.errors import ScorerError
from agentopt.core.task import Fusion
from agentopt.models.base import Message
from agentopt.workflow.fusion import FUSION_PROMPT, best_of, first, fuse_values, fusion_message, vote, vote_list

VALUES = st.lists(st.one_of(st.sampled_from(["a", "A ", "b", ""]), st.integers(0, 3), st.booleans()), min_size=1)
LISTS = st.lists(st.lists(st.sampled_from(["1", "2", "3", "4"]), max_size=5), min_size=1)


@pytest.mark.parametrize(
    ("values", "winner"),
    [
        (["b", "a", "a"], "a"),
        (["b", "a", "a", "b"], "b"),
        (["Kell.", "Vard", "kell", " KELL "], "Kell."),
        (["+", "-", "-"], "-"),
        ([3, 4, 3.0], 3),
        ([True, 1, 1], 1),
        (["3", 3, "3"], "3"),
        ([["1", "2"], ["2", "1"], ["1", "2"]], ["1", "2"]),
        ([{"a": 1, "b": 2}, {"c": 3}, {"b": 2, "a": 1}], {"a": 1, "b": 2}),
        ([{"x": {1, 2}}, {"y": 1}, {"y": 1}], {"y": 1}),
    ],
)
def test_the_most_frequent_value_wins_the_earliest_of_equals(values: list[Any], winner: Any) -> None:
    assert vote(values) == winner
    assert type(vote(values)) is type(winner)


@pytest.mark.parametrize(
    ("values", "winner"),
    [
        ([["3", "7"], ["3"], ["7", "3"]], ["3", "7"]),
        ([["3"], ["7", "9"], ["9"]], ["9"]),
        ([["1", "2"], ["2", "3"], ["3", "2"]], ["2", "3"]),
        ([["1"], ["2", "3"]], ["1"]),
        ([[], [], ["1"]], []),
        ([["1", "1", "2"], ["2"], ["2"]], ["2"]),
        ([["b", "a"], ["b", "a", "b"]], ["b", "a"]),
    ],
)
def test_vote_list_gives_the_commonest_length_of_the_most_frequent_items(
    values: list[list[str]], winner: list[str]
) -> None:
    assert vote_list(values) == winner


def test_vote_list_without_lists_names_the_needed_parser() -> None:
    with pytest.raises(ScorerError, match="vote_list needs lists to vote on, but got 'Kell'"):
        vote_list([["1"], "Kell"])


@given(VALUES, st.sampled_from(["first", "vote", "fuse"]))
def test_a_fused_value_is_one_of_the_values(values: list[Any], method: str) -> None:
    fused = fuse_values(Fusion(method), values, {})
    assert any(fused is value for value in values)


@given(VALUES)
def test_repeating_all_samples_changes_no_vote(values: list[Any]) -> None:
    assert vote(values) == vote(values * 3)


@given(VALUES, st.data())
def test_a_strict_majority_wins_in_any_order(values: list[Any], data: st.DataObject) -> None:
    ballots = data.draw(st.permutations([*values, *["zed"] * (len(values) + 1)]))
    assert vote(ballots) == "zed"


@given(LISTS)
def test_a_voted_list_has_distinct_items_that_were_named_and_a_length_that_was_given(values: list[list[str]]) -> None:
    fused = vote_list(values)
    assert len(fused) == len(set(fused))
    assert set(fused) <= {item for value in values for item in value}
    assert len(fused) in {len(set(value)) for value in values}


@given(st.lists(st.integers(), min_size=1))
def test_best_of_takes_the_highest_and_first_the_first(values: list[int]) -> None:
    assert best_of(values, {}, lambda _, value: value) == max(values)
    assert first(values) == values[0]


def test_best_of_judges_by_the_inputs_and_takes_the_earliest_of_equals() -> None:
    def length_fits(inputs: Mapping[str, Any], value: Any) -> float:
        return -float(abs(len(value) - inputs["length"]))

    fusion = Fusion("best_of", judge=length_fits)
    assert fuse_values(fusion, ["a", "bbb", "ccc", "dddd"], {"length": 3}) == "bbb"


def test_a_judge_that_fails_or_gives_no_number_is_named() -> None:
    def broken(inputs: Mapping[str, Any], value: Any) -> float:
        return float(inputs["nothing"])

    with pytest.raises(ScorerError, match="judge `broken` of best_of failed: KeyError"):
        best_of(["a"], {}, broken)
    with pytest.raises(ScorerError, match="must return a number, but got nan"):
        best_of(["a"], {}, lambda _, __: float("nan"))


@pytest.mark.parametrize("method", ["first", "vote", "vote_list", "fuse", "best_of"])
def test_nothing_fuses_to_nothing(method: str) -> None:
    judge = (lambda _, __: 0.0) if method == "best_of" else None
    assert fuse_values(Fusion(method, judge=judge), [], {}) is None


def test_the_default_fusion_prompt_shows_the_question_and_every_answer_in_order() -> None:
    user = fusion_message(Fusion("fuse"), "Who is it?", [" Kell\n", "{{ Vard }}"])
    assert user.content.startswith("Who is it?\n\nHere are 2 proposed answers")
    assert "Answer 1: Kell\nAnswer 2: {{ Vard }}\n" in user.content
    assert "{{ question }}" in FUSION_PROMPT


def test_a_fusion_prompt_of_ones_own_reads_question_and_answers() -> None:
    fusion = Fusion("fuse", prompt="{{ question }}: {{ answers | join(' / ') }}")
    assert fusion_message(fusion, "Who?", ["a", "b"]) == Message("user", "Who?: a / b")
