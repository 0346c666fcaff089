"""The fingerprint of a task changes with every field but a description, and with nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agentopt.core.axes import Axis, Cascade
from agentopt.core.cost import Unit
from agentopt.core.demos import Demos
from agentopt.core.errors import ConfigError
from agentopt.core.fingerprint import WITH_DESCRIPTIONS, fingerprint
from agentopt.core.task import Example, Fusion, Metric, Program, Scorer, Subtask, Task, TokenLengths
from agentopt.evaluation.judge import Judge
from agentopt.evaluation.scorers import contains, exact_match, numeric
from agentopt.runs.config import Config
from agentopt.runs.folder import RunFolder
from agentopt.workflow import parsers
from agentopt.workflow.templates import compile_template


def prompt(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
    return "?"


def other_prompt(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
    return "!"


def judge(inputs: Mapping[str, Any], value: Any) -> float:
    return 1.0


SUBTASK = Subtask("b", prompt, ("small", "medium"), parse=parsers.choice(["yes", "no"]))
EXAMPLE = Example("e", {"q": "?"}, "yes")
TASK = Task("t", (Subtask("a", prompt, ("small",)), SUBTASK), exact_match(), {"test": (EXAMPLE,)})
PROGRAM = Program(("python", "x.py"))

SUBTASK_CHANGES: dict[str, Any] = {
    "name": "c",
    "render": other_prompt,
    "models": ("large",),
    "parse": parsers.choice(["yes", "maybe"]),
    "system_prompt": "Be brief.",
    "num_samples": (1, 2),
    "fusion": Fusion("first"),
    "max_tokens": 65,
    "temperature": 0.8,
    "top_p": 0.5,
    "stop": (".",),
    "json_schema": "{}",
    "reads": ("a",),
    "tokens": TokenLengths(1, 2),
    "description": "second",
    "context": prompt,
    "keep_system_prompt": True,
    "left_to_program": frozenset({"top_p"}),
    "tools": ("{}",),
    "tool_choice": '"auto"',
    "parallel_tool_calls": False,
    "temperature_of_one": 0.0,
    "effort": "low",
    "cascade": Cascade("small", "medium"),
    "demos": Demos((0, 2)),
    "knobs": {"passages": 3},
    "settings": (Axis("temperature", (0, 1), "numeric"),),
}
TASK_CHANGES: dict[str, Any] = {
    "name": "u",
    "subtasks": (SUBTASK,),
    "scorer": contains(),
    "splits": {"validation": (EXAMPLE,)},
    "description": "of words",
    "output": "a",
    "unit": Unit(1e8),
    "max_units": 9.0,
    "cost_measure": "usd",
    "max_usd": 0.01,
    "max_seconds": 2.0,
    "program": PROGRAM,
    "metrics": {"m": Metric("a", exact_match())},
    "file": Path("task.yaml"),
}
PROGRAM_CHANGES: dict[str, Any] = {
    "command": ("python", "y.py"),
    "function": None,
    "folder": Path("elsewhere"),
    "parse": parsers.number(),
    "timeout": 9.0,
    "concurrency": 1,
    "models": {"gpt": "a"},
}
EXAMPLE_CHANGES: dict[str, Any] = {
    "id": "f",
    "inputs": {"q": "!"},
    "target": "no",
    "metadata": {"level": 1},
    "group": "g",
}


def with_subtask(**changes: Any) -> Task:
    return replace(TASK, subtasks=(TASK.subtasks[0], replace(SUBTASK, **changes)))


def with_example(**changes: Any) -> Task:
    return replace(TASK, splits={"test": (replace(EXAMPLE, **changes),)})


def with_program(**changes: Any) -> Task:
    return replace(TASK, program=replace(PROGRAM, **changes))


CHANGED = [
    *((f"Subtask.{name}", partial(with_subtask, **{name: value})) for name, value in SUBTASK_CHANGES.items()),
    *((f"Task.{name}", partial(replace, TASK, **{name: value})) for name, value in TASK_CHANGES.items()),
    *((f"Example.{name}", partial(with_example, **{name: value})) for name, value in EXAMPLE_CHANGES.items()),
]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [(Subtask, SUBTASK_CHANGES), (Task, TASK_CHANGES), (Program, PROGRAM_CHANGES), (Example, EXAMPLE_CHANGES)],
)
def test_the_changes_below_cover_every_field(kind: type, changes: dict[str, Any]) -> None:
    assert {f.name for f in fields(kind) if f.compare} == set(changes)


@pytest.mark.parametrize(("field", "change"), CHANGED, ids=[field for field, _ in CHANGED])
def test_each_field_changes_it_but_a_description(field: str, change: Callable[[], Task]) -> None:
    assert (fingerprint(change()) == fingerprint(TASK)) == field.endswith(".description")
    of_earlier_form = fingerprint(change(), version=WITH_DESCRIPTIONS)
    assert of_earlier_form.startswith("v2-")
    assert of_earlier_form != fingerprint(TASK, version=WITH_DESCRIPTIONS)


@pytest.mark.parametrize("name", [name for name in PROGRAM_CHANGES if name != "function"])
def test_each_field_of_a_program_changes_it(name: str) -> None:
    assert fingerprint(with_program(**{name: PROGRAM_CHANGES[name]})) != fingerprint(with_program())


FUSIONS = [
    Fusion(), Fusion("first"), Fusion("fuse"), Fusion("fuse", model="m"), Fusion("fuse", prompt="{{ answers }}"),
    Fusion("best_of", judge=judge), Fusion("best_of", judge=lambda inputs, value: 2.0),
]  # fmt: skip


def test_every_part_of_a_fusion_changes_it() -> None:
    assert len({fingerprint(with_subtask(fusion=fusion)) for fusion in FUSIONS}) == len(FUSIONS)


def test_the_options_behind_a_function_change_it() -> None:
    scorers: list[Scorer] = [numeric(), numeric(0.1), numeric(relative_tolerance=0.1), Judge("m", "r"), Judge("m", "s")]
    assert len({fingerprint(replace(TASK, scorer=scorer)) for scorer in scorers}) == len(scorers)
    renders = [compile_template("{{ inputs.q }}").render, compile_template("{{ inputs.q }}!").render]
    assert len({fingerprint(with_subtask(render=render)) for render in renders}) == 2


@pytest.mark.parametrize("body", ["return 1.0", "return 2.0", "return float(len(value))", "return float(len(inputs))"])
def test_a_function_without_source_is_known_by_its_bytecode(body: str) -> None:
    space: dict[str, Any] = {}
    exec(f"def judge(inputs, value):\n    {body}\n", space)
    same: dict[str, Any] = {}
    exec(f"def judge(inputs, value):\n    {body}\n", same)
    of = [fingerprint(with_subtask(fusion=Fusion("best_of", judge=s["judge"]))) for s in (space, same)]
    assert of[0] == of[1]
    assert of[0] != fingerprint(with_subtask(fusion=Fusion("best_of", judge=judge)))


def test_it_is_the_same_in_another_process() -> None:
    code = (
        "from agentopt.core.fingerprint import fingerprint; from agentopt.testing.toy import toy_task;"
        "print(fingerprint(toy_task()))"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].stdout.startswith("v3-")


def test_a_run_is_not_resumed_with_another_fusion(tmp_path: Path) -> None:
    config = Config(runs=tmp_path)
    run = RunFolder.create(TASK, config)
    assert RunFolder.open(run.path).resumed_with(TASK, config).id == run.id
    with pytest.raises(ConfigError, match="the task has changed since"):
        RunFolder.open(run.path).resumed_with(with_subtask(fusion=Fusion("first")), config)


def test_a_run_of_version_0_1_0_is_refused_with_what_to_do(tmp_path: Path) -> None:
    config = Config(runs=tmp_path)
    run = RunFolder.create(TASK, config)
    file = run.path / "config.yaml"
    file.write_text(file.read_text().replace(run.fingerprint, "0123456789abcdef"))
    with pytest.raises(ConfigError, match=r"made by agentopt 0\.1\.0[\s\S]*start a new run"):
        RunFolder.open(run.path).resumed_with(TASK, config)
