"""A user's Python file that was written for version 0.1.0 fails with the new path of its import."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from agentopt.core import user_functions
from agentopt.core.errors import TaskError
from agentopt.core.user_functions import Functions


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("from agentopt.checkers.math import MathChecker", "agentopt.evaluation.checkers"),
        ("from agentopt.rows import text", "agentopt.taskfile.columns"),
        ("from agentopt.retrieval import hotpot_question", "agentopt.taskfile.retrieval"),
        ("from agentopt.task import Example", "agentopt.core.task"),
        ("import agentopt.trial", "agentopt.core.records"),
        ("from agentopt.sandbox.runner import Sandbox", "agentopt.evaluation.sandbox"),
        ("from agentopt.scorers import normalise", "agentopt.evaluation.scorers"),
        ("from agentopt.evaluation import Evaluator", "agentopt.evaluation.evaluator"),
        ("from agentopt.models.metered import MeteredModel", "agentopt.models.client"),
    ],
)
def test_an_import_of_a_moved_module_names_the_new_path(tmp_path: Path, line: str, remedy: str) -> None:
    (tmp_path / "own.py").write_text(f"{line}\n\ndef read(row): ...\n")
    with pytest.raises(TaskError, match=r"cannot be run: .*Error") as raised:
        Functions(tmp_path)("own.py:read", "task.yaml: data.reader")
    assert raised.value.remedy is not None
    assert f"is now {remedy}: import that" in raised.value.remedy


@pytest.mark.parametrize("line", ["import nowhere", "from agentopt.core.task import Exemple", "1 / 0"])
def test_any_other_failure_keeps_the_general_remedy(tmp_path: Path, line: str) -> None:
    (tmp_path / "own.py").write_text(f"{line}\n")
    with pytest.raises(TaskError, match="cannot be run") as raised:
        Functions(tmp_path)("own.py:read", "task.yaml: data.reader")
    assert raised.value.remedy == "correct the file"


def test_every_new_path_exists() -> None:
    paths = [f"agentopt.{new}" for new in user_functions._moved().values()]
    assert {"agentopt.core.errors", "agentopt.models.openai_format", "agentopt.deploy.serve"} <= set(paths)
    assert [importlib.import_module(path).__name__ for path in paths] == paths
