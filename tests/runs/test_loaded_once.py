"""`optimize` reads the task, the catalogue and the run's folder once, and executes the user's Python once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from agentopt.api import aoptimize, load, optimize
from agentopt.cli.commands.optimize import run_optimization
from agentopt.core import yaml_text
from agentopt.models import catalog
from agentopt.models.scripted import ScriptedModel
from agentopt.runs import folder
from agentopt.runs.config import Config
from agentopt.runs.folder import RunFolder

SCORERS = """
from pathlib import Path

with (Path(__file__).parent / "executed").open("a") as executed:
    executed.write("once\\n")


def same(example, output):
    return float(str(output) == str(example.target))
"""


def write_task(path: Path) -> Path:
    path.mkdir()
    (path / "scorers.py").write_text(SCORERS)
    for split in ("validation", "test"):
        rows = [f'{{"id": "{split}-{i}", "question": "{split} {i}?", "target": "yes"}}' for i in range(4)]
        (path / f"{split}.jsonl").write_text("\n".join(rows))
    subtask = {
        "name": "answer",
        "prompt": "{{ inputs.question }}",
        "models": ["small"],
        "num_samples": [1, 3],
        "parse": "text",
        "tokens": {"prompt": 10, "completion": 2},
    }
    task = {
        "name": "once",
        "data": {"validation": "validation.jsonl", "test": "test.jsonl"},
        "subtasks": [subtask],
        "cost": {"unit": {"parameters": 1e9, "prompt_tokens": 10, "completion_tokens": 2}},
        "scorer": {"kind": "python", "function": "scorers.py:same"},
    }
    (path / "task.yaml").write_text(yaml.safe_dump(task))
    return path


def write_catalog(path: Path) -> Path:
    entry = {"base_url": "http://127.0.0.1:9", "parameters": 1e9, "max_attempts": 1}
    path.write_text(yaml.safe_dump({"models": {"small": entry}}))
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Name of the file -> how often it was read as YAML."""
    counts, read = Counter[str](), yaml_text.load_yaml

    def counting(path: Path, error: Any) -> Any:
        counts[path.name] += 1
        return read(path, error)

    for module in (catalog, folder):
        monkeypatch.setattr(module, "load_yaml", counting)
    return counts


def settings(tmp_path: Path) -> Mapping[str, Any]:
    return {
        "strategy": "grid",
        "models": str(write_catalog(tmp_path / "extra.yaml")),
        "journal": str(tmp_path / "journal.db"),
        "runs": str(tmp_path / "runs"),
        "budget": {"trials": 2},
    }


def executions(task: Path) -> int:
    return len((task / "executed").read_text().splitlines())


def test_a_run_executes_the_users_python_once_and_reads_each_file_once(tmp_path: Path, reads: Counter[str]) -> None:
    task = write_task(tmp_path / "task")
    model = ScriptedModel(lambda request, repeat: "yes")
    result = optimize(str(task), Config.model_validate(settings(tmp_path)), provider=model)
    assert executions(task) == 1
    assert reads["extra.yaml"] == 1
    assert reads["config.yaml"] == 0, "the folder is new"

    optimize(task, resume=str(result.run), provider=ScriptedModel(script=[]))
    assert executions(task) == 2
    assert reads["extra.yaml"] == 2
    assert reads["config.yaml"] == 1


def test_the_command_reads_no_more_than_the_function(tmp_path: Path, reads: Counter[str]) -> None:
    task = write_task(tmp_path / "task")
    config = Config.model_validate(settings(tmp_path))
    run = optimize(task, config, provider=ScriptedModel(lambda request, repeat: "yes")).run
    reads.clear()
    run_optimization(None, [], Path(run), Console(quiet=True))  # every answer is in the journal
    assert executions(task) == 2
    assert (reads["extra.yaml"], reads["config.yaml"]) == (1, 1)


async def test_a_task_that_was_loaded_is_not_loaded_again(tmp_path: Path, reads: Counter[str]) -> None:
    task = write_task(tmp_path / "task")
    config = Config.model_validate(settings(tmp_path))
    loaded = load(task, config)
    assert loaded.task.folder == task
    result = await aoptimize(loaded, config, provider=ScriptedModel(lambda request, repeat: "yes"))
    assert executions(task) == 1
    assert reads["extra.yaml"] == 1
    assert RunFolder.open(result.run).task == task, "the run can be resumed by its folder alone"
