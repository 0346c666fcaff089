"""taskbench on rows of our own in TaskBench's format: loading, its three measures, and whole runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentopt import aevaluate, load_config, load_task
from agentopt.core.errors import TaskError
from agentopt.core.extras import install_command
from agentopt.core.records import Evaluation, Score
from agentopt.core.task import Example, Task, Unparsable
from agentopt.core.user_functions import Functions
from agentopt.models.base import Request
from agentopt.models.catalog import Catalog
from agentopt.models.scripted import ScriptedModel

FOLDER = Path(__file__).parents[2] / "tasks" / "taskbench"
Row = dict[str, Any]
Call = dict[str, Any]
COUNT = 6

TOOLS = {
    "nodes": [
        {"id": "ring_bell", "desc": "Ring a bell", "parameters": [{"name": "bell", "type": "string", "desc": "Which"}]},
        {
            "id": "send_boat",
            "desc": "Send a boat",
            "parameters": [
                {"name": "to", "type": "string", "desc": "The town"},
                {"name": "crew", "type": "number", "desc": "How many"},
            ],
        },
        *({"id": f"tool_{k}", "desc": f"Does {k}", "parameters": []} for k in range(12)),
    ]
}


def call(task: str, **arguments: Any) -> Call:
    return {"task": task, "arguments": [{"name": name, "value": value} for name, value in arguments.items()]}


def from_repository(n: int) -> Row:
    nodes = [call("ring_bell", bell=f"Emma {n}"), call("send_boat", to="Vård", crew=1200)]
    steps = [f"Step 1: Ring the bell Emma {n}", "Step 2: Send a boat to Vård"]
    links = [{"source": "ring_bell", "target": "send_boat"}]
    row = {"id": f"77{n}", "n_tools": 2, "type": "chain", "instruction": f"Ring Emma {n}, then send 1200 men to Vård."}
    return row | {"task_nodes": nodes, "task_links": links, "task_steps": steps}


def from_hub(n: int) -> Row:
    row = from_repository(n)
    for name in ("nodes", "links", "steps"):
        row[f"tool_{name}"] = json.dumps(row.pop(f"task_{name}"))
    return row


def settings(folder: Path, rows: list[Row], *more: str) -> list[str]:
    file, tools = folder / "rows.jsonl", folder / "tool_desc.json"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tools.write_text(json.dumps(TOOLS))
    return [f"data={file}", f"data.options.tools_file={tools}", f"journal={folder / 'journal.db'}", *more]


def loaded(folder: Path, rows: list[Row], *more: str) -> Task:
    overrides = load_config(settings(folder, rows, *more)).task
    return load_task(FOLDER, catalog=Catalog.load(), overrides=overrides)


def examples(task: Task) -> list[Example]:
    return [example for split in task.splits.values() for example in split]


@pytest.mark.parametrize("row", [from_repository, from_hub])
def test_rows_of_the_repository_and_of_the_hub_become_the_same_examples(
    row: Callable[[int], Row], tmp_path: Path
) -> None:
    task = loaded(tmp_path, [row(n) for n in range(COUNT)], "data.options.max_tools=5")
    assert len(examples(task)) == COUNT
    example = next(e for e in examples(task) if e.id == "773")
    assert example.target == [
        ["ring_bell", "bell", "Emma 3"],
        ["send_boat", "to", "Vård"],
        ["send_boat", "crew", "1200"],
    ]
    assert example.metadata["tools"] == ["ring_bell", "send_boat"]
    assert example.metadata["steps"][0] == "Step 1: Ring the bell Emma 3"
    names = [tool["name"] for tool in example.inputs["tools"]]
    assert len(names) == len(set(names)) == 5
    assert {"ring_bell", "send_boat"} <= set(names)


def test_values_that_are_no_texts_are_written_as_json() -> None:
    written = Functions(FOLDER)("reader.py:written", "here")
    assert [written(value) for value in ("1,200", 1200, 1.5, ["b", "ö"], {"b": 1, "a": 2}, True)] == [
        "1,200",
        "1200",
        "1.5",
        '["b", "ö"]',
        '{"a": 2, "b": 1}',
        "true",
    ]


def test_rows_that_need_more_tools_than_are_shown_or_unknown_ones_are_skipped(tmp_path: Path) -> None:
    unknown = from_repository(7) | {"task_nodes": [call("fly_home")]}
    none = from_repository(8) | {"task_nodes": []}
    rows = [*(from_repository(n) for n in range(COUNT)), unknown, none]
    assert len(examples(loaded(tmp_path, rows))) == COUNT
    with pytest.raises(TaskError, match="has 0"):
        loaded(tmp_path, rows, "data.options.max_tools=1")


def test_the_file_of_the_tools_must_be_given(tmp_path: Path) -> None:
    given = [s for s in settings(tmp_path, [from_repository(0)]) if "tools_file" not in s]
    with pytest.raises(TaskError, match=r"needs the option 'tools_file'[\s\S]*-c data\.options\.tools_file="):
        load_task(FOLDER, overrides=load_config(given).task)


# By hand: tools and arguments are sets, and F1 is 2 * shared / (given + needed).
scorers = Functions(FOLDER)
RIGHT = [call("ring_bell", bell="Emma"), call("send_boat", to="Vård", crew="1,200")]
TARGET = [["ring_bell", "bell", "Emma"], ["send_boat", "to", "Vård"], ["send_boat", "crew", "1,200"]]


@pytest.mark.parametrize(
    ("output", "f1"),
    [
        (RIGHT, 1),
        (RIGHT[::-1], 1),
        (RIGHT + RIGHT, 1),
        ([call("ring_bell", bell="Emma")], 2 * 1 / (1 + 3)),
        ([call("ring_bell", bell="emma")], 0),
        ([call("ring_bell", bell="Emma "), call("send_boat", to="Vard")], 0),
        ([call("send_boat", to="Vård", crew="1200")], 2 * 1 / (2 + 3)),
        ([call("ring_bell", to="Emma"), call("send_boat", bell="Emma")], 0),
        ([*RIGHT, call("tool_1", x="y")], 2 * 3 / (4 + 3)),
        ([call("ring_bell"), call("send_boat")], 0),
        ([], 0),
        (None, 0),
    ],
)
def test_an_argument_is_right_when_tool_name_and_value_are(output: list[Call] | None, f1: float) -> None:
    score = scorers("scorers.py:parameter_f1", "here")(Example("e", {}, TARGET), output)
    assert isinstance(score, Score)
    assert score.value == pytest.approx(f1)
    assert (score.feedback == "") == (f1 == 1)


def test_a_request_that_needs_no_argument_is_right_without_one() -> None:
    judge = scorers("scorers.py:parameter_f1", "here")
    assert judge(Example("e", {}, []), [call("tool_1")]) == Score(1.0)
    assert judge(Example("e", {}, []), [call("tool_1", x="ü")]) == Score(0.0, 'not expected: [["tool_1", "x", "ü"]]')


@pytest.mark.parametrize(
    ("output", "f1"),
    [
        (["ring_bell", "send_boat"], 1),
        (["send_boat", "ring_bell", "ring_bell"], 1),
        (["ring_bell"], 2 / 3),
        (["ring_bell", "Send_Boat"], 0.5),
        (["ring_bell", "send_boat", "fly_home"], 0.8),
        ([""], 0),
        ([], 0),
    ],
)
def test_tools_are_judged_by_the_f1_of_their_names(output: list[str], f1: float) -> None:
    example = Example("e", {}, [], {"tools": ["ring_bell", "send_boat"]})
    assert scorers("scorers.py:node_f1", "here")(example, output) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("steps", "output", "score"),
    [
        (["Ring the bell", "Send a boat"], "Ring the bell\nSend a boat", 1),
        (["Ring the bell", "Send a boat"], "RING, the bell; send a BOAT!", 1),
        (["ring the bell now"], "ring a bell", 2 * 2 / (4 + 3)),
        (["one two three four"], "four three two one", 0.25),
        (["ringing bells"], "ring bell", 0),
        (["pay 1,200 crowns"], "pay 1200 crowns", 2 * 2 / (4 + 3)),
        (["Vård"], "v rd", 1),
        (["東京"], "東京", 0),
        (["ring"], "", 0),
        ([], "ring", 0),
    ],
)
def test_steps_are_judged_by_rouge_l(steps: list[str], output: str, score: float) -> None:
    judge = scorers("scorers.py:rouge_l", "here")
    assert judge(Example("e", {}, [], {"steps": steps}), output) == pytest.approx(score)


def test_a_missing_library_is_reported_with_its_remedy() -> None:
    code = f"""
