"""The quickstart's data: equal to its generator's output, balanced, and without a shortcut to the answer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from agentopt.core.task import Task
from agentopt.taskfile.loading import load_task

FOLDER = Path(__file__).parents[2] / "tasks" / "quickstart"
SPLITS = ("train", "validation", "test")
Row = dict[str, Any]


def generate(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "generate.py"), *arguments, "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Row]]:
    return {split: read(FOLDER / "data" / f"{split}.jsonl") for split in SPLITS}


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task(FOLDER)


def follow(row: Row) -> str:
    """The answer by the sentences alone, hop by hop."""
    resident = row["person"]
    for fact in row["facts"]:
        if fact.startswith(f"{row['person']} works for "):
            resident = fact.removesuffix(".").split()[-1]
    (town,) = [f.removesuffix(".").split()[-1] for f in row["facts"] if f.startswith(f"{resident} lives in ")]
    (landmark,) = [f for f in row["facts"] if f.startswith(f"The {row['kind']} ") and f.endswith(f" {town}.")]
    assert town == row["town"]
    return str(landmark.split()[2])


def test_committed_data_are_the_generators_output_byte_for_byte(tmp_path: Path) -> None:
    assert generate(tmp_path).returncode == 0
    for split in SPLITS:
        name = f"{split}.jsonl"
        assert (tmp_path / name).read_bytes() == (FOLDER / "data" / name).read_bytes(), name


def test_another_seed_gives_other_examples(tmp_path: Path) -> None:
    generate(tmp_path, "--seed", "2")
    assert (tmp_path / "test.jsonl").read_bytes() != (FOLDER / "data" / "test.jsonl").read_bytes()


def test_the_answer_follows_from_the_sentences(splits: dict[str, list[Row]]) -> None:
    for rows in splits.values():
        assert [follow(row) for row in rows] == [row["answer"] for row in rows]


def test_no_example_is_in_two_splits_and_ids_are_unique(splits: dict[str, list[Row]]) -> None:
    rows = [row for split in SPLITS for row in splits[split]]
    for key in (lambda row: row["id"], lambda row: (row["person"], row["town"]), lambda row: tuple(row["facts"])):
        assert len({key(row) for row in rows}) == len(rows)


def test_a_constant_answer_is_rarely_right(splits: dict[str, list[Row]]) -> None:
    for rows in splits.values():
        assert Counter(row["answer"] for row in rows).most_common(1)[0][1] / len(rows) <= 0.1


def test_no_position_of_a_sentence_gives_the_answer_away(splits: dict[str, list[Row]]) -> None:
    for rows in splits.values():
        answers = Counter(
            next(n for n, fact in enumerate(row["facts"]) if f" {row['answer']} " in fact) for row in rows
        )
        assert max(answers.values()) - min(answers[n] for n in range(8)) <= 1
        first_resident = [next(f for f in row["facts"] if " lives in " in f).split()[0] for row in rows]
        first_is_right = sum(name == row["person"] for name, row in zip(first_resident, rows, strict=True))
        assert abs(first_is_right - len(rows) / 2) <= 2


def test_the_kinds_in_question_are_balanced(splits: dict[str, list[Row]]) -> None:
    for rows in splits.values():
        counts = Counter(row["kind"] for row in rows)
        assert len(counts) == 4
        assert max(counts.values()) - min(counts.values()) <= 2


def test_the_task_loads_and_its_answer_subtask_reads_one_sentence_of_the_found_town(task: Task) -> None:
    for example in task.splits["validation"]:
        asked = task["find"].render(example.inputs, {})
        assert asked.count("\n") == 2
        assert asked.endswith(str(example.inputs["link_question"]))
        sentence, question = task["answer"].render(example.inputs, {"find": example.metadata["town"]}).split("\n")
        assert f" {example.target} " in sentence
        assert question == f"What is the name of the {example.inputs['kind']}?"


def test_a_wrong_town_shows_a_sentence_without_the_answer(task: Task, splits: dict[str, list[Row]]) -> None:
    for example in task.splits["validation"]:
        towns = {fact.removesuffix(".").split()[-1] for fact in example.inputs["facts"]}
        (wrong,) = towns - {example.metadata["town"]}
        sentence, _ = task["answer"].render(example.inputs, {"find": wrong}).split("\n")
        assert str(example.target) not in sentence


def test_the_parsers_know_every_name_of_the_data(task: Task) -> None:
    for rows in task.splits.values():
        for example in rows:
            assert task["find"].parse(f"In {example.metadata['town']}.") == example.metadata["town"]
            assert task["answer"].parse(f"It is called {example.target}.") == example.target


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["--hops", "3"], 8),
        (["--hops", "3", "--facts", "15", "--distractors", "3", "--landmarks", "2"], 15),
        (["--facts", "24"], 24),
    ],
)
def test_harder_variants_keep_their_promises(tmp_path: Path, arguments: list[str], facts: int) -> None:
    assert generate(tmp_path, *arguments, "--validation", "40").returncode == 0
    rows = read(tmp_path / "validation.jsonl")
    assert len(rows) == 40
    assert {len(row["facts"]) for row in rows} == {facts}
    assert [follow(row) for row in rows] == [row["answer"] for row in rows]


@pytest.mark.parametrize("arguments", [["--facts", "3"], ["--facts", "200"], ["--test", "9999"]])
def test_numbers_that_cannot_be_met_get_one_message_with_a_remedy(tmp_path: Path, arguments: list[str]) -> None:
    ended = generate(tmp_path, *arguments)
    assert ended.returncode == 2
    assert "but got" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.iterdir())
