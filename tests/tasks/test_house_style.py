"""The house_style task: its data are its generator's, and its scorer is as strict as the style."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from agentopt.core.records import Score
from agentopt.core.task import Example, Task
from agentopt.taskfile.loading import load_task

FOLDER = Path(__file__).parents[2] / "tasks" / "house_style"


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task(FOLDER)


def test_the_data_are_what_the_generator_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(FOLDER / "generate.py"), "--out", str(tmp_path)], check=True)
    for split in ("train", "validation", "test"):
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (FOLDER / "data" / f"{split}.jsonl").read_bytes()


def test_every_split_has_as_many_questions_of_each_kind(task: Task) -> None:
    for examples in task.splits.values():
        assert len(set(Counter(e.metadata["kind"] for e in examples).values())) == 1


def test_no_user_prompt_reveals_the_style(task: Task) -> None:
    for example in task.splits["test"]:
        prompt = task["answer"].render(example.inputs, {})
        assert "YYYY" not in prompt
        assert "unknown" not in prompt


@pytest.mark.parametrize(
    ("target", "output", "value"),
    [
        ("1987-03-05", "1987-03-05", 1.0),
        ("1987-03-05", "5 March 1987", 0.0),
        ("yes", "Yes", 0.0),
        ("65 m", "65 m.", 0.0),
        ("unknown", None, 0.0),
    ],
)
async def test_the_score_is_one_for_exactly_the_target(
    task: Task, target: str, output: str | None, value: float
) -> None:
    judged = task.scorer(Example("1", {}, target), output)
    assert inspect.isawaitable(judged)  # a user's function may be async, so the wrapped one always is
    score: Score = await judged
    assert score.value == value
    assert (target in score.feedback) == (value == 0)
