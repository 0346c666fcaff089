"""The programs in tasks/, unchanged, through the gateway: the same scores as declared subtasks, and optimised."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentopt.api import aevaluate, aoptimize
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.errors import TaskError
from agentopt.core.records import Evaluation
from agentopt.models.base import Request
from agentopt.models.catalog import Catalog
from agentopt.models.scripted import ScriptedModel
from agentopt.prompts.settings import PromptSettings
from agentopt.runs.config import BudgetConfig, Config
from agentopt.search.settings import SearchSettings
from agentopt.taskfile.loading import load_task

TASKS = Path(__file__).parents[2] / "tasks"
SMALL, LARGE = "smollm2-135m", "qwen2.5-coder-0.5b"
QUALITY = {SMALL: 0.35, LARGE: 0.95}
EXAMPLES = 6

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="the script needs curl")
PROGRAMS = ["quickstart-langgraph", pytest.param("quickstart-shell", marks=needs_curl)]


def answer(request: Request, repeat: int) -> str:
    """Reads the right word off the quickstart's question with the model's planted quality, else another one."""
    facts = request.messages[-1].content.splitlines()
    words = [fact.rstrip(".").split() for fact in facts[:-1]]
    question = facts[-1].rstrip("?").split()
    draw = hashlib.sha256(f"{request.model} {facts} {repeat}".encode()).digest()[0] / 256
    if "does" in question:
        places = {fact[0]: fact[-1] for fact in words}
        right = places[question[question.index("does") + 1]]
        wrong = next(place for place in places.values() if place != right)
    else:
        right, wrong = (words[0][2], "Wolf") if words else ("no idea", "Wolf")
    return right if draw < QUALITY[request.model] else wrong


@pytest.fixture(autouse=True)
def _this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script's python3 is the one that runs the tests: a stand-in of a version manager starts slowly."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def config(folder: Path, examples: int = EXAMPLES, **more: Any) -> Config:
    limits = {f"data.limit.{split}": examples for split in ("train", "validation", "test")}
    return Config(journal=str(folder / "journal.db"), runs=folder / "runs", task=limits, **more)


def measured(evaluation: Evaluation) -> dict[str, tuple[object, ...]]:
    return {r.id: (r.score, r.output, r.error, r.subtasks) for r in evaluation.results}


@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_program_gets_the_scores_of_declared_subtasks_example_by_example(name: str, tmp_path: Path) -> None:
    candidate = Candidate.of({"find": SubtaskChoice(LARGE, 2, "Name the town."), "answer": SubtaskChoice(SMALL, 3)})
    declared = await aevaluate(TASKS / "quickstart", candidate, config(tmp_path), provider=ScriptedModel(answer))
    nothing_new = ScriptedModel(script=())
    of_program = await aevaluate(TASKS / name, candidate, config(tmp_path), provider=nothing_new)
    assert measured(of_program) == measured(declared)
    assert 0 < sum(declared.scores.values()) < EXAMPLES


@pytest.mark.parametrize("name", PROGRAMS)
async def test_a_program_is_optimised_without_a_change(name: str, tmp_path: Path) -> None:
    asked = config(
        tmp_path,
        examples=4,
        strategy="random",
        seed=3,
        budget=BudgetConfig(trials=3),
        search=SearchSettings(early_stopping=None),
        prompts=PromptSettings(when="never"),
    )
    of_program = await aoptimize(TASKS / name, asked, provider=ScriptedModel(answer))
    declared = await aoptimize(TASKS / "quickstart", asked, provider=ScriptedModel(script=()))
    assert [trial.score for trial in of_program.trials] == [trial.score for trial in declared.trials]
    assert max(trial.score or 0.0 for trial in of_program.trials) > (of_program.trials[0].score or 0.0)
    assert [finalist.roles for finalist in of_program.finalists] == [f.roles for f in declared.finalists]


# The keys of a task file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(
        "from os.path import basename as bound\nimport missing_library\n\n"
        "def one(inputs): ...\ndef three(a, b, c): ...\nasync def two_async(inputs, openai): ...\n"
    )
    (tmp_path / "endpoint.py").write_text("def two(inputs, openai):\n    return openai['base_url']\n")
    (tmp_path / "plain.txt").write_text("not executable\n")
    for split in ("validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text(f'{{"question": "{split}?", "target": "x"}}\n')
    return tmp_path


def task_file(folder: Path, program: Any, **more: Any) -> Path:
    subtask = {"name": "find", "models": [SMALL], **more.pop("subtask", {})}
    content = {
        "name": "a",
        "data": {"validation": "validation.jsonl", "test": "test.jsonl"},
        "subtasks": [subtask, {"name": "answer", "models": [SMALL]}],
        "scorer": "exact_match",
        "program": program,
        **more,
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_a_function_of_the_inputs_alone_is_named_and_not_run(folder: Path) -> None:
    task = load_task(task_file(folder, {"function": "program.py:one"}))
    assert task.program
    assert (task.program.function, task.program.folder) == ("program.py:one", folder)
    assert load_task(task_file(folder, {"function": "program.py:bound"})).program


def test_a_function_of_two_parameters_is_loaded(folder: Path) -> None:
    task = load_task(task_file(folder, {"function": "endpoint.py:two"}))
    assert task.program
    assert callable(task.program.function)
    assert task.program.function({}, {"base_url": "here"}) == "here"


def test_a_subtask_leaves_to_the_program_what_it_does_not_set(folder: Path) -> None:
    subtask = {"max_tokens": 7, "temperature": 0.9, "keep_system_prompt": True}
    task = load_task(task_file(folder, {"command": ["python", "program.py"], "timeout": 5}, subtask=subtask))
    find, answer_ = task.subtasks
    assert find.left_to_program == {"top_p", "stop", "json_schema"}
    assert answer_.left_to_program == {"max_tokens", "temperature", "top_p", "stop", "json_schema"}
    assert (find.max_tokens, answer_.max_tokens) == (7, 1024)
    assert (find.keep_system_prompt, answer_.keep_system_prompt) == (True, False)
    assert task.program
    assert (task.program.command, task.program.timeout) == (("python", "program.py"), 5.0)


@pytest.mark.parametrize(
    ("program", "more", "error"),
    [
        ({}, {}, "either a `command` or a `function`"),
        ({"command": ["true"], "function": "program.py:one"}, {}, "either a `command` or a `function`"),
        ({"command": []}, {}, r"program\.command"),
        ({"command": ["no-such-program"]}, {}, r"program\.command\.0: [\s\S]*'no-such-program'[\s\S]*\./NAME"),
        ({"command": ["./plain.txt"]}, {}, r"chmod \+x \./plain\.txt"),
        ({"command": ["./missing.sh"]}, {}, r"program\.command\.0"),
        ({"command": ["python", "missing.py"]}, {}, r"program\.command\.1: there is no file"),
        ({"function": "missing.py:run"}, {}, r"program\.function: there is no file"),
        ({"function": "program.py:on"}, {}, r"must have a function 'on'[\s\S]*did you mean 'one'"),
        ({"function": "program.py:three"}, {}, "three takes 3 arguments"),
        ({"function": "program.py:two_async"}, {}, "missing_library"),
        ({"function": "program.py:one", "parse": "number"}, {}, "`parse` goes with a command"),
        ({"command": ["true"]}, {"output": "find"}, r"output: the output of a task with a program is the program's"),
        (
            {"command": ["true"]},
            {"subtask": {"prompt": "x"}},
            r"task\.yaml: subtasks\.find\.prompt: a program writes its own prompts",
        ),
        ({"command": ["true"]}, {"subtask": {"context": "endpoint.py:two"}}, "`context` goes with a prompt"),
        (None, {"subtask": {"prompt": "x"}}, r"subtasks\.answer\.prompt: a subtask needs a prompt"),
        (None, {"subtask": {"prompt": "x", "keep_system_prompt": True}}, "goes with a program"),
    ],
)
def test_an_invalid_program_is_reported_with_its_place(
    program: Any, more: dict[str, Any], error: str, folder: Path
) -> None:
    with pytest.raises(TaskError, match=error):
        load_task(task_file(folder, program, **more))


def test_the_shipped_tasks_load() -> None:
    for name in ("quickstart-langgraph", "quickstart-shell"):
        assert load_task(TASKS / name, catalog=Catalog.load()).program
