"""What changes the identity of a task whose run is resumed or read, and what does not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agentopt.api import load
from agentopt.core.errors import ConfigError
from agentopt.core.fingerprint import WITH_DESCRIPTIONS
from agentopt.runs.archive import open_archive
from agentopt.runs.config import Config
from agentopt.runs.folder import RunFolder
from agentopt.runs.task_identity import TaskChangedError, fingerprint

TASK = """\
name: words
description: of words
data: {validation: validation.jsonl, test: test.jsonl}
subtasks:
  - name: answer
    description: repeats
    prompt: "{{ inputs.word }}"
    models: [small, large]
    parse: {kind: python, function: "code.py:read"}
    tokens: {prompt: 10, completion: 2}
scorer: exact_match
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "task.yaml").write_text(TASK)
    (folder / "code.py").write_text("def read(text):\n    return text\n")
    for split in ("validation", "test"):
        rows = (f'{{"id": "{split}{i}", "word": "{split} {i}", "target": "{i}"}}\n' for i in range(3))
        (folder / f"{split}.jsonl").write_text("".join(rows))
    return folder


@pytest.fixture
def config(tmp_path: Path) -> Config:
    entry = "{base_url: 'http://127.0.0.1:9/v1', usd_per_1m_prompt: 1.0}"
    (tmp_path / "models.yaml").write_text(f"models:\n  small: {entry}\n  large: {entry}\n")
    return Config(runs=tmp_path / "runs", models=(tmp_path / "models.yaml",), journal=str(tmp_path / "journal.db"))


def edited(file: str, pattern: str, by: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        before = (folder / file).read_text()
        after = re.sub(pattern, by, before, count=1, flags=re.MULTILINE)
        assert after != before
        (folder / file).write_bytes(after.encode())

    return edit


def touched(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).touch()


SAME = {
    "a comment": edited("task.yaml", r"^data:", "# where the rows are\ndata:"),
    "a comment at the end of a line": edited("task.yaml", r"exact_match$", "exact_match  # of the text"),
    "the description": edited("task.yaml", "of words", "of single words"),
    "no description": edited("task.yaml", "^description: of words\n", ""),
    "a subtask's description": edited("task.yaml", "repeats", "repeats the word"),
    "quotation marks": edited("task.yaml", "name: words", 'name: "words"'),
    "another form of a list": edited("task.yaml", r"\[small, large\]", "\n      - small\n      - large"),
    "an empty line": edited("task.yaml", "^subtasks:", "\nsubtasks:"),
    "a setting at its default": edited("task.yaml", "exact_match$", "{kind: exact_match}"),
    "a file of notes": touched("README.md"),
}
OTHER = {
    "the prompt": edited("task.yaml", r"\{\{ inputs.word \}\}", "Repeat {{ inputs.word }}"),
    "a system prompt": edited("task.yaml", "    prompt:", "    system_prompt: Be brief.\n    prompt:"),
    "the models": edited("task.yaml", "small, large", "large, small"),
    "the sample counts": edited("task.yaml", "    tokens:", "    num_samples: [1, 3]\n    tokens:"),
    "the scorer": edited("task.yaml", "exact_match$", "contains"),
    "a limit of rows": edited("task.yaml", r"test.jsonl\}", "test.jsonl, limit: {test: 2}}"),
    "a row": edited("test.jsonl", "test 1", "test one"),
    "a target": edited("validation.jsonl", '"1"', '"2"'),
    "Python code": edited("code.py", "return text", "return text.strip()"),
    "another Python file": touched("more.py"),
}


def checks(run: RunFolder, task: Path, config: Config) -> None:
    loaded, specs = load(task, config, agent=False)
    assert open_archive(run, loaded, specs).state == "stopped"
    assert run.resumed_with(loaded, config).id == run.id


@pytest.mark.parametrize("change", SAME)
def test_a_run_goes_on_after_an_edit_that_changes_no_response(task: Path, config: Config, change: str) -> None:
    run = RunFolder.create(load(task, config, agent=False)[0], config)
    SAME[change](task)
    checks(RunFolder.open(run.path), task, config)


@pytest.mark.parametrize("change", OTHER)
def test_a_run_is_refused_after_an_edit_that_changes_responses_or_scores(
    task: Path, config: Config, change: str
) -> None:
    run = RunFolder.create(load(task, config, agent=False)[0], config)
    OTHER[change](task)
    loaded, specs = load(task, config, agent=False)
    with pytest.raises(TaskChangedError, match="the task has changed since the run began"):
        open_archive(RunFolder.open(run.path), loaded, specs)
    with pytest.raises(ConfigError, match="the task has changed since"):
        RunFolder.open(run.path).resumed_with(loaded, config)


def test_a_run_of_the_earlier_form_goes_on_with_the_task_file_as_it_was(task: Path, config: Config) -> None:
    loaded, specs = load(task, config, agent=False)
    earlier = replace(RunFolder.create(loaded, config), fingerprint=fingerprint(loaded, config, WITH_DESCRIPTIONS))
    earlier.save()
    checks(RunFolder.open(earlier.path), task, config)
    SAME["a comment"](task)
    with pytest.raises(TaskChangedError):
        open_archive(RunFolder.open(earlier.path), load(task, config, agent=False)[0], specs)


def test_the_earlier_form_is_that_of_earlier_versions(task: Path, config: Config) -> None:
    loaded, _ = load(task, config, agent=False)
    assert fingerprint(loaded, config, WITH_DESCRIPTIONS) == "v2-c8d6d5047d43747f"