import sys
sys.modules["rouge_score"] = None
from agentopt.core.user_functions import Functions
from pathlib import Path
Functions(Path({str(FOLDER)!r}))("scorers.py:rouge_l", "here")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UserError: scoring this task needs rouge_score" in done.stderr
    assert f"remedy: {install_command('tasks')}" in done.stderr


def answering(**replies: str) -> ScriptedModel:
    """A model with the right reply for every subtask, unless `replies` has another one."""

    def answer(request: Request, _: int) -> str:
        text = request.messages[-1].content
        n = text.partition("Ring Emma ")[2].partition(",")[0]
        right = {"Write the steps": "\n".join(from_repository(int(n))["task_steps"])}
        right["Reply with a JSON list"] = '["ring_bell", "send_boat"]'
        calls = [call("ring_bell", bell=f"Emma {n}"), call("send_boat", to="Vård", crew="1200")]
        right["Reply with JSON"] = json.dumps(calls)
        subtask = next(words for words in right if words in text)
        return {"Write the steps": replies.get("decompose"), "Reply with a JSON list": replies.get("select")}.get(
            subtask, replies.get("fill")
        ) or right[subtask]

    return ScriptedModel(answer)


async def run(folder: Path, model: ScriptedModel, *more: str) -> Evaluation:
    rows = [from_repository(n) for n in range(COUNT)]
    return await aevaluate(FOLDER, None, load_config(settings(folder, rows, *more)), provider=model)


