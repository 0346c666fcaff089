"""Access to columns by name and type, and the messages for missing ones."""

from __future__ import annotations

from typing import Any

import pytest

from agentopt.core.errors import TaskError
from agentopt.taskfile.columns import ColumnError, DatasetRow, at_least_one, column, items, number, text
from agentopt.taskfile.retrieval import graph_question, hotpot_question

ROW = {"answer": "40", "idx": 0, "facts": ["a"], "none": None, "right": True}


def test_a_column_is_found_under_any_of_its_public_names() -> None:
    assert text(ROW, "final_ans", "answer") == "40"
    assert items(ROW, "facts") == ["a"]
    assert (number(ROW, "idx"), number(ROW, "answer")) == (0, "40")
    assert column(ROW, "none") is None


@pytest.mark.parametrize(
    ("read", "name", "message"),
    [
        (text, "none", "the column 'none' must be a string, but is null"),
        (text, "facts", "the column 'facts' must be a string, but is [\"a\"]"),
        (items, "answer", "the column 'answer' must be a list, but is \"40\""),
        (number, "right", "the column 'right' must be a number or a string, but is true"),
        (text, "anser", "the row must have the column 'anser'; did you mean 'answer'?"),
    ],
)
def test_a_column_of_another_type_is_reported_with_its_value(read: Any, name: str, message: str) -> None:
    with pytest.raises(ColumnError) as raised:
        read(ROW, name)
    assert raised.value.args == (message,)


def test_a_reader_that_reads_a_missing_column_gets_an_error_that_it_may_catch() -> None:
    row = DatasetRow(ROW)
    assert (row["idx"], row.get("x"), "x" in row) == (0, None, False)
    with pytest.raises(ColumnError, match="the row must have the column 'anser'; did you mean 'answer'"):
        row["anser"]
    with pytest.raises(KeyError):
        row["anser"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?"}, "must have the column 'gt_triples' or 'graph'"),
        ({"question": "?", "graph": None}, "'graph' must be a list, but is null"),
        ({"question": "?", "answer": "x", "gt_triples": []}, "'answer' must be a list, but is \"x\""),
    ],
)
def test_a_question_over_a_graph_names_the_columns_of_both_forms(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ColumnError) as raised:
        graph_question(row)
    assert message in str(raised.value.args[0])


def test_a_question_over_paragraphs_without_them_is_reported() -> None:
    with pytest.raises(ColumnError, match="'context' must be a list, but is null"):
        hotpot_question({"question": "?", "context": None, "supporting_facts": []})


def test_a_number_below_one_is_refused_by_the_options_name() -> None:
    at_least_one("max_words", 1)
    with pytest.raises(TaskError, match="max_words must be at least 1, but got 0"):
        at_least_one("max_words", 0)
