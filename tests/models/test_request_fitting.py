"""What is sent: a request fitted to its endpoint."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentopt.models.base import Message, Request, ToolCall
from agentopt.models.catalog import ModelSpec, with_table_defaults
from agentopt.models.http_refusals import TOP_P_BESIDE_TEMPERATURE
from agentopt.models.request_fitting import choice_limit, choices_per_request, fit, limited, payload, refusal, shape

SYSTEM, USER = Message("system", "Be brief."), Message("user", "Where?")
SCHEMA = '{"type":"object","properties":{"a":{"type":"string"}},"required":["a"],"additionalProperties":false}'


def spec(**fields: Any) -> ModelSpec:
    return ModelSpec(**{"name": "m", "base_url": "http://127.0.0.1/v1", **fields})


def body(request: Request | None = None, **fields: Any) -> dict[str, Any]:
    return payload(spec(**fields), request or Request("m", (SYSTEM, USER), 16))


def test_no_sampling_parameter_is_sent_by_default() -> None:
    assert set(body()) == {"model", "messages", "max_tokens"}


def test_the_task_takes_precedence_over_the_entry() -> None:
    request = Request("m", (USER,), 16, temperature=0.2)
    assert body(request, temperature=0.9, top_p=0.5) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Where?"}],
        "max_tokens": 16,
        "temperature": 0.2,
        "top_p": 0.5,
    }


@pytest.mark.parametrize(
    ("supports", "seed", "is_sent"),
    [({}, 0, False), ({}, 7, True), ({"seed": True}, 0, True), ({"seed": False}, 7, False)],
)
def test_a_seed_is_sent_if_one_is_set_or_the_entry_declares_it(supports: Any, seed: int, is_sent: bool) -> None:
    assert ("seed" in body(Request("m", (USER,), 16, seed=seed), supports=supports)) is is_sent


@pytest.mark.parametrize("name", ["temperature", "top_p", "stop", "reasoning_effort"])
def test_what_the_endpoint_does_not_take_is_left_out(name: str) -> None:
    request = Request("m", (USER,), 16, temperature=0.5, top_p=0.5, stop=("\n",), reasoning_effort="low")
    assert name in body(request)
    assert name not in payload(spec(), fit(request, spec(), frozenset({name})))
    if name != "reasoning_effort":
        assert name not in body(request, supports={name: False})


@pytest.mark.parametrize(
    ("effort", "entry", "is_sent"),
    [("low", None, False), (None, "low", False), ("none", None, True), ("high", "low", True), (None, None, True)],
)
def test_what_is_refused_at_an_effort_is_left_out_at_that_one(
    effort: str | None, entry: str | None, is_sent: bool
) -> None:
    request = Request("m", (USER,), 16, temperature=0.5, reasoning_effort=effort)
    own, refused = spec(reasoning_effort=entry), frozenset({refusal("temperature", "low")})
    fitted = fit(request, own, refused)
    assert ("temperature" in payload(own, fitted)) is is_sent
    assert fitted.left_out <= {"temperature", "json_schema"}
    # Without an effort nothing depends on it.
    without = fit(request, own, refused | {refusal("reasoning_effort", "low")})
    sent = payload(own, without)
    assert sent["temperature"] == 0.5
    assert "reasoning_effort" not in sent


@pytest.mark.parametrize(
    ("temperature", "entry", "further", "sent"),
    [
        (0.5, {}, [], {"temperature": 0.5}),
        (None, {}, [], {"top_p": 0.9}),
        (None, {"temperature": 0.3, "top_p": 0.8}, [], {"temperature": 0.3}),
        (0.5, {}, ["temperature"], {"top_p": 0.9}),
        (0.5, {"supports": {"temperature": False}}, [], {"top_p": 0.9}),
        (0.5, {}, ["top_p"], {"temperature": 0.5}),
        (0.0, {"top_p": 0.8}, [], {"temperature": 0.0}),
    ],
)
def test_a_top_p_that_is_refused_beside_a_temperature_is_sent_without_one(
    temperature: float | None, entry: dict[str, Any], further: list[str], sent: dict[str, float]
) -> None:
    own, request = spec(**entry), Request("m", (USER,), 16, temperature=temperature, top_p=0.9)
    fitted = fit(request, own, frozenset({TOP_P_BESIDE_TEMPERATURE, *further}))
    body = payload(own, fitted)
    assert {name: body[name] for name in ("temperature", "top_p") if name in body} == sent
    assert fit(fitted, own) == fitted


def test_max_tokens_is_sent_under_the_name_of_the_entry_and_under_the_other_if_refused() -> None:
    assert body(max_tokens_parameter="max_completion_tokens")["max_completion_tokens"] == 16
    request = Request("m", (USER,), 16)
    refused = payload(spec(), fit(request, spec(), frozenset({"max_tokens"})))
    assert refused["max_completion_tokens"] == 16
    assert "max_tokens" not in refused


@pytest.mark.parametrize("fields", [{"system_role": "user"}, {"supports": {"system_role": False}}])
def test_system_messages_are_joined_to_the_first_user_message(fields: dict[str, Any]) -> None:
    assert body(**fields)["messages"] == [{"role": "user", "content": "Be brief.\n\nWhere?"}]


def test_a_system_message_alone_becomes_a_user_message() -> None:
    assert body(Request("m", (SYSTEM,), 16), system_role="user")["messages"] == [
        {"role": "user", "content": "Be brief."}
    ]


def test_extra_keys_and_streams_are_sent() -> None:
    sent = body(extra_body={"top_k": 5}, stream=True)
    assert (sent["top_k"], sent["stream"], sent["stream_options"]) == (5, True, {"include_usage": True})


def test_one_choice_is_requested_if_the_endpoint_has_no_n() -> None:
    request = Request("m", (USER,), 16, n=5)
    assert choices_per_request(spec(max_choices=8)) == 8
    assert choices_per_request(spec(max_choices=8, supports={"n": False})) == 1
    assert choices_per_request(spec(max_choices=8, api="responses")) == 1
    assert choices_per_request(spec(max_choices=8), frozenset({"n"})) == 1
    found = frozenset({choice_limit(2), choice_limit(3)})
    assert choices_per_request(spec(max_choices=8), found) == 2, "more would be measured by too few requests"
    assert choices_per_request(spec(max_choices=1), found) == 1
    assert choices_per_request(spec(max_choices=8), found | {"n"}) == 1
    assert body(request, max_choices=8)["n"] == 5
    assert "n" not in body(request, max_choices=8, supports={"n": False})


@pytest.mark.parametrize(
    ("found", "effort", "most"),
    [((), None, 8), (("n",), None, 1), (("n<=3",), "low", 3), (("n at effort low",), "low", 1), (("seed",), None, 8)],
)
def test_estimates_request_no_more_choices_than_an_endpoint_returned(
    found: tuple[str, ...], effort: str | None, most: int
) -> None:
    entry = spec(max_choices=8, reasoning_effort=effort)
    names = frozenset(refusal("n", "low") if name == "n at effort low" else name for name in found)
    assert limited(entry, names).max_choices == most
    assert limited(entry, names).identity == entry.identity


def test_a_schema_is_strict_only_if_it_satisfies_the_strict_rules() -> None:
    loose = '{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"string"}},"required":["a"]}'
    for text, strict in ((SCHEMA, True), (loose, None)):
        request = Request("m", (USER,), 16, json_schema=text)
        sent = body(request, json_schema=True)["response_format"]["json_schema"]
        assert sent.get("strict") is strict
        assert sent["schema"] == json.loads(text)
    refused = payload(spec(json_schema=True), fit(request, spec(json_schema=True), frozenset({"strict"})))
    assert "strict" not in refused["response_format"]["json_schema"]
    assert "response_format" not in body(request)


def test_tools_calls_and_parts_are_sent_in_the_openai_format() -> None:
    call = ToolCall("c1", "find", '{"q": 1}')
    image = '{"type":"image_url","image_url":{"url":"data:,"}}'
    messages = (
        Message("user", "see", parts=('{"type":"text","text":"see"}', image)),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "42", tool_call_id="c1"),
    )
    tool = {"type": "function", "function": {"name": "find"}}
    request = Request("m", messages, 16, tools=(json.dumps(tool),), tool_choice='"auto"')
    sent = body(request)
    assert sent["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "see"}, json.loads(image)]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"q": 1}'}}],
        },
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
    ]
    assert (sent["tools"], sent["tool_choice"]) == ([tool], "auto")


def test_half_an_emoji_in_a_prompt_is_replaced() -> None:
    sent = body(Request("m", (Message("user", "x\ud83d"),), 16))
    text = sent["messages"][0]["content"]
    assert text.startswith("x")
    assert text.encode().decode() == text, "it has a form in UTF-8"


def test_fitting_is_idempotent() -> None:
    entry = with_table_defaults(spec(model="gpt-5-mini", system_role="user"))
    once = fit(Request("m", (SYSTEM, USER), 16, temperature=0.3, json_schema=SCHEMA), entry)
    assert fit(once, entry) == once


def key(request: Request, **fields: Any) -> str:
    entry = spec(**fields)
    fitted = fit(request, entry)
    return fitted.key(entry.identity, shape(fitted, entry))


def test_a_plain_request_has_the_cache_key_of_version_0_1_0() -> None:
    request = Request("m", (SYSTEM, USER), 16, temperature=0.9, top_p=1.0)
    # Computed by version 0.1.0 for the same request and identity.
    assert key(request) == "0df9bb1ca193ff376ff08b617347060d202b1f660144782e55330597e2a0529a"


def test_the_cache_key_depends_on_everything_that_is_sent() -> None:
    plain = Request("m", (SYSTEM, USER), 16)
    with_schema = Request("m", (SYSTEM, USER), 16, json_schema=SCHEMA)
    keys = [
        key(plain),
        key(with_schema, json_schema=True),
        key(plain, temperature=0.5),
        key(plain, reasoning_effort="low"),
        key(plain, extra_body={"top_k": 1}),
        key(plain, extra_headers={"x-mode": "a"}),
        key(plain, query={"version": "2"}),
        key(plain, system_role="user"),
        key(Request("m", (SYSTEM, USER), 16, tools=('{"type":"function"}',))),
        key(Request("m", (SYSTEM, Message("user", "Where?", parts=('{"type":"image_url"}',))), 16)),
    ]
    assert len(set(keys)) == len(keys)
    assert key(with_schema) == key(plain), "a schema that is not sent does not matter"
    assert key(with_schema.for_repeats(3, 2), json_schema=True) == keys[1]
