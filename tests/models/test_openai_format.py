"""The OpenAI wire format, held against the types of the installed openai package."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.pagination import SyncPage
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from agentopt.core.errors import ApiError, BudgetExceeded, PermanentModelError, ScorerError
from agentopt.models.base import Choice, Message
from agentopt.models.openai_completion import DONE, ChatStream, Completion, event, model_body, models_body
from agentopt.models.openai_format import (
    MOST_CHOICES,
    ChatCall,
    from_failure,
    model_in,
    no_such_model,
    no_such_path,
    parse_call,
    read_body,
    too_large,
    wrong_key,
    wrong_method,
)

ASKED = {"model": "agentopt/find", "messages": [{"role": "user", "content": "Where?"}]}


def call(**more: Any) -> ChatCall:
    return parse_call(json.dumps({**ASKED, **more}))


def refusal(**more: Any) -> ApiError:
    with pytest.raises(ApiError) as refused:
        call(**more)
    assert refused.value.status == 400
    return refused.value


def test_what_a_client_leaves_out_stays_open() -> None:
    assert call() == ChatCall("agentopt/find", (Message("user", "Where?"),))


def test_every_setting_that_is_understood_is_read() -> None:
    schema = {"type": "object", "properties": {"b": {}, "a": {}}}
    got = call(
        n=2,
        max_tokens=7,
        temperature=0,
        top_p=0.5,
        stop="\n",
        stream=True,
        stream_options={"include_usage": True},
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
    )
    text = '{"type":"object","properties":{"b":{},"a":{}}}'
    assert got == ChatCall("agentopt/find", got.messages, 2, 7, 0.0, 0.5, ("\n",), text, True, True)


def test_the_newer_name_for_the_most_tokens_counts_before_the_older() -> None:
    assert call(max_tokens=5, max_completion_tokens=6).max_tokens == 6


def test_a_json_object_is_a_schema_and_plain_text_is_none() -> None:
    assert call(response_format={"type": "json_object"}).json_schema == '{"type":"object"}'
    assert call(response_format={"type": "text"}).json_schema is None


def test_text_parts_are_joined_and_a_developer_is_the_system() -> None:
    parts = [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]
    got = call(messages=[{"role": "developer", "content": parts}, {"role": "user", "content": "?"}])
    assert got.messages == (Message("system", "Be brief."), Message("user", "?"))


@pytest.mark.parametrize(
    "more",
    [
        {"user": "me", "seed": 3, "metadata": {"a": "b"}, "store": True, "service_tier": "auto"},
        {
            "tools": [],
            "tool_choice": "auto",
            "logprobs": False,
            "frequency_penalty": 0,
            "presence_penalty": 0.0,
            "logit_bias": {},
        },
        {"parallel_tool_calls": True, "reasoning_effort": "low", "modalities": ["text"], "stop": None, "n": None},
    ],
)
def test_what_does_not_change_the_answer_is_read_over(more: dict[str, Any]) -> None:
    assert call(**more) == call()


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"functions": [{}]}, "functions"),
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages[0]"),
    ],
)
def test_what_would_change_the_answer_and_is_not_passed_on_is_refused_with_its_name(
    more: dict[str, Any], param: str
) -> None:
    refused = refusal(**more)
    assert (refused.param, refused.code) == (param, "unsupported_parameter")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, "messages[0].tool_calls[0].id"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"model": ""}, "model"),
        ({"n": 0}, "n"),
        ({"n": MOST_CHOICES + 1}, "n"),
        ({"n": "2"}, "n"),
        ({"temperature": 2.5}, "temperature"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(more: dict[str, Any], param: str) -> None:
    assert refusal(**more).param == param


def test_a_key_that_is_missing_is_named() -> None:
    with pytest.raises(ApiError) as refused:
        parse_call(b'{"model": "x"}')
    assert (refused.value.param, refused.value.code) == ("messages", "missing_required_parameter")


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff\xfe", b'"text"', b"[" * 100_000, b'{"model": NaN}'])
def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        parse_call(body)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("body", "model"),
    [(b'{"model": "x", "n": -1}', "x"), (b'{"model": 3}', ""), (b"{}", ""), (b'{"model": "x", "tools": [1]}', "x")],
)
def test_the_model_is_found_in_a_body_that_is_refused(body: bytes, model: str) -> None:
    assert model_in(read_body(body)) == model
    with pytest.raises(ApiError):
        parse_call(body)


def test_half_a_character_is_refused_where_it_comes_in() -> None:
    with pytest.raises(ApiError):
        parse_call(b'{"model": "x", "messages": [{"role": "user", "content": "\\ud800"}]}')


ANSWERS = [Choice("Oakby", 2), Choice("Redfield", 2)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = ("model", "messages", "n", "max_tokens", "stop", "stream_options", "response_format", "tools", "modalities")


@given(st.binary() | (JSON | st.dictionaries(st.sampled_from(KEYS), JSON)).map(json.dumps))
def test_any_body_is_a_call_or_a_wire_error_of_the_clients(body: bytes | str) -> None:
    with suppress(ApiError):
        assert parse_call(body).model


@given(st.dictionaries(st.sampled_from(KEYS[2:]), JSON))
def test_any_value_of_a_key_is_a_call_or_a_wire_error_of_the_clients(more: dict[str, Any]) -> None:
    with suppress(ApiError):
        assert call(**more).messages


def test_a_completion_is_what_the_official_client_reads() -> None:
    body = Completion("agentopt/find", ANSWERS, 10, 4).body()
    read = ChatCompletion.model_validate(body, strict=True)
    assert [choice.message.content for choice in read.choices] == ["Oakby", "Redfield"]
    assert read.usage
    assert (read.usage.prompt_tokens, read.usage.completion_tokens, read.usage.total_tokens) == (10, 4, 14)
    assert not read.model_extra


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_stream_is_what_the_official_client_reads(include_usage: bool) -> None:
    answer = Completion("agentopt/find", ANSWERS, 10, 4)
    events = list(ChatStream("agentopt/find", include_usage=include_usage).end(answer))
    assert events[-1] == DONE
    assert all(part.startswith(b"data: ") and part.endswith(b"\n\n") for part in events)
    chunks = [ChatCompletionChunk.model_validate_json(part[6:]) for part in events[:-1]]
    texts = ["", ""]
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] += choice.delta.content or ""
    assert texts == ["Oakby", "Redfield"]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    used = [chunk.usage.total_tokens for chunk in chunks if chunk.usage]
    assert used == ([14] if include_usage else [])
    assert all(("usage" in json.loads(part[6:])) is include_usage for part in events[:-1])


def test_a_line_break_in_an_answer_does_not_break_its_event() -> None:
    assert event({"content": "a\n\nb\u2028c"}).count(b"\n\n") == 1


def test_the_list_of_models_is_what_the_official_client_reads() -> None:
    read = SyncPage[Model].model_validate(models_body(["task", "task/find"], created=5))
    assert [(model.id, model.created) for model in read.data] == [("task", 5), ("task/find", 5)]
    assert Model.model_validate(model_body("task"), strict=True).object == "model"


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("triage/clasify", " (did you mean `triage/classify`?)"),
        ("traige", " (did you mean `triage`?)"),
        ("classify", " (did you mean `triage/classify`?)"),
        ("gpt-5-mini", ""),
        ("", ""),
        ("x" * 1_000_000, ""),
    ],
)
def test_a_model_that_does_not_exist_gets_the_names_and_the_closest_one(model: str, hint: str) -> None:
    refusal = no_such_model(model, iter(["triage", "triage/classify", "triage/reply"]))
    names = "there are: triage, triage/classify, triage/reply"
    assert refusal.message == f"the model `{model}` does not exist; {names}{hint}"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (wrong_key(), 401, "invalid_api_key"),
        (no_such_path("/v2"), 404, None),
        (wrong_method("GET", "/v1/chat/completions", ["POST"]), 405, "method_not_allowed"),
        (no_such_model("x", ["task", "task/find"]), 404, "model_not_found"),
        (too_large(9), 413, "request_too_large"),
        (from_failure(BudgetExceeded("usd", cap=1, spent=1, wanted=1)), 429, "insufficient_quota"),
        (from_failure(PermanentModelError("refused")), 502, "upstream_failed"),
        (from_failure(ScorerError("broken")), 500, "failed"),
    ],
)
def test_an_error_has_the_openai_form_and_its_status(error: ApiError, status: int, code: str | None) -> None:
    assert (error.status, error.code) == (status, code)
    assert set(error.body) == {"error"}
    assert set(error.body["error"]) == {"message", "type", "param", "code"}
    assert error.body["error"]["message"] == str(error)


def test_an_upstream_failure_forbids_a_retry_by_the_client() -> None:
    assert from_failure(PermanentModelError("refused")).headers == {"x-should-retry": "false"}
