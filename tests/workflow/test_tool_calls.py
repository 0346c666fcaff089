"""Tools through the gateway: calls reach the model and come back intact, vote, are stored and are charged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from agentopt.api import aevaluate
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.task import Fusion, Program, Unparsable
from agentopt.models.base import Choice, Message, Request, ToolCall
from agentopt.models.catalog import Catalog
from agentopt.models.scripted import ScriptedModel
from agentopt.runs.config import Config
from agentopt.testing.toy import LARGE, SMALL, toy_task
from agentopt.workflow.sampling import SubtaskSampler
from agentopt.workflow.tool_calls import CalledTools, read_tool_calls, vote_on_calls

TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search.",
        "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
        "strict": False,
    },
}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
FIND = toy_task()["find"]


def call(arguments: str, name: str = "search", number: int = 0) -> ToolCall:
    return ToolCall(f"call_{number}", name, arguments)


def called(*calls: ToolCall, text: str = "") -> CalledTools:
    return CalledTools(text, calls)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a": 1, "b": "x"}', '{"b":"x","a":1.0}'),
        ('{"query": "Paris "}', '{"query": "paris"}'),
        ("", "{}"),
        ('{"a": {"c": [1, 2], "b": null}}', '{"a": {"b": null, "c": [1, 2]}}'),
        ("{not  json", "{not json"),
    ],
)
def test_calls_that_mean_the_same_vote_together(one: str, other: str) -> None:
    assert called(call(one)).key == called(call(other, number=1), text="I search.").key


@pytest.mark.parametrize(
    ("one", "other"),
    [('{"a": 1}', '{"a": 2}'), ('{"a": [1, 2]}', '{"a": [2, 1]}'), ('{"a": true}', '{"a": 1}'), ('{"a": "1"}', "[]")],
)
def test_calls_that_differ_do_not(one: str, other: str) -> None:
    assert called(call(one)).key != called(call(other)).key
    assert called(call(one)).key != called(call(one, "other")).key


def test_parallel_calls_vote_in_any_order_and_the_earliest_of_equals_wins() -> None:
    a, b = call('{"q": "a"}'), call('{"q": "b"}', number=1)
    assert called(a, b).key == called(b, a).key
    assert vote_on_calls([called(b), called(a, b), called(b, a)]) == called(a, b)
    assert vote_on_calls([called(b), called(a)]) == called(b)


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_a_call_that_was_cut_off_is_unusable_and_a_whole_one_is_not(reason: str) -> None:
    with pytest.raises(Unparsable, match="incomplete"):
        read_tool_calls(Choice("", 4, reason, tool_calls=(call('{"query": "Pa'),)))
    assert read_tool_calls(Choice("", 4, reason, tool_calls=(call("{}"),))).calls == (call("{}"),)


def calls(*arguments: str) -> list[str | Choice]:
    return [Choice("", 3, "tool_calls", tool_calls=(call(text, number=i),)) for i, text in enumerate(arguments)]


@pytest.mark.parametrize(
    ("replies", "expected"),
    [
        (calls('{"q":"b"}', '{"q": "a"}', '{"q":"a"}'), '{"q": "a"}'),
        ([*calls('{"q": "a"}'), "key", "key"], "key"),
        ([*calls('{"q": "a"}', '{"q": "b"}'), "key"], '{"q": "a"}'),
        ([*calls('{"q": "a"}'), "key"], '{"q": "a"}'),
        (["key", *calls('{"q": "a"}')], "key"),
    ],
)
@pytest.mark.parametrize("method", ["vote", "first", "fuse"])
async def test_samples_vote_first_on_whether_a_tool_is_called(
    replies: list[str | Choice], expected: str, method: str
) -> None:

    model = ScriptedModel(lambda request, repeat: replies[repeat] if request.purpose == "samples" else "key")
    sampler = SubtaskSampler(model, {SMALL: Catalog.load()[SMALL]})
    subtask = replace(FIND, fusion=Fusion(method), tools=(json.dumps(TOOL),))
    answer = await sampler.answer(subtask, SubtaskChoice(SMALL, len(replies)), "?", {})
    got = answer.value.calls[0].arguments if isinstance(answer.value, CalledTools) else answer.value
    assert (got, answer.finish_reason) == (expected, "stop" if expected == "key" else "tool_calls")
    assert model.requests[0].tools == (json.dumps(TOOL),)


async def test_a_fusion_after_a_tools_result_keeps_the_result_and_calls_no_tool() -> None:

    model = ScriptedModel(lambda request, repeat: f"a{repeat}" if request.purpose == "samples" else "fused")
    sampler = SubtaskSampler(model, {SMALL: Catalog.load()[SMALL]})
    subtask = replace(FIND, fusion=Fusion("fuse"), tools=(json.dumps(TOOL),))
    messages = (
        Message("user", "Where?"),
        Message("assistant", "", tool_calls=(call("{}"),)),
        Message("tool", "found", tool_call_id="call_0"),
    )
    answer = await sampler.answer(subtask, SubtaskChoice(SMALL, 2), messages, {})
    assert answer.value == "fused"
    sent = model.requests[1].messages
    assert sent[:3] == messages
    assert sent[3].role == "user"
    assert "Where?" in sent[3].content
    assert model.requests[1].tool_choice == '"none"'


def react(replies: list[Any]) -> Any:
    """A program that calls tools until the model gives an answer, and keeps what it received in `replies`."""

    async def run(inputs: Any, endpoint: Any) -> str:
        messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": f"Q {inputs['number']}"}, IMAGE]}]
        async with AsyncOpenAI(**endpoint) as client:
            while True:
                call: Any = {"messages": messages, "tools": [TOOL], "tool_choice": "auto"}
                done = await client.chat.completions.create(model="agentopt/find", **call)
                choice = done.choices[0]
                replies.append(choice)
                if not choice.message.tool_calls:
                    return choice.message.content or ""
                messages.append(choice.message.model_dump(exclude_none=True))
                messages += [
                    {"role": "tool", "tool_call_id": c.id, "content": f"result of {c.function.arguments}"}
                    for c in choice.message.tool_calls
                ]

    return run


async def test_a_program_with_tools_gets_its_calls_intact_and_they_are_stored_and_charged(tmp_path: Path) -> None:
    arguments = '{ "query":"Zoë" , "n": 1 }'

    def answer(request: Request, repeat: int) -> str | Choice:
        if request.messages[-1].role == "tool":
            return "word-" + request.messages[0].content.removeprefix("Q ")
        wrong = repeat == 1
        return Choice(
            "", 5, "tool_calls", tool_calls=(call('{"query": "?"}' if wrong else arguments, number=repeat), call("{}"))
        )

    replies: list[Any] = []
    task = replace(toy_task(validation=2, test=2), program=Program(function=react(replies)))
    candidate = Candidate.of({"find": SubtaskChoice(LARGE, 3), "answer": SubtaskChoice(SMALL)})
    config = Config(journal=str(tmp_path / "journal.db"))
    model = ScriptedModel(answer)
    first = await aevaluate(task, candidate, config, provider=model)
    assert set(first.scores.values()) == {1.0}
    assert sorted(c.finish_reason for c in replies) == ["stop", "stop", "tool_calls", "tool_calls"]
    tool_call = next(c for c in replies if c.message.tool_calls).message.tool_calls[0]
    assert (tool_call.function.name, tool_call.function.arguments) == ("search", arguments)
    asked = model.requests[0]
    assert json.loads(asked.tools[0]) == TOOL
    assert asked.tool_choice == '"auto"'
    assert [json.loads(part) for part in asked.messages[0].parts][1] == IMAGE
    assert first.results[0].subtasks["find"].completion_tokens == 15 + 3
    again = await aevaluate(task, candidate, config, provider=ScriptedModel(script=()))
    assert again.scores == first.scores
    assert len(replies) == 8
