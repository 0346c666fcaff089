"""A subtask consults its tool before it is asked, and its prompt reads what the tool gives."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentopt.core.errors import PermanentModelError, ScorerError, TaskError, UserError
from agentopt.core.records import Answer, SubtaskUse
from agentopt.core.task import Example, Subtask, Task, Tool
from agentopt.evaluation.scorers import exact_match
from agentopt.taskfile.loading import load_task
from agentopt.workflow.graph import run_workflow
from agentopt.workflow.templates import compile_template

EXAMPLE = Example("e7", {"question": "Who?"}, "Kell")


def chain(tool: Tool) -> Task:
    first = Subtask("find", compile_template("{{ inputs.question }}").render, ("m",))
    prompt = compile_template("{{ find.output }} {{ tool.output }}").render
    second = Subtask("answer", prompt, ("m",), reads=("find",), tool=tool)
    return Task("t", (first, second), exact_match(), {"validation": (EXAMPLE,)})


async def echo(subtask: Subtask, prompt: str, example: Example) -> Answer:
    return Answer(f"<{prompt}>", SubtaskUse())


async def test_the_prompt_reads_what_the_tool_made_of_inputs_and_outputs() -> None:
    def count(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
        return f"{inputs['question']} has {len(outputs['find'])}, {sorted(outputs)}"

    result = await run_workflow(chain(count), EXAMPLE, echo)
    assert result.output == "<<Who?> Who? has 6, ['find']>"
    assert list(result.outputs) == ["find", "answer"]


async def test_a_tool_may_be_async_and_one_that_is_not_leaves_the_event_loop_alone() -> None:
    async def here(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> bool:
        return threading.current_thread() is threading.main_thread()

    def elsewhere(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> bool:
        return threading.current_thread() is not threading.main_thread()

    for tool in (here, elsewhere):
        assert (await run_workflow(chain(tool), EXAMPLE, echo)).output == "<<Who?> True>"


async def test_an_object_that_is_async_when_called_is_a_tool_too() -> None:
    class Asked:
        async def __call__(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
            return "told"

    assert (await run_workflow(chain(Asked()), EXAMPLE, echo)).output == "<<Who?> told>"


async def test_a_tool_that_fails_is_a_failure_on_the_example_and_no_wrong_answer() -> None:
    def broken(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
        raise KeyError("gone")

    with pytest.raises(ScorerError, match="the prompt of answer on example e7 failed: KeyError: 'gone'"):
        await run_workflow(chain(broken), EXAMPLE, echo)


async def test_a_tool_is_not_consulted_where_an_earlier_output_is_missing() -> None:
    def never(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
        raise PermanentModelError("the tool was consulted")

    async def nothing(subtask: Subtask, prompt: str, example: Example) -> Answer:
        return Answer(None, SubtaskUse())

    assert (await run_workflow(chain(never), EXAMPLE, nothing)).output is None


def folder(path: Path, **answer: Any) -> Path:
    for split in ("validation", "test"):
        row = {"id": split, "question": f"{split}?", "target": "x"}
        (path / f"{split}.jsonl").write_text(json.dumps(row))
    (path / "tools.py").write_text("def look(inputs, outputs):\n    return outputs['find'] + '!'\n")
    find = {"name": "find", "prompt": "{{ inputs.question }}", "models": ["m"]}
    task = {
        "name": "toy",
        "data": {"validation": "validation.jsonl", "test": "test.jsonl"},
        "subtasks": [find, {"name": "answer", "models": ["m"], **answer}],
        "scorer": {"kind": "exact_match"},
    }
    (path / "task.yaml").write_text(yaml.safe_dump(task))
    return path


async def test_a_task_file_names_a_tool_by_file_and_function(tmp_path: Path) -> None:
    task = load_task(folder(tmp_path, prompt="{{ find.output }} {{ tool.output }}", tool="tools.py:look"))
    assert task["answer"].reads == ("find",)
    result = await run_workflow(task, task.splits["test"][0], echo)
    assert result.output == "<<test?> <test?>!>"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"prompt": "{{ find.output }} {{ tool.output }}"}, "the template reads `tool`, which is neither"),
        (
            {"prompt": "{{ find.output }} {{ tool.printed }}", "tool": "tools.py:look"},
            "reads a subtask as `tool.output`, but got `tool.printed`",
        ),
        ({"prompt": "{{ find.output }}", "tool": "tools.py:missing"}, "must have a function 'missing'"),
        ({"prompt": "{{ find.output }}", "name": "tool"}, "`tool` is what a subtask's tool gives"),
    ],
)
def test_a_mistake_about_a_tool_is_told_with_its_place(tmp_path: Path, answer: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError, match=r"task\.yaml: ") as told:
        load_task(folder(tmp_path, **answer))
    assert message in told.value.message
    assert told.value.remedy


def test_a_file_that_says_itself_what_is_missing_is_not_called_broken(tmp_path: Path) -> None:
    task = folder(tmp_path, prompt="{{ find.output }}", tool="tools.py:look")
    code = "from agentopt.core.errors import UserError\nraise UserError('no sandbox', remedy='install one')\n"
    (task / "tools.py").write_text(code)
    with pytest.raises(UserError, match=r"^no sandbox\n  remedy: install one$"):
        load_task(task)
