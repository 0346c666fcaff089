"""A subtask calls its context function before its prompt is rendered, and the prompt reads the result."""

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
from agentopt.core.task import ContextFunction, Example, Subtask, Task
from agentopt.evaluation.scorers import exact_match
from agentopt.taskfile.loading import load_task
from agentopt.workflow.base import Prompt
from agentopt.workflow.graph import SubtaskGraph
from agentopt.workflow.templates import compile_template

EXAMPLE = Example("e7", {"question": "Who?"}, "Kell")


def chain(context: ContextFunction) -> Task:
    first = Subtask("find", compile_template("{{ inputs.question }}").render, ("m",))
    prompt = compile_template("{{ find.output }} {{ context.output }}").render
    second = Subtask("answer", prompt, ("m",), reads=("find",), context=context)
    return Task("t", (first, second), exact_match(), {"validation": (EXAMPLE,)})


async def echo(subtask: Subtask, prompt: Prompt, /, *, occurrence: int = 0) -> Answer:
    return Answer(f"<{prompt}>", SubtaskUse())


async def test_the_prompt_reads_the_context_made_of_inputs_and_outputs() -> None:
    def count(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
        return f"{inputs['question']} has {len(outputs['find'])}, {sorted(outputs)}"

    result = await SubtaskGraph(chain(count)).run(EXAMPLE, echo)
    assert result.output == "<<Who?> Who? has 6, ['find']>"
    assert list(result.outputs) == ["find", "answer"]


async def test_a_context_function_may_be_async_and_a_sync_one_runs_in_a_thread() -> None:
    async def here(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> bool:
        return threading.current_thread() is threading.main_thread()

    def elsewhere(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> bool:
        return threading.current_thread() is not threading.main_thread()

    for function in (here, elsewhere):
        assert (await SubtaskGraph(chain(function)).run(EXAMPLE, echo)).output == "<<Who?> True>"


async def test_an_object_with_an_async_call_is_a_context_function_too() -> None:
    class Lookup:
        async def __call__(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
            return "found"

    assert (await SubtaskGraph(chain(Lookup())).run(EXAMPLE, echo)).output == "<<Who?> found>"


async def test_a_context_function_that_fails_is_a_failure_on_the_example_and_no_wrong_answer() -> None:
    def broken(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
        raise KeyError("gone")

    with pytest.raises(
        ScorerError, match="of answer on example e7: the context function `broken` failed: KeyError: 'gone'"
    ):
        await SubtaskGraph(chain(broken)).run(EXAMPLE, echo)


async def test_the_context_function_is_not_called_if_an_earlier_output_is_missing() -> None:
    def never(inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
        raise PermanentModelError("the context function was called")

    async def nothing(subtask: Subtask, prompt: Prompt, /, *, occurrence: int = 0) -> Answer:
        return Answer(None, SubtaskUse())

    assert (await SubtaskGraph(chain(never)).run(EXAMPLE, nothing)).output is None


def folder(path: Path, **answer: Any) -> Path:
    for split in ("validation", "test"):
        row = {"id": split, "question": f"{split}?", "target": "x"}
        (path / f"{split}.jsonl").write_text(json.dumps(row))
    (path / "lookup.py").write_text("def look(inputs, outputs):\n    return outputs['find'] + '!'\n")
    find = {"name": "find", "prompt": "{{ inputs.question }}", "models": ["m"]}
    task = {
        "name": "toy",
        "data": {"validation": "validation.jsonl", "test": "test.jsonl"},
        "subtasks": [find, {"name": "answer", "models": ["m"], **answer}],
        "scorer": {"kind": "exact_match"},
    }
    (path / "task.yaml").write_text(yaml.safe_dump(task))
    return path


async def test_a_task_file_names_a_context_function_by_file_and_function(tmp_path: Path) -> None:
    task = load_task(folder(tmp_path, prompt="{{ find.output }} {{ context.output }}", context="lookup.py:look"))
    assert task["answer"].reads == ("find",)
    result = await SubtaskGraph(task).run(task.splits["test"][0], echo)
    assert result.output == "<<test?> <test?>!>"


@pytest.mark.parametrize(
    ("key", "name"), [("tool", "tool"), ("tool", "context"), ("context", "tool"), ("context", "context")]
)
async def test_the_old_key_and_the_old_template_name_still_load(tmp_path: Path, key: str, name: str) -> None:
    prompt = f"{{{{ find.output }}}} {{{{ {name}.output }}}}"
    task = load_task(folder(tmp_path, prompt=prompt, **{key: "lookup.py:look"}))
    assert (await SubtaskGraph(task).run(task.splits["test"][0], echo)).output == "<<test?> <test?>!>"


async def test_a_subtask_may_be_named_context_if_no_context_function_hides_it(tmp_path: Path) -> None:
    file = folder(tmp_path, prompt="{{ context.output }}") / "task.yaml"
    file.write_text(file.read_text().replace("name: find", "name: context"))
    task = load_task(tmp_path)
    assert (await SubtaskGraph(task).run(task.splits["test"][0], echo)).output == "<<test?>>"
    with pytest.raises(TaskError, match="either a subtask or the result of the context function"):
        load_task(tmp_path, overrides={"subtasks.answer.context": "lookup.py:look"})


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"prompt": "{{ find.output }} {{ context.output }}"}, "the template reads `context`, which is neither"),
        (
            {"prompt": "{{ find.output }} {{ context.printed }}", "context": "lookup.py:look"},
            "reads a subtask as `context.output`, but got `context.printed`",
        ),
        ({"prompt": "{{ find.output }}", "context": "lookup.py:missing"}, "must have a function 'missing'"),
        (
            {"prompt": "{{ find.output }}", "tool": "lookup.py:look", "context": "lookup.py:look"},
            "`tool` is the old name of `context`, but both are given",
        ),
        ({"prompt": "{{ find.output }}", "name": "tool"}, "`tool` is the old name of `context`"),
    ],
)
def test_a_mistake_about_a_context_function_is_reported_with_its_place(
    tmp_path: Path, answer: dict[str, Any], message: str
) -> None:
    with pytest.raises(TaskError, match=r"task\.yaml: ") as raised:
        load_task(folder(tmp_path, **answer))
    assert message in raised.value.message
    assert raised.value.remedy


def test_a_user_error_of_a_task_file_is_raised_unchanged(tmp_path: Path) -> None:
    task = folder(tmp_path, prompt="{{ find.output }}", context="lookup.py:look")
    code = "from agentopt.core.errors import UserError\nraise UserError('no sandbox', remedy='install one')\n"
    (task / "lookup.py").write_text(code)
    with pytest.raises(UserError, match=r"^no sandbox\n  remedy: install one$"):
        load_task(task)
