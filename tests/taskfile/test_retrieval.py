"""Candidates of a question: needed ones are kept, distractors are added, and gold is found in each public format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.errors import TaskError
from agentopt.core.task import Example
from agentopt.taskfile.retrieval import (
    Question,
    graph_question,
    hotpot_question,
    retrieval_example,
    shortest_path_triples,
)

TEXTS = st.lists(st.text(min_size=1, max_size=3), max_size=20)


def chosen(question: Question, most: int = 5, seed: int = 0) -> Example:
    example = retrieval_example(question, called="passages", most=most, seed=seed)
    assert example
    return example


def needed(example: Example) -> list[str]:
    return [example.inputs["passages"][int(number) - 1] for number in example.metadata["gold"]]


@given(TEXTS, st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=4), st.integers(1, 12), st.integers(0, 9))
def test_gold_is_kept_distractors_are_added_and_nothing_is_repeated(
    candidates: list[str], gold: list[str], most: int, seed: int
) -> None:
    example = retrieval_example(Question("q?", ["a"], candidates, gold), called="passages", most=most, seed=seed)
    if len(set(gold)) > most:
        assert example is None
        return
    assert example
    passages = example.inputs["passages"]
    assert set(needed(example)) == set(gold)
    assert len(passages) == len(set(passages)) == min(most, len({*candidates, *gold}))
    assert set(passages) <= {*candidates, *gold}


def test_the_order_is_a_matter_of_the_seed_and_the_question_alone() -> None:
    question = Question("q?", ["a"], [str(n) for n in range(50)], ["7", "8"])
    assert chosen(question, 20) == chosen(question, 20)
    assert chosen(question, 20) != chosen(question, 20, seed=1)
    places = {tuple(chosen(Question(f"q{n}?", ["a"], "bcde", "a"), 5).metadata["gold"]) for n in range(40)}
    assert places == {("1",), ("2",), ("3",), ("4",), ("5",)}


@pytest.mark.parametrize(
    "question",
    [
        Question("q?", [], "ab", "a"),
        Question("q?", [""], "ab", "a"),
        Question("q?", ["a"], "ab", ""),
        Question("q?", ["a"], "abcdef", "abcdef"),
    ],
    ids=["no answer", "an empty answer", "no gold", "more gold than fits"],
)
def test_an_unusable_question_is_skipped(question: Question) -> None:
    assert retrieval_example(question, called="passages", most=5, seed=0) is None


def test_a_count_below_one_is_refused() -> None:
    with pytest.raises(TaskError, match=r"max_passages must be at least 1, but got 0"):
        retrieval_example(Question("q?", ["a"], "ab", "a"), called="passages", most=0, seed=0)


CONTEXT: list[tuple[str, list[str]]] = [
    ("Mira Tolen", ["Mira Tolen lives in Vard. ", " ", "She paints."]),
    ("Vard", ["Vard lies on the Ösk."]),
]
FACTS: list[tuple[str, int]] = [("Mira Tolen", 0), ("Vard", 0), ("Vard", 7), ("Nowhere", 0), ("Mira Tolen", 1)]


def test_the_lists_and_the_hubs_objects_of_hotpotqa_are_equivalent() -> None:
    row = {"question": "Which river?", "answer": "Ösk", "context": CONTEXT, "supporting_facts": FACTS}
    titles, paragraphs = zip(*CONTEXT, strict=True)
    fact_titles, numbers = zip(*FACTS, strict=True)
    hub = row | {
        "id": "5a7",
        "context": {"title": titles, "sentences": paragraphs},
        "supporting_facts": {"title": fact_titles, "sent_id": numbers},
    }
    read = hotpot_question(row | {"_id": "5a7"})
    assert read == hotpot_question(hub)
    assert read.candidates == [
        "Mira Tolen: Mira Tolen lives in Vard.",
        "Mira Tolen: She paints.",
        "Vard: Vard lies on the Ösk.",
    ]
    assert read.gold == ["Mira Tolen: Mira Tolen lives in Vard.", "Vard: Vard lies on the Ösk."]
    assert (read.id, read.answers) == ("5a7", ["Ösk"])


def test_a_row_without_an_answer_has_none() -> None:
    assert hotpot_question({"question": "?", "context": CONTEXT, "supporting_facts": []}).answers == []


GRAPH = [
    ("Mira", "lives_in", "Vard"),
    ("Vard", "river", "Ösk"),
    ("Vard", "twin", "Kell"),
    ("Kell", "river", "Ösk"),
    ("Mira", "friend", "Jon"),
    ("Jon", "born_in", "Kell"),
]


@pytest.mark.parametrize(
    ("sources", "targets", "found"),
    [
        (["Mira"], ["Ösk"], [0, 1]),
        (["Ösk"], ["Mira"], [0, 1]),
        (["Mira"], ["Kell"], [0, 2, 4, 5]),
        (["Mira", "Kell"], ["Ösk"], [0, 1, 3]),
        (["Mira"], ["Ösk", "Vard"], [0]),
        (["Mira"], ["Mira"], []),
        (["Mira"], ["nowhere"], []),
        (["nobody"], ["Ösk"], []),
        ([], [], []),
    ],
)
def test_gold_is_every_triple_on_a_shortest_path(
    sources: Sequence[str], targets: Sequence[str], found: list[int]
) -> None:
    assert shortest_path_triples(GRAPH, sources, targets) == [GRAPH[n] for n in found]


def test_a_graph_without_path_or_answer_gives_no_example() -> None:
    row = {"id": "W1", "question": "?", "answer": ["Ösk"], "q_entity": ["Mira"], "a_entity": ["gone"], "graph": GRAPH}
    assert retrieval_example(graph_question(row), called="triples", most=9, seed=0) is None
    reached = row | {"a_entity": ["Ösk"]}
    assert retrieval_example(graph_question(reached), called="triples", most=9, seed=0)
    assert retrieval_example(graph_question(reached | {"answer": [""]}), called="triples", most=9, seed=0) is None


def test_of_a_fact_that_is_stated_both_ways_the_gold_way_stays() -> None:
    row: dict[str, Any] = {
        "ID": "C1",
        "question": "Which river?",
        "answer": ["Ösk"],
        "gt_triples": [["Vard", "river", "Ösk"], ["Ösk", "flows_through", "Vard"]],
        "crucial_triples": [["Ösk", "flows_through", "Vard"]],
        "2hop_triples": [
            ["Vard", "twin", "Kell"],
            ["Vard", "near", "Kell"],
            ["Vard", "is", "Vard"],
            ["Vard", "is", "Vard"],
        ],
    }
    read = graph_question(row, "gt_triples")
    assert read.gold == ["Vard -> river -> Ösk"]
    assert list(dict.fromkeys(read.candidates)) == [
        "Vard -> river -> Ösk",
        "Vard -> twin -> Kell",
        "Vard -> near -> Kell",
        "Vard -> is -> Vard",
    ]
    assert read.id == "C1"


ANNOTATED: dict[str, Any] = {
    "ID": "C1",
    "question": "Which river?",
    "answer": ["Ösk"],
    "gt_triples": [["Vard", "river", "Ösk"], ["Mira", "lives_in", "Vard"]],
    "crucial_triples": [["Vard", "river", "Ösk"]],
    "2hop_triples": [["Mira", "lives_in", "Vard"], ["Kell", "twin", "Oakby"], ["Vard", "river", "Ösk"]],
}


@pytest.mark.parametrize(
    ("gold", "needed", "candidates"),
    [
        ("crucial_triples", ["Vard -> river -> Ösk"], ["Vard -> river -> Ösk", "Kell -> twin -> Oakby"]),
        (
            "gt_triples",
            ["Vard -> river -> Ösk", "Mira -> lives_in -> Vard"],
            ["Vard -> river -> Ösk", "Mira -> lives_in -> Vard", "Kell -> twin -> Oakby"],
        ),
    ],
)
def test_gold_are_the_crucial_triples_as_in_the_released_code_or_all_that_lead_to_the_answer(
    gold: str, needed: list[str], candidates: list[str]
) -> None:
    read = graph_question(ANNOTATED, gold)
    assert list(dict.fromkeys(read.gold)) == needed
    assert sorted(set(read.candidates)) == sorted(candidates)
    assert list(dict.fromkeys(graph_question(ANNOTATED).gold)) == ["Vard -> river -> Ösk"]


@pytest.mark.parametrize("column", [{}, {"crucial_triples": []}])
def test_a_row_without_crucial_triples_needs_all_that_lead_to_the_answer(column: dict[str, Any]) -> None:
    row = {name: value for name, value in ANNOTATED.items() if name != "crucial_triples"} | column
    assert list(dict.fromkeys(graph_question(row).gold)) == ["Vard -> river -> Ösk", "Mira -> lives_in -> Vard"]


def test_another_gold_is_refused() -> None:
    with pytest.raises(TaskError, match="gold must be crucial_triples or gt_triples, but got 'gt'"):
        graph_question(ANNOTATED, "gt")


def test_the_question_of_webqsp_is_read_from_its_own_column() -> None:
    row = {name: value for name, value in ANNOTATED.items() if name not in ("question", "ID")}
    read = graph_question(row | {"RawQuestion": "which river?", "QuestionId": "WebQTest-1"})
    assert (read.text, read.id) == ("which river?", "WebQTest-1")