def means(evaluation: Evaluation) -> dict[str, float]:
    values = {name: list(of.values()) for name, of in evaluation.metrics.items()}
    return {name: sum(of) / len(of) for name, of in values.items()}


async def test_the_right_plan_tools_and_arguments_score_1(tmp_path: Path) -> None:
    evaluation = await run(tmp_path, answering())
    assert (evaluation.state, evaluation.score) == ("complete", 1.0)
    measures = ("rouge_l", "node_f1", "link_f1", "edit_similarity", "argument_name_f1")
    assert means(evaluation) == dict.fromkeys(measures, 1.0)


BELL = '{"task": "ring_bell", "arguments": {"bell": "Emma 3"}}'
FORMS = {
    "lone object": ('{"task": "ring_bell", "arguments": [{"name": "bell", "value": "Emma 3"}]}', 1),
    "one a line": (BELL + '\n{"task": "send_boat", "arguments": [{"name": "to", "value": "Vård"}]}', 2),
    "numbered": ("1. " + BELL + '\n2. {"task": "send_boat", "arguments": {"crew": 1200}}', 2),
    "extra id": (
        '[{"id": 0, "task": "send_boat", "arguments": [{"name": "to", "value": "Vård", "type": "string"}]}]',
        1,
    ),
    "arguments as an object": ('[{"task": "send_boat", "arguments": {"to": "Vård", "crew": "1200"}}]', 2),
    "numeric values": ('[{"task": "send_boat", "arguments": [{"name": "crew", "value": 1200}]}]', 1),
    "a float": ('[{"task": "send_boat", "arguments": {"crew": 1200.0}}]', 1),
    "in an object": ('{"calls": [{"tool": "ring_bell", "parameters": {"bell": "Emma 3"}}]}', 1),
    "in two fences": (
        f"```json\n{BELL}\n```\nand\n```json\n" + '{"task": "send_boat", "arguments": {"to": "Vård"}}\n```',
        2,
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("thought", ["", '<think>[{"task": "tool_1", "arguments": []}]</think>\n'])
async def test_calls_are_read_in_the_forms_that_models_write(tmp_path: Path, form: str, thought: str) -> None:
    reply, right = FORMS[form]
    rows = [from_repository(3), from_repository(4), from_repository(5)]
    config = load_config(settings(tmp_path, rows))
    evaluation = await aevaluate(FOLDER, None, config, provider=answering(fill=thought + reply))
    wanted = [["ring_bell", "bell", "Emma 3"], ["send_boat", "to", "Vård"], ["send_boat", "crew", "1200"]]
    read = scorers("parsing.py:calls", "here")(reply)
    given = {(call["task"], a["name"], a["value"]) for call in read for a in call["arguments"]}
    assert len(given & {(a, b, c) for a, b, c in wanted}) == len(given) == right
    assert all(result.output == str(read) for result in evaluation.results)


@pytest.mark.parametrize(
    "reply",
    [
        '["ring_bell", "send_boat"]',
        '[{"task": "ring_bell"}, {"task": "send_boat", "id": 2}]',
        '{"tools": ["ring_bell", "send_boat"]}',
        '{"task": "ring_bell"}\n{"task": "send_boat"}',
        '```json\n["ring_bell", "send_boat"]\n```',
    ],
)
def test_tools_are_read_in_the_forms_that_models_write(reply: str) -> None:
    assert scorers("parsing.py:tools", "here")(reply) == ["ring_bell", "send_boat"]


@pytest.mark.parametrize(
    "reply", ["", "none", "[]", "[1]", "{}", '[{"task": "ring_bell", "arguments": [{"name": "x", "value": "y"}]']
)
def test_a_reply_without_a_call_is_unparsable(reply: str) -> None:
    for function in ("parsing.py:calls", "parsing.py:tools"):
        with pytest.raises(Unparsable):
            scorers(function, "here")(reply)


LINKED = Example("e", {}, TARGET, {"sequence": ["a", "b", "c"], "links": [["a", "b"], ["b", "c"]]})


@pytest.mark.parametrize(
    ("output", "link_f1", "similarity"),
    [
        (["a", "b", "c"], 1, 1),
        (["a", "b"], 2 / 3, 4 / 5),
        (["c", "b", "a"], 0, 1 / 3),
        (["a", "b", "c", "d"], 2 * 2 / 5, 6 / 7),
        (["a"], 0, 0.5),
        (["d"], 0, 0),
    ],
)
def test_links_and_the_order_of_the_tools_are_judged(output: list[str], link_f1: float, similarity: float) -> None:
    assert scorers("scorers.py:link_f1", "here")(LINKED, output) == pytest.approx(link_f1)
    assert scorers("scorers.py:edit_similarity", "here")(LINKED, output) == pytest.approx(similarity)


def test_names_of_arguments_are_judged_without_their_values() -> None:
    judge = scorers("scorers.py:argument_name_f1", "here")
    assert judge(Example("e", {}, TARGET), [call("ring_bell", bell="Oskar")]) == pytest.approx(2 / 4)
    assert judge(Example("e", {}, TARGET), None) == 0
    assert judge(Example("e", {}, []), []) == 1


async def test_the_last_subtask_sees_only_the_tools_that_were_chosen(tmp_path: Path) -> None:
    model = answering(select='["send_boat"]')
    evaluation = await run(tmp_path, model, "data.limit.test=1")
    asked = model.requests[-1].messages[-1].content
    assert "Tool send_boat: Send a boat\n  argument to: The town\n  argument crew: How many\n" in asked
    assert "ring_bell" not in asked
    assert means(evaluation)["node_f1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("replies", "measured"),
    [
        ({"fill": '[{"task": "ring_bell", "arguments": [{"na'}, (0, 1)),
        ({"fill": "I would ring the bell."}, (0, 1)),
        ({"fill": '```json\n[{"task": "tool_1", "arguments": []}]\n```'}, (0, 1)),
        ({"select": '{"tools": '}, (0, 0)),
        ({"select": '["tool_1"] is what is needed'}, (1, 0)),
    ],
    ids=["cut JSON", "prose", "fenced JSON", "no list", "wrong tool"],
)
async def test_replies_that_are_no_json_are_wrong_answers_and_no_failures(
    tmp_path: Path, replies: dict[str, str], measured: tuple[float, float]
) -> None:
    evaluation = await run(tmp_path, answering(**replies))
    assert evaluation.state == "complete"
    assert (evaluation.score, means(evaluation)["node_f1"]) == measured
    assert means(evaluation)["rouge_l"] == 1.0
