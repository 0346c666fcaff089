"""Every family of the zoo is called from its example entry, and refuses what the family's endpoints refuse."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentopt.core.events import Event
from agentopt.evaluation.judge import VERDICT_SCHEMA
from agentopt.models.base import Message, Request, Response, ToolCall
from agentopt.models.catalog import Catalog, ModelSpec
from agentopt.models.check_entry import SCHEMA
from agentopt.models.request_fitting import response_format
from agentopt.models.responses_api import as_completion, responses_body
from agentopt.models.session import open_session
from agentopt.prompts.reflective import reply_schema
from agentopt.search.agent_prompts import guideline_schema, proposal_schema
from agentopt.search.settings import AgentSettings
from agentopt.testing.synthetic_landscape import synthetic_space
from agentopt.testing.zoo import THOUGHT, Zoo, example_entries
from agentopt.testing.zoo_families import FAMILIES, Family, family
from agentopt.testing.zoo_rules import KEY, check_request

EXAMPLES = (Path(__file__).parents[2] / "configs" / "models.yaml").read_text(encoding="utf-8")
QUESTION = (Message("system", "Be brief."), Message("user", "Fay lives in Oakby.\nIn which town does Fay live?"))
LOOSE_SCHEMA = '{"type": "object", "properties": {"town": {"type": "string"}, "why": {}}, "required": ["town"]}'
every_family = pytest.mark.parametrize("one", FAMILIES, ids=[known.name for known in FAMILIES])


async def responses(
    one: Family, tmp_path: Path, *requests: dict[str, Any], **entry: Any
) -> tuple[list[Response], Zoo, list[str]]:
    """The responses of a family to requests with these options, the zoo, and what was reported."""
    notices: list[Event] = []
    async with Zoo() as zoo:
        fields = {**example_entries(EXAMPLES, zoo)[one.name], **entry}
        catalog = Catalog({"m": ModelSpec(name="m", **fields)})
        journal = str(tmp_path / "journal.db")
        async with open_session(catalog, "run", journal=journal, observer=notices.append) as session:
            calls = [Request("m", QUESTION, **{"max_tokens": 200, **options}) for options in requests]
            return [await session.model.generate(call) for call in calls], zoo, [str(e) for e in notices]


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI", "ANTHROPIC", "GEMINI", "AZURE", "OPENROUTER", "GROQ", "DEEPSEEK", "MISTRAL", "DASHSCOPE"):
        monkeypatch.setenv(f"{name}_API_KEY", KEY)
    monkeypatch.setenv("VLLM_API_KEY", KEY)


@every_family
def test_a_plain_request_is_accepted_at_the_first_attempt(one: Family, tmp_path: Path) -> None:
    (response,), zoo, _ = asyncio.run(responses(one, tmp_path, {}))
    assert [exchange.refused for exchange in zoo.exchanges] == [None]
    assert [choice.text for choice in response.choices] == ["Oakby"]
    sent = zoo.exchanges[0]
    assert (response.prompt_tokens, response.completion_tokens) == (sent.prompt_tokens, sent.completion_tokens)
    shown = one.thoughts not in ("none", "hidden")
    assert response.choices[0].thought.strip() == (THOUGHT if shown else "")


@every_family
def test_a_request_with_every_parameter_gets_its_answers_after_at_most_one_refusal_each(
    one: Family, tmp_path: Path
) -> None:
    options = {"temperature": 0.5, "top_p": 0.9, "stop": ("\n",), "seed": 3, "n": 2, "json_schema": LOOSE_SCHEMA}
    (first, again), zoo, _ = asyncio.run(responses(one, tmp_path, options, {**options, "first_repeat": 2}))
    assert [choice.text for choice in (*first.choices, *again.choices)] == ["Oakby"] * 4
    refused = [exchange.refused.parameter for exchange in zoo.exchanges if exchange.refused]
    assert len(refused) <= 2, "found once, then remembered for the run"


@every_family
def test_a_wrong_key_is_refused_in_the_form_of_the_family(one: Family) -> None:
    if one.key_header is None:
        return

    async def status() -> int:
        async with Zoo() as zoo, httpx.AsyncClient() as client:
            return (await client.post(zoo.url + one.path, json={"model": "m", "messages": []})).status_code

    assert asyncio.run(status()) == 401


@every_family
def test_a_thought_that_takes_all_tokens_leaves_no_answer(one: Family, tmp_path: Path) -> None:
    if one.thoughts == "none":
        return
    (response,), _, _ = asyncio.run(responses(one, tmp_path, {"max_tokens": 5}))
    assert [(choice.text, choice.is_cut_off) for choice in response.choices] == [("", True)]


@pytest.mark.parametrize(
    ("name", "body", "rule"),
    [
        ("openai-reasoning", {"max_tokens": 5}, "Use 'max_completion_tokens' instead"),
        ("openai-reasoning", {"temperature": 1}, "'temperature' is not supported"),
        ("openai-plain", {"top_k": 5}, "Unrecognized request argument supplied: top_k"),
        ("gemini", {"seed": 5}, 'Unknown name "seed"'),
        ("groq", {"n": 2}, "must be at most 1"),
        ("mistral", {"seed": 5}, "Extra inputs are not permitted"),
        ("streaming-only", {"temperature": 1}, "only support stream mode"),
        ("deepseek", {"response_format": {"type": "json_schema"}}, "response_format type is unavailable"),
        ("vllm", {"stream_options": {}}, "only allowed when 'stream' is enabled"),
    ],
)
def test_the_rules_are_enforced(name: str, body: dict[str, Any], rule: str) -> None:
    messages = [{"role": "user", "content": "hi"}]
    headers = {"authorization": f"Bearer {KEY}"}
    refused = check_request(family(name), headers, {}, {"model": "m", "messages": messages, **body})
    assert refused
    assert rule in refused.message


@pytest.mark.parametrize(
    ("schema", "rule"),
    [
        ({"type": "object", "properties": {}}, "additionalProperties"),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": False}, "'required'"),
        ({"type": "string", "minLength": 1}, "'minLength' is not permitted"),
        ({"type": "array", "items": {"type": "object", "properties": {}}}, "additionalProperties"),
    ],
)
def test_a_strict_schema_must_satisfy_the_strict_rules(schema: dict[str, Any], rule: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": schema}}
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "response_format": form}
    refused = check_request(family("openai-plain"), {"authorization": f"Bearer {KEY}"}, {}, body)
    assert refused
    assert rule in refused.message
    form["json_schema"]["strict"] = False  # type: ignore[index]
    assert check_request(family("openai-plain"), {"authorization": f"Bearer {KEY}"}, {}, body) is None


@pytest.mark.parametrize(
    "schema",
    [
        reply_schema(None),
        reply_schema(200),
        json.dumps(VERDICT_SCHEMA),
        guideline_schema(synthetic_space(), AgentSettings(), first=True),
        guideline_schema(synthetic_space(), AgentSettings(), first=False),
        proposal_schema(synthetic_space(), [], 4),
        SCHEMA,
    ],
    ids=["writer", "writer with a bound", "judge", "first guidelines", "guidelines", "proposals", "models check"],
)
def test_no_schema_of_ours_breaks_the_strict_rules(schema: str) -> None:
    form = response_format(json.loads(schema))
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "response_format": form}
    assert check_request(family("openai-plain"), {"authorization": f"Bearer {KEY}"}, {}, body) is None


def test_messages_and_tools_in_the_form_of_the_responses_api() -> None:
    call = ToolCall("call_1", "look_up", '{"word": "x"}')
    messages = [
        Message("system", "Be brief.").body(),
        Message("user", "What is this?", parts=('{"type": "text", "text": "What is this?"}',)).body(),
        Message("assistant", "", tool_calls=(call,)).body(),
        Message("tool", "a letter", tool_call_id="call_1").body(),
    ]
    function = {"name": "look_up", "parameters": {"type": "object"}}
    sent = responses_body(
        {
            "model": "m",
            "messages": messages,
            "max_completion_tokens": 5,
            "reasoning_effort": "low",
            "tools": [{"type": "function", "function": function}],
            "tool_choice": {"type": "function", "function": {"name": "look_up"}},
            "store": False,
        }
    )
    assert sent["input"] == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "What is this?"}]},
        {"type": "function_call", "call_id": "call_1", "name": "look_up", "arguments": '{"word": "x"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "a letter"},
    ]
    assert (sent["max_output_tokens"], sent["reasoning"], sent["store"]) == (16, {"effort": "low"}, False)
    assert sent["tools"] == [{"type": "function", **function}]
    assert sent["tool_choice"] == {"type": "function", "name": "look_up"}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"choices": []}, {"choices": []}),
        ("text", "text"),
        ({"output": "text"}, {"output": "text"}),
        ({"output": [], "error": {"message": "no"}}, {"choices": [], "usage": None, "error": {"message": "no"}}),
    ],
)
def test_an_answer_that_is_no_response_is_left_to_the_reader_of_completions(answer: Any, expected: Any) -> None:
    assert as_completion(answer) == expected


def test_tool_calls_and_thoughts_of_the_responses_api_are_read() -> None:
    summary = [{"type": "summary_text", "text": "Look it up."}]
    call = {"type": "function_call", "call_id": "c", "name": "look_up", "arguments": "{}"}
    read = as_completion({"output": [{"type": "reasoning", "summary": summary}, call, None], "usage": None})
    (choice,) = read["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == [{"type": "reasoning", "text": "Look it up."}]
    assert choice["message"]["tool_calls"] == [{"id": "c", "function": {"name": "look_up", "arguments": "{}"}}]
