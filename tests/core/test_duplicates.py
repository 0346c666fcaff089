"""Rows that repeat each other: groups, their scores, comparisons of evaluations, and near-duplicates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.comparison import compare, shared_scores
from agentopt.core.duplicates import (
    by_group,
    groups_of,
    independent,
    inputs_key,
    near_duplicates,
    shared_by_group,
)
from agentopt.core.records import Evaluation, ExampleResult, Score
from agentopt.core.stats import paired_difference, verdict
from agentopt.core.task import Example, Subtask, Task
from agentopt.runs.result import Comparison, Measured
from benchmarks.claims.worlds import right_or_wrong


def test_rows_with_equal_inputs_share_a_group_whatever_the_order_of_their_keys() -> None:
    rows = {"a": {"x": 1, "y": "b"}, "b": {"y": "b", "x": 1}, "c": {"x": 2, "y": "b"}}
    assert groups_of({row: [inputs_key(inputs)] for row, inputs in rows.items()}) == {"a": "a", "b": "a"}


def test_a_group_counts_once_in_a_mean_and_in_a_comparison() -> None:
    groups = {"a": "a", "b": "a", "c": "c"}
    assert by_group({"a": 1.0, "b": 0.0, "c": 1.0, "new": 0.0}, groups) == {"a": 0.5, "c": 1.0, "new": 0.0}
    one, other = shared_by_group({"a": 1.0, "b": 0.0}, {"a": 0.0, "c": 1.0}, groups)
    assert (one, other) == ({"a": 1.0}, {"a": 0.0})


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1), min_size=1, max_size=20))
def test_without_duplicates_grouping_changes_nothing(scores: dict[str, float]) -> None:
    assert by_group(scores, {row: row for row in scores}) == scores


def test_near_duplicates_across_splits_are_found_and_those_within_a_split_are_not() -> None:
    found = near_duplicates(
        {
            "train": {"t1": {"q": "How many apples?"}, "t2": {"q": "how  many APPLES"}},
            "test": {"s1": {"q": "How many apples!"}, "s2": {"q": "How many pears?"}},
        }
    )
    assert [(pair.split, pair.row, pair.other_split, pair.other_row) for pair in found] == [
        ("test", "s1", "train", "t1")
    ]


@pytest.mark.parametrize(
    ("a", "b"),
    [("5 - 3", "5 + 3"), ("3.5", "35"), ("x < y", "x > y"), ("a", "b"), ("50%", "50$"), ("12:30", "1230")],
)
def test_signs_that_change_a_question_are_no_near_duplicates(a: str, b: str) -> None:
    assert near_duplicates({"train": {"t": {"q": a}}, "test": {"s": {"q": b}}}) == []


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("What is 5 - 3?", "what is\n5 - 3"),
        ("\ufb01ne \u2018work\u2019", "Fine work"),
        ("STRASSE", "stra\u00dfe"),
        ("(a)", "a"),
    ],
)
def test_case_spacing_and_punctuation_make_no_difference(a: str, b: str) -> None:
    assert len(near_duplicates({"train": {"t": {"q": a}}, "test": {"s": {"q": b}}})) == 1


keys = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=2)


@given(st.dictionaries(st.sampled_from([f"r{i}" for i in range(9)]), keys))
def test_groups_are_the_rows_that_share_a_key_directly_or_through_others(rows: dict[str, list[str]]) -> None:
    groups = groups_of(rows)
    order = list(rows)
    for row, first in groups.items():
        assert groups[first] == first
        assert order.index(first) <= order.index(row)
    for row, of in rows.items():
        for other, of_other in rows.items():
            if row != other and set(of) & set(of_other):
                assert groups[row] == groups[other]
    for row in set(rows) - set(groups):
        assert all(other == row or not set(rows[row]) & set(rows[other]) for other in rows)
    assert independent(len(rows), groups) == len(rows) - len(groups) + len(set(groups.values()))


def test_a_chain_of_shared_keys_is_one_group() -> None:
    rows = {"a": ["1"], "b": ["2"], "c": ["3"], "d": ["1", "2"], "e": ["4"], "f": ["4", "4"]}
    assert groups_of(rows) == {"a": "a", "b": "a", "d": "a", "e": "e", "f": "e"}


def task_of(*examples: Example) -> Task:
    subtask = Subtask("say", lambda inputs, _: str(inputs), models=("m",))
    return Task("t", (subtask,), lambda example, output: Score(1.0), {"test": examples})


def test_a_task_groups_examples_by_inputs_and_by_their_group() -> None:
    task = task_of(
        Example("1", {"q": "x", "n": 1}),
        Example("2", {"q": "y"}),
        Example("3", {"n": 1, "q": "x"}),
        Example("4", {"q": "z"}, group="document"),
        Example("5", {"q": "w"}, group="document"),
    )
    assert task.groups == {"test": {"1": "1", "3": "1", "4": "4", "5": "4"}}


@pytest.mark.parametrize("blank", [None, "", " ", "\t\n"])
def test_examples_without_a_group_are_not_one_group(blank: str | None) -> None:
    task = task_of(*(Example(str(n), {"q": str(n)}, group=blank) for n in range(3)))
    assert task.groups == {"test": {}}


def evaluation(scores: dict[str, float | None], groups: dict[str, str]) -> Evaluation:
    results = tuple(
        ExampleResult(row, score, error="failed" if score is None else None, metrics={"m": score or 0.0})
        for row, score in scores.items()
    )
    return Evaluation("test", len(scores), results, "complete", groups=groups)


def test_an_evaluation_counts_a_group_once() -> None:
    found = evaluation({"a": 1.0, "b": 0.0, "c": 1.0, "d": None}, {"a": "a", "b": "a"})
    assert found.scores == {"a": 0.5, "c": 1.0}
    assert found.metrics == {"m": {"a": 0.5, "c": 1.0}}
    assert found.row_scores == {"a": 1.0, "b": 0.0, "c": 1.0}
    assert found.score == 0.75
    measured = Measured.of(found)
    assert measured
    assert (measured.score, measured.n, measured.planned) == (0.75, 2, 3)


def test_a_comparison_uses_the_rows_of_a_group_that_both_scored() -> None:
    groups = {"a": "a", "b": "a"}
    one, other = evaluation({"a": 1.0, "b": 0.0, "c": 1.0}, groups), evaluation({"a": 1.0, "b": None, "c": 0.0}, groups)
    assert shared_scores(one, other) == ({"a": 1.0, "c": 1.0}, {"a": 1.0, "c": 0.0})
    assert compare(one, evaluation({"x": 1.0}, {})) is None
    # A record of an earlier version has no groups; those of the other evaluation count.
    assert shared_scores(one, evaluation({"a": 1.0, "b": 1.0}, {})) == ({"a": 0.5}, {"a": 1.0})


def test_rows_repeated_under_new_ids_make_no_verdict() -> None:
    """200 rows made of 20 x 10, two candidates of equal chances: at most 5% of verdicts may be false."""
    task = task_of(*(Example(f"{i}", {"q": i // 10}) for i in range(200)))
    false, plain = 0, 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        difficulty = rng.standard_normal(20)
        a, b = (
            evaluation({f"{i}": float(s) for i, s in enumerate(np.repeat(scores, 10))}, dict(task.groups["test"]))
            for scores in (right_or_wrong(rng, 0.6, difficulty) for _ in range(2))
        )
        found = Comparison.of(a, b)
        assert found
        assert found.difference.n == 20
        false += found.verdict in ("superior", "inferior")
        plain += verdict(paired_difference(a.row_scores, b.row_scores)) != "not distinguishable"
    assert false / 400 <= 0.05 < 0.4 < plain / 400
