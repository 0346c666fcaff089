"""The threehop task: its data are generated, and each subtask reads the output of the one before it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agentopt.taskfile.loading import load_task

TASKS = Path(__file__).parents[2] / "tasks"
SHAPE = ["--hops", "3", "--facts", "15", "--landmarks", "2", "--distractors", "3", "--seed", "7"]


def test_the_data_are_generated_by_the_command_of_the_readme(tmp_path: Path) -> None:
    generator = TASKS / "quickstart" / "generate.py"
    subprocess.run([sys.executable, str(generator), *SHAPE, "--out", str(tmp_path)], check=True)
    for split in ("train", "validation", "test"):
        made = (tmp_path / f"{split}.jsonl").read_bytes()
        assert made == (TASKS / "threehop" / "data" / f"{split}.jsonl").read_bytes()
    assert " ".join(SHAPE) in (TASKS / "threehop" / "README.md").read_text()


def test_a_right_chain_leads_to_the_one_sentence_that_names_the_answer() -> None:
    task = load_task(TASKS / "threehop")
    for example in task.splits["validation"]:
        facts, person = example.inputs["facts"], example.inputs["person"]
        employer = next(f for f in facts if f.startswith(f"{person} works for")).split()[-1].rstrip(".")
        town = next(f for f in facts if f.startswith(f"{employer} lives in")).split()[-1].rstrip(".")
        outputs = {"employer": employer, "town": town}
        assert town == example.metadata["town"]
        assert f"Who does {person} work for?" in task["employer"].render(example.inputs, {})
        assert f"does {employer} live?" in task["town"].render(example.inputs, {"employer": employer})
        last = task["answer"].render(example.inputs, {"town": outputs["town"]}).splitlines()
        assert len(last) == 2
        assert example.target in last[0]


@pytest.mark.parametrize(
    ("response", "name"), [("Ada works for Ben.", "Ben"), ("Ben", "Ben"), ("Ben works. for Carl!", "Carl")]
)
def test_the_employer_is_the_last_name_of_a_response(response: str, name: str) -> None:
    assert load_task(TASKS / "threehop")["employer"].parse(response) == name


def test_a_response_without_a_name_is_unparsable() -> None:
    from agentopt.core.task import Unparsable

    with pytest.raises(Unparsable):
        load_task(TASKS / "threehop")["employer"].parse("i do not know")
