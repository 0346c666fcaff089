"""aime, gsm8k, svamp and multiarith: rows in their public formats, answers read and compared as quantities."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentopt import Task, aevaluate, load_task
from agentopt.core.errors import ScorerError, TaskError, UserError
from agentopt.core.extras import install_command
from agentopt.core.records import Split
from agentopt.core.task import Example, Unparsable
from agentopt.evaluation.checkers.math import MathProcess, answer, score, shared
from agentopt.evaluation.checkers.needs import needs
from agentopt.models.base import Request
from agentopt.models.catalog import Catalog
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.config import Config

TASKS = Path(__file__).parents[2] / "tasks"

# Invented rows, in the public form of each dataset.
ROWS: dict[str, list[dict[str, Any]]] = {
    "gsm8k": [
        {
            "question": f"Mia has {n} shells and finds 1,000 more. How many has she?",
            "answer": f"She has {n} + 1000 = <<{n}+1000={n + 1000}>>{n + 1000} shells.\n#### 1,{n:03}",
        }
        for n in range(1, 6)
    ],
    "svamp": [
        {
            "ID": f"chal-{n}",
            "Body": f"{n} ducks were on the pond. 2 more came",
            "Question": "How many ducks are there?",
            "Equation": f"( {n}.0 + 2.0 )",
            "Answer": float(n + 2),
            "Type": "Addition",
        }
        for n in range(1, 6)
    ],
    "multiarith": [
        {"input": f"Tom reads {n} pages on each of 3 days. How many?", "target": 3 * n} for n in range(1, 6)
    ],
    "aime": [
        {"id": 60 + n, "problem": f"Find ${n}^2$.", "solution": "...", "answer": f"{n * n:03}", "url": "https://..."}
        for n in range(1, 6)
    ],
}
ANSWERS = {
    "gsm8k": "1001 1002 1003 1004 1005",
    "svamp": "3 4 5 6 7",
    "multiarith": "3 6 9 12 15",
    "aime": "1 4 9 16 25",
}


@pytest.fixture(scope="module", autouse=True)
def process() -> Iterator[None]:
    yield
    shared().close()


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(name: str, folder: Path, rows: list[dict[str, Any]] | None = None) -> Task:
    source = write(folder, ROWS[name] if rows is None else rows)
    return load_task(TASKS / name, catalog=Catalog.load(), overrides={"data.source": source})


def examples(task: Task) -> list[Example]:
    return [example for split in task.splits.values() for example in split]


@pytest.mark.parametrize("name", ROWS)
def test_rows_in_the_public_form_become_examples(name: str, tmp_path: Path) -> None:
    found = examples(load(name, tmp_path))
    targets = sorted(float(str(example.target).replace(",", "")) for example in found)
    assert targets == [float(number) for number in ANSWERS[name].split()]
    assert all(set(example.inputs) == {"question"} for example in found)
    assert len({example.id for example in found}) == 5


def test_ids_are_the_datasets_own_where_it_has_them(tmp_path: Path) -> None:
    assert {e.id for e in examples(load("svamp", tmp_path))} == {f"chal-{n}" for n in range(1, 6)}
    assert {e.id for e in examples(load("aime", tmp_path))} == {str(60 + n) for n in range(1, 6)}
    numbered = [{**row, "idx": 100 + i} for i, row in enumerate(ROWS["gsm8k"])]
    assert {e.id for e in examples(load("gsm8k", tmp_path, numbered))} == {str(100 + i) for i in range(5)}


def test_the_other_public_forms_are_read_too(tmp_path: Path) -> None:
    rows = [{"question": f"{n} and {n}?", "final_ans": str(2 * n)} for n in range(1, 6)]
    assert sorted(int(e.target) for e in examples(load("multiarith", tmp_path, rows))) == [2, 4, 6, 8, 10]
    angles = [{"question": f"Which angle, {n}?", "answer": f"33{n}^\\circ"} for n in range(1, 6)]
    assert sorted(e.target for e in examples(load("aime", tmp_path, angles))) == ["331", "332", "333", "334", "335"]
    texts = [{**row, "Answer": "145.00", "ID": f"t{i}"} for i, row in enumerate(ROWS["svamp"])]
    assert {e.target for e in examples(load("svamp", tmp_path, texts))} == {"145"}


@pytest.mark.parametrize(
    ("name", "row", "rule"),
    [
        ("gsm8k", {"question": "?", "answer": "no mark"}, "the column 'answer' must have #### before"),
        ("gsm8k", {"question": "?", "answer": None}, "the column 'answer' must be a string, but is null"),
        ("svamp", {"ID": "x", "Body": "b", "Question": "q"}, "the row must have the column 'Answer'"),
        ("aime", {"problem": "p", "answer": "many"}, "the reader failed: ValueError: .*'many'"),
        ("aime", {"problem": "p", "answer": None}, "the column 'answer' must be a number or a string, but is null"),
        ("multiarith", {"text": "?"}, "the row must have the column 'input' or 'question'"),
    ],
)
def test_a_row_in_another_format_is_reported_with_its_line(
    name: str, row: dict[str, Any], rule: str, tmp_path: Path
) -> None:
    with pytest.raises(TaskError, match=rf"rows\.jsonl:1: {rule}"):
        load(name, tmp_path, [row])


@pytest.mark.parametrize(
    ("response", "read"),
    [
        ("The answer is 1,234.", "1234"),
        ("so \\boxed{025}", "25"),
        ("\\boxed{\\frac{1}{2}}", "1/2"),
        ("\\boxed{540\\text{ minutes}}", "540"),
        ("She would earn $72 points.", "72"),
        ("The total is $12.50.", "12.5"),
        ("First 20, then 30.\n#### 40", "40"),
        ("**8**", "8"),
        ("The answer is \u22123", "-3"),
        ("答案是10", "10"),
        ("3.0 apples", "3"),
        ("20%", "20"),
        (r"first \boxed{7}, then \boxed{9}", "9"),
        (r"\boxed{7} or \boxed{\frac{18}{2}}", "9"),
        (r"\boxed{1\,234}", "1234"),
        (r"$\boxed{1{,}234}$", "1234"),
        ("2 1/2", "5/2"),
        ("The answer is 2 1/2 cups.", "5/2"),
        (r"\boxed{2\frac{1}{2}}", "5/2"),
        ("1\u00bd", "3/2"),
        ("\u00bd", "1/2"),
        ("The answer is \u00be of it.", "3/4"),
        ("1e3", "1000"),
        (r"\boxed{1.5 \times 10^3}", "1500"),
        ("9 (12 less 3)", "9"),
        ("The answer is 9 (12 less 3).", "9"),
        ("The answer is 9, because 12 - 3 = 9.", "9"),
        ("10 - 3 = 7", "7"),
        ("12 = 3*4", "12"),
        ("#### 12 = 15 - 3", "12"),
        ("The answer is not 5 but 6.", "6"),
        ("It is 6, not 5.", "6"),
        (r"\boxed{3 \cdot 4}", r"3 \cdot 4"),
        (r"\boxed{x = 5}", "5"),
        ("The answer is 5 (five) apples", "5"),
        (r"$\boxed{7}$ (see step 3)", "7"),
        ("<think>\\boxed{5}</think>\\boxed{7}", "7"),
    ],
)
def test_the_final_answer_is_read_in_plain_form(response: str, read: str) -> None:
    assert answer(response) == read


@pytest.mark.parametrize("written", ["9-12", "9\u201312", "12, 13", "3 or 4", "3 and 4", "2x", "2 x", "7 cm and 3 mm"])
@pytest.mark.parametrize("frame", ["{}", "The answer is {}.", "\\boxed{{{}}}", "#### {}", "First 5.\nAnswer: {}"])
def test_several_numbers_and_terms_are_not_read_as_one_number(written: str, frame: str) -> None:
    with pytest.raises(Unparsable):
        answer(frame.format(written))


@pytest.mark.parametrize("response", ["", "   ", "no number", "é!", "The answer is not 5."])
def test_a_response_without_mathematics_is_unparsable(response: str) -> None:
    with pytest.raises(Unparsable):
        answer(response)


@pytest.mark.parametrize(
    ("target", "output", "value"),
    [
        ("1,234", "1234", 1),
        ("72", "72.0", 1),
        ("0.5", "1/2", 1),
        ("1/2", "\\frac{2}{4}", 1),
        ("2", "\\sqrt{4}", 1),
        ("25", "025", 1),
        ("5", "-5", 0),
        ("12", "12.5", 0),
        ("7", "", 0),
        ("7", "x", 0),
        ("1000000", "1,000,000", 1),
    ],
)
async def test_an_answer_is_right_when_it_is_the_same_quantity(target: str, output: str, value: float) -> None:
    judged = await score(Example("e", {}, target), output)
    assert judged.value == value
    assert judged.feedback == ("" if value else f"expected {target}, got {output!r}")


async def test_nothing_parsable_is_wrong_and_a_missing_target_no_judgement() -> None:
    assert (await score(Example("e", {}, "7"), None)).value == 0
    with pytest.raises(ScorerError, match="example e has no target"):
        await score(Example("e", {}), "7")


def test_a_number_that_no_computer_finishes_is_wrong_and_the_next_answer_is_judged_as_ever() -> None:
    process = MathProcess(seconds=1)
    try:
        assert not process.agree("9", "9^{9^{9}}")
        assert process.agree("9", "9.0")
    finally:
        process.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processor time is bounded on Linux only")
def test_each_question_gets_separate_processor_time() -> None:
    process = MathProcess(seconds=1000)
    try:
        assert process.agree("9", "9.0")
        assert process._process
        pid = process._process.pid
        first, hard = resource.prlimit(pid, resource.RLIMIT_CPU)
        assert 1000 < first < 1200
        resource.prlimit(pid, resource.RLIMIT_CPU, (500, hard))
        assert process.agree("9", "9.0")
        assert 1000 < resource.prlimit(pid, resource.RLIMIT_CPU)[0] < 1200
    finally:
        process.close()


def test_a_missing_library_is_reported_with_the_remedy() -> None:
    needs("json")
    with pytest.raises(UserError, match="needs a_library_of_nobody") as caught:
        needs("json", "a_library_of_nobody")
    assert caught.value.remedy == install_command("tasks")


async def test_equal_answers_vote_together_and_the_score_is_the_share_of_right_ones(tmp_path: Path) -> None:
    def solve(request: Request, repeat: int) -> str:
        return ["The answer is 1,003.", "I say 7", "\\boxed{1003}"][repeat]

    settings = {"data.source": write(tmp_path, ROWS["gsm8k"]), "subtasks.solve.num_samples": [3]}
    config = Config(journal=str(tmp_path / "journal.db"), task=settings)
    splits: tuple[Split, ...] = ("validation", "test")
    for split in splits:
        evaluation = await aevaluate(TASKS / "gsm8k", None, config, split=split, provider=ScriptedModel(solve))
        wanted = {e.id: float(e.target == "1,003") for e in load("gsm8k", tmp_path).splits[split]}
        assert evaluation.scores == wanted
        assert {result.output for result in evaluation.results} == {"1003"}


def test_collections_of_aime_and_of_other_contests_are_the_splits_of_one_task(tmp_path: Path) -> None:
    rows = {
        "train": [{"id": 1, "problem": "a", "answer": "025"}],
        "validation": [{"id": 1, "problem": "b", "answer": 7}],
    }
    rows["test"] = [{"problem_idx": 1, "problem": "c", "answer": r"\frac{1}{2}"}, {"problem": "d", "answer": 3}]
    given = {}
    for split, of in rows.items():
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, of)))
        reader = "reader.py:read_expression" if split == "test" else "reader.py:read"
        given[split] = {
            "source": str(tmp_path / f"{split}.jsonl"),
            "reader": reader,
            "options": {"prefix": f"{split}-"},
        }
    task = load_task(TASKS / "aime", overrides={"data": given})
    found = {split: [(e.id, e.target) for e in of] for split, of in task.splits.items()}
    assert found == {
        "train": [("train-1", "25")],
        "validation": [("validation-1", "7")],
        "test": [("test-1", r"\frac{1}{2}"), ("2", "3")],
    }
