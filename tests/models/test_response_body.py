"""Reading responses: thoughts apart from answers, content in every form, and bodies that no server should send."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.errors import MalformedResponseError
from agentopt.models.api_errors import model_error
from agentopt.models.base import ToolCall
from agentopt.models.event_stream import EventReader, text_in
from agentopt.models.response_body import ReadChoice, ReadUsage, read_body, read_choice, read_completion, read_usage
from agentopt.models.responses_api import as_completion
from agentopt.models.thoughts import split_thought


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("yes", "", "yes"),
        ("<think>Is it no?</think>yes", "Is it no?", "yes"),
        ("\n<think>\nIs it no?\n</think>\n\nyes\n", "Is it no?", "yes"),
        ("<THINK>a</THINK>b", "a", "b"),
        ("<thinking>a</thinking> b", "a", "b"),
        ("<think>a</think><think>b</think>c", "a\nb", "c"),
        ("Sure.\n<think>a</think>\nb", "a", "Sure.\n\nb"),
        ("<think>first 17 and then 42, so", "first 17 and then 42, so", ""),
        ("yes\n<think>or", "or", "yes"),
        ("a thought without its opening tag</think>\n\nyes", "a thought without its opening tag", "yes"),
        ("<think></think>yes", "", "yes"),
        ("the tag `<think>` opens, `</think>` closes", "", "the tag `<think>` opens, `</think>` closes"),
        ("  spaces are kept  ", "", "  spaces are kept  "),
        ("[THINK]Is it no?[/THINK]yes", "Is it no?", "yes"),
        ("[THINK]first 17 and", "first 17 and", ""),
        ("as in [think]", "", "as in [think]"),
        ("\u25c1think\u25b7Is it no?\u25c1/think\u25b7yes", "Is it no?", "yes"),
        ("<seed:think>Is it no?</seed:think>yes", "Is it no?", "yes"),
        ("<thought>Is it no?</thought>yes", "Is it no?", "yes"),
        ("<|START_THINKING|>Is it no?<|END_THINKING|>yes", "Is it no?", "yes"),
        (
            "<|channel|>analysis<|message|>Is it no?<|end|><|start|>assistant<|channel|>final<|message|>yes",
            "Is it no?",
            "yes",
        ),
        ("<|channel|>analysis<|message|>first 17 and", "first 17 and", ""),
        ("<|channel|>final<|message|>yes", "", "yes"),
        ("<|channel|>commentary<|message|>a<|end|><|channel|>final<|message|>yes<|return|>", "a", "yes"),
        ("<think >Is it no?</think >yes", "Is it no?", "yes"),
        ("<think\n>Is it no?\n< / think>yes", "Is it no?", "yes"),
        ("<antThinking>a</antThinking>yes", "a", "yes"),
        ("<longcat_think>a</longcat_think>yes", "a", "yes"),
        ("<|begin_of_thought|>a<|end_of_thought|>\n<|begin_of_solution|>yes<|end_of_solution|>", "a", "yes"),
        ("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>yes<|END_RESPONSE|>", "a", "yes"),
        ("<unused94>thought\na<unused95>yes", "a", "yes"),
        ("<reasoning>a</reasoning>\nyes", "a", "yes"),
        ("<thoughts>first 17 and", "first 17 and", ""),
        ("<r>\n<reasoning>a</reasoning>\n</r>", "", "<r>\n<reasoning>a</reasoning>\n</r>"),
        ("<think>a<think>b</think>c</think>yes", "a<think>b\nc", "yes"),
        ("<think>a</think>\n\n</think>\n\nyes", "a", "yes"),
        ("<rethink>a</rethink>", "", "<rethink>a</rethink>"),
        ('perhaps "no"</think>yes', 'perhaps "no"', "yes"),
        ('Is it no?</think>"yes"', "Is it no?", '"yes"'),
        ('perhaps "no"</think>"yes"', 'perhaps "no"', '"yes"'),
        ("Is it no?</think>`yes`", "Is it no?", "`yes`"),
        ('<think>is it "no"</think>"yes"', 'is it "no"', '"yes"'),
        ("<think>the end is `</think>` here</think>yes", "the end is `</think>` here", "yes"),
        ("it's '</think>' at the end", "", "it's '</think>' at the end"),
    ],
)
def test_thoughts_are_split_from_the_answer(text: str, thought: str, answer: str) -> None:
    assert split_thought(text) == (thought, answer)


@given(st.text(alphabet="ab<>/think\n `", max_size=60))
def test_splitting_an_answer_again_changes_nothing_but_tags(text: str) -> None:
    _, answer = split_thought(text)
    assert len(answer) <= len(text)


def choice(message: Any, **fields: Any) -> ReadChoice:
    return read_completion({"choices": [{"message": message, **fields}]}, most=1).choices[0]


@pytest.mark.parametrize(
    ("message", "text", "thought"),
    [
        ({"content": "yes", "reasoning_content": "hm"}, "yes", "hm"),
        ({"content": "yes", "reasoning": "hm"}, "yes", "hm"),
        ({"content": None, "reasoning_content": "hm"}, "", "hm"),
        ({"content": "<think>b</think>yes", "reasoning_content": "a"}, "yes", "a\nb"),
        ({"content": [{"type": "text", "text": "y"}, {"type": "text", "text": "es"}]}, "yes", ""),
        ({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "yes"}]}, "yes", "hm"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, "yes"]}, "yes", "hm"),
        ({"content": "yes", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}, "yes", "hm"),
        ({"content": "yes", "reasoning_details": [{"type": "reasoning.summary", "summary": "hm"}]}, "yes", "hm"),
        (
            {"content": "yes", "thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
            "yes",
            "hm",
        ),
        ({"content": "yes", "thought": "hm"}, "yes", "hm"),
        ({"content": None, "reasoning": {"content": "hm"}}, "", "hm"),
        ({"content": "yes", "reasoning_content": [{"type": "text", "text": "hm"}]}, "yes", "hm"),
        ({"content": "yes", "reasoning": ["h", "m"], "reasoning_content": ""}, "yes", "h\nm"),
        ({"content": [{"text": "hm", "thought": True}, {"text": "yes"}]}, "yes", "hm"),
        ({"content": [{"type": "reasoning_text", "text": "hm"}, {"type": "text", "text": "yes"}]}, "yes", "hm"),
        ({"content": [{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "yes"}]}, "yes", ""),
        ({"content": {"type": "text", "text": "yes"}}, "yes", ""),
        ({"content": {"parts": [{"text": "y"}, {"text": "es"}]}}, "yes", ""),
        ({"content": [{"type": "text", "text": {"value": "yes"}}]}, "yes", ""),
        ({"content": [{"type": "image_url", "image_url": {}}]}, "", ""),
        ({"content": None, "refusal": "I cannot."}, "I cannot.", ""),
    ],
)
def test_content_and_thoughts_are_read_in_every_form(message: Any, text: str, thought: str) -> None:
    read = choice(message)
    assert (read.text, read.thought) == (text, thought)


@pytest.mark.parametrize(
    ("key", "deltas", "thought"),
    [
        ("reasoning_content", ["h", "m"], "hm"),
        ("reasoning", ["h", None, "m"], "hm"),
        ("thinking", ["h", "", "m"], "hm"),
        ("thinking_blocks", [[{"thinking": "h"}], [{"thinking": "m"}]], "h\nm"),
        ("reasoning", ["h", 1, ["m"]], "h"),
    ],
)
def test_parts_of_a_thought_are_joined_in_a_stream(key: str, deltas: list[Any], thought: str) -> None:
    events: list[Any] = [{"choices": [{"delta": {key: delta}}]} for delta in deltas]
    events.append({"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]})
    read = read_body("".join(f"data: {json.dumps(event)}\n\n" for event in events).encode(), most=1).choices[0]
    assert (read.text, read.thought) == ("yes", thought)


def test_a_text_in_very_deep_parts_is_not_read() -> None:
    deep: Any = "yes"
    for _ in range(900):
        deep = [deep]
    assert choice({"content": "no", "reasoning": deep, "thinking": {"text": {"text": "hm"}}}).thought == "hm"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "stop"),
        ({"finish_reason": None}, "stop"),
        ({"finish_reason": "content_filter: PROHIBITED_CONTENT"}, "content_filter"),
        ({"finish_reason": "RECITATION"}, "content_filter"),
        ({"finish_reason": "SAFETY"}, "content_filter"),
        ({"finish_reason": "ERROR_TOXIC"}, "content_filter"),
        ({"finish_reason": "guardrail_intervened"}, "content_filter"),
        ({"finish_reason": "model_length"}, "length"),
        ({"finish_reason": "model_context_window_exceeded"}, "length"),
        ({"finish_reason": "eos_token"}, "stop"),
        ({"finish_reason": "length"}, "length"),
        *(
            ({"finish_reason": word}, "length")
            for word in (
                *(
                    "max_tokens",
                    "MAX_TOKENS",
                    "max_output_tokens",
                    "max-new-tokens",
                    "FINISH_REASON_MAX_TOKENS",
                    "LENGTH",
                ),
                *("Length", "max_length", "token_limit", "limit", "TOO_MANY_TOKENS", "max_completion_tokens"),
            )
        ),
        ({"finish_reason": "FINISH_REASON_STOP"}, "stop"),
        ({"finish_reason": "TOOL_CALL"}, "tool_calls"),
        ({"finish_reason": "content-filter"}, "content_filter"),
        ({"finish_reason": "MALFORMED_FUNCTION_CALL"}, "MALFORMED_FUNCTION_CALL"),
        ({"finish_reason": "end_turn"}, "stop"),
        ({"finish_reason": "content_filter"}, "content_filter"),
        ({"finish_reason": ["odd"]}, "stop"),
    ],
)
def test_finish_reasons_are_those_of_the_openai_format(fields: Any, reason: str) -> None:
    assert choice({"content": "x"}, **fields).finish_reason == reason


def test_tool_calls_are_read_and_odd_ones_are_malformed() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "find", "arguments": '{"q": 1}'}}
    read = choice({"content": None, "tool_calls": [call]})
    assert (read.text, read.tool_calls, read.finish_reason) == (
        "",
        (ToolCall("c", "find", '{"q": 1}'),),
        "tool_calls",
    )
    loose = choice({"content": None, "tool_calls": [{"function": {"name": "find", "arguments": {"q": 1}}}]})
    assert loose.tool_calls == (ToolCall("call_0", "find", '{"q": 1}'),)
    odd: tuple[list[Any], ...] = ([3], [{}], [{"function": {"name": 3}}])
    for calls in odd:
        with pytest.raises(MalformedResponseError):
            choice({"content": None, "tool_calls": calls})


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"prompt_tokens": 20, "completion_tokens": 5}, ReadUsage(20, 5)),
        ({"input_tokens": 20, "output_tokens": 5}, ReadUsage(20, 5)),
        ({"prompt_tokens": 20.0, "completion_tokens": 5.5}, ReadUsage(20, None)),
        ({"prompt_tokens": -1, "completion_tokens": 10**30}, ReadUsage(None, None)),
        ({"prompt_tokens": True, "completion_tokens": "5"}, ReadUsage(None, None)),
        ({"prompt_tokens": float("inf"), "completion_tokens": float("nan")}, ReadUsage(None, None)),
        (
            {
                "prompt_tokens": 20,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 16},
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            ReadUsage(20, 5, 16, 3),
        ),
        (
            {"prompt_tokens": 20, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 99}},
            ReadUsage(20, 5, 20),
        ),
        (None, ReadUsage()),
        ([1], ReadUsage()),
    ],
)
def test_usage_is_read_and_absurd_counts_are_not(usage: Any, read: ReadUsage) -> None:
    assert read_usage(usage) == read


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "no credit left", "code": 402}}, "no credit left"),
        ({"error": "overloaded"}, "overloaded"),
        ({"choices": [{"error": {"message": "upstream failed"}}]}, "upstream failed"),
        ({"error": {"type": "overloaded_error", "message": "Overloaded"}}, "Overloaded overloaded_error"),
        ({"error": {"message": "Provider error", "metadata": {"raw": "too long"}}}, "Provider error too long"),
    ],
)
def test_an_error_object_is_an_error_in_the_providers_words(body: Any, message: str) -> None:
    with pytest.raises(MalformedResponseError) as caught:
        read_completion(body, most=1)
    assert str(caught.value) == message
    assert caught.value.error is not None


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def delta(index: int = 0, reason: str | None = None, **fields: Any) -> bytes:
    return event(choices=[{"index": index, "delta": fields, "finish_reason": reason}])


def test_a_stream_is_joined() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "find", "arguments": '{"q":'}}
    stream = b"".join(
        [
            b": comment\n\n",
            delta(role="assistant", content=""),
            delta(reasoning_content="h"),
            delta(reasoning_content="m"),
            delta(content="y"),
            delta(content="es"),
            delta(tool_calls=[call]),
            delta(tool_calls=[{"index": 0, "function": {"arguments": " 1}"}}]),
            delta(1, content="no"),
            delta(reason="length"),
            delta(1, "stop"),
            event(choices=[], usage={"prompt_tokens": 20, "completion_tokens": 5}),
            b"data: [DONE]\n\n",
        ]
    )
    read = read_body(stream, most=2)
    assert read.usage == ReadUsage(20, 5)
    first, second = read.choices
    assert first == ReadChoice("yes", "length", "hm", (ToolCall("c", "find", '{"q": 1}'),))
    assert second == ReadChoice("no", "stop")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("inside", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_a_line_of_a_stream_ends_at_a_line_feed_or_a_carriage_return_only(inside: str, end: str) -> None:
    text = f"first{inside}second"
    # A server may send U+2028 as it is, but JSON escapes control characters.
    event = json.dumps({"choices": [{"index": 0, "delta": {"content": text}}]}, ensure_ascii=False)
    stream = f": ping {inside}{end}{end}data: {event}{end}{end}data: [DONE]{end}{end}"
    assert read_body(stream.encode(), most=1).choices[0].text == text


def called(name: str | None = None, arguments: Any = None, **fields: Any) -> dict[str, Any]:
    given = {"name": name, "arguments": arguments}
    return {**fields, "function": {key: value for key, value in given.items() if value is not None}}


ONE = [("a", "find", '{"q": 1}')]
TWO = [*ONE, ("b", "find", '{"q": 2}')]
DELTAS_OF_CALLS = {
    "as OpenAI": (
        TWO,
        [
            called("find", "", index=0, id="a"),
            called(arguments='{"q":', index=0),
            called(arguments=" 1}", index=0),
            called("find", "", index=1, id="b"),
            called(arguments='{"q": 2}', index=1),
        ],
    ),
    "index from 1": (
        ONE,
        [called("find", "", index=1, id="a"), called(arguments='{"q":', index=1), called(arguments=" 1}", index=1)],
    ),
    "two, index from 1": (
        TWO,
        [
            called("find", '{"q":', index=1, id="a"),
            called(arguments=" 1}", index=1),
            called("find", '{"q": 2}', index=2, id="b"),
        ],
    ),
    "interleaved": (
        TWO,
        [
            called("find", '{"q":', index=0, id="a"),
            called("find", '{"q":', index=1, id="b"),
            called(arguments=" 1}", index=0),
            called(arguments=" 2}", index=1),
        ],
    ),
    "every index 0": (TWO, [called("find", '{"q": 1}', index=0, id="a"), called("find", '{"q": 2}', index=0, id="b")]),
    "every index 0, in parts": (
        TWO,
        [
            called("find", "", index=0, id="a"),
            called(arguments='{"q": 1}', index=0),
            called("find", "", index=0, id="b"),
            called(arguments='{"q": 2}', index=0),
        ],
    ),
    "the second before the first": (
        TWO,
        [called("find", '{"q": 2}', index=1, id="b"), called("find", '{"q": 1}', index=0, id="a")],
    ),
    "no index": (TWO, [called("find", '{"q": 1}', id="a"), called("find", '{"q": 2}', id="b")]),
    "no index, in parts": (
        TWO,
        [
            called("find", '{"q":', id="a"),
            called(arguments=" 1}"),
            called("find", id="b"),
            called(arguments='{"q": 2}'),
        ],
    ),
    "neither index nor id": (
        [("call_0", "find", '{"q": 1}'), ("call_1", "find", '{"q": 2}'), ("call_2", "look", "{}")],
        [called("find", '{"q": 1}'), called("find", '{"q": 2}'), called("look", "{}")],
    ),
    "every index 0, no id": (
        [("call_0", "find", '{"q": 1}'), ("call_1", "find", '{"q": 2}')],
        [called("find", '{"q": 1}', index=0, id=""), called("find", '{"q": 2}', index=0, id="")],
    ),
    "id and name in each part": (
        TWO,
        [
            called("find", '{"q":', index=0, id="a"),
            called("find", " 1}", index=0, id="a"),
            called("find", '{"q":', index=1, id="b"),
            called("find", " 2}", index=1, id="b"),
            called("find", "", index=1, id="b"),
        ],
    ),
    "id and name in each part, no index": (
        TWO,
        [
            called("find", '{"q":', id="a"),
            called("find", " 1}", id="a"),
            called("find", '{"q":', id="b"),
            called("find", " 2}", id="b"),
        ],
    ),
    "another id in each part": (
        ONE,
        [called("find", '{"q":', index=0, id="a"), called(arguments=" 1}", index=0, id="c")],
    ),
    "another index in each part": (ONE, [called("find", '{"q":', index=0, id="a"), called(arguments=" 1}", index=1)]),
    "a name in parts": (
        ONE,
        [called("fi", "", index=0, id="a"), called("nd", "", index=0), called(arguments='{"q": 1}', index=0)],
    ),
    "the id after the name": (
        ONE,
        [called("find", "", index=0), called(arguments='{"q": 1}', index=0, id="a")],
    ),
    "arguments as an object": (ONE, [called("find", {"q": 1}, index=0, id="a")]),
    "one delta for both": (TWO, [called("find", '{"q": 1}', index=0, id="a"), called("find", '{"q": 2}', id="b")]),
    "odd values": (ONE, [called("find", '{"q": 1}', index=0, id="a"), {"index": [], "function": 3}, called(index="1")]),
}


@pytest.mark.parametrize("server", DELTAS_OF_CALLS)
def test_the_deltas_of_tool_calls_are_joined_as_servers_send_them(server: str) -> None:
    calls, deltas = DELTAS_OF_CALLS[server]
    expected = tuple(ToolCall(*call) for call in calls)
    for parts in ([deltas], [[part] for part in deltas]):
        stream = [*(delta(tool_calls=part) for part in parts), delta(reason="tool_calls"), b"data: [DONE]\n\n"]
        assert read_body(b"".join(stream), most=1).choices[0].tool_calls == expected


@pytest.mark.parametrize(
    "stream",
    [
        delta(content="half a"),
        delta(content="half a") + event(error={"message": "overloaded"}),
        b"data: {\n\n",
        b"data: [DONE]\n\n",
        b"data: 3\n\n",
    ],
)
def test_a_stream_that_breaks_off_is_malformed(stream: bytes) -> None:
    with pytest.raises(MalformedResponseError):
        read_body(stream, most=1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("content", "refusal", "reasoning", "reasoning_details", "tool_calls"), JSON),
)
CHOICES = st.fixed_dictionaries(
    {}, optional={"message": MESSAGES | JSON, "text": JSON, "finish_reason": JSON, "error": JSON}
)
BODIES = st.fixed_dictionaries(
    {}, optional={"choices": st.lists(CHOICES | JSON, max_size=2), "usage": JSON, "error": JSON}
)
ODD = [
    b"",
    b"null",
    b"[" * 100_000,
    b'{"choices":' * 20_000,
    b"\xff\xfe",
    "{}".encode("utf-16"),
    b'{"choices": [{"message": {"content": "\xff\xfe"}}]}',
    b'{"choices": [{"message": {"content": "\\ud83d"}}]}',
    b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": ' + b"9" * 5000 + b"}}",
    b'{"choices": [{"message": {"content": NaN}}]}',
    b'{"choices": [{"index": 1e999, "message": {"content": "x"}}]}',
    b"data: " + b"[" * 100_000 + b"\n\n",
]


@pytest.mark.parametrize("body", ODD)
def test_an_odd_body_is_read_or_malformed(body: bytes) -> None:
    with suppress(MalformedResponseError):
        read_body(body, most=1).choices[0].text.encode()


@given(BODIES.map(lambda body: json.dumps(body).encode()) | st.binary(), st.sampled_from(["", "text/event-stream"]))
def test_any_body_is_read_or_malformed(body: bytes, content_type: str) -> None:
    with suppress(MalformedResponseError):
        for read in read_body(body, most=2, content_type=content_type).choices:
            (read.text + read.thought + read.finish_reason).encode()


@given(st.lists(BODIES.map(lambda body: event(**body)), max_size=4))
def test_any_stream_is_read_or_malformed(events: list[bytes]) -> None:
    with suppress(MalformedResponseError):
        read_body(b"".join(events), most=2)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": "no credit left"}, "no credit left"),
        ({"detail": "no credit left"}, "no credit left"),
        ({"detail": [{"msg": "no credit left"}]}, "no credit left"),
        ({"code": 402, "msg": "no credit left", "choices": None}, "no credit left"),
        ({"object": "error", "message": "no credit left", "code": 402}, "no credit left"),
        ({"base_resp": {"status_code": 1008, "status_msg": "no credit left"}, "choices": []}, "no credit left"),
        ({"type": "error", "error": {"type": "billing_error", "message": "no credit left"}}, "no credit left"),
        ([{"error": {"code": 402, "message": "no credit left", "status": "WORDS"}}], "no credit left"),
        ({"success": False, "errors": [{"code": 7, "message": "no credit left"}], "result": None}, "no credit left"),
    ],
)
def test_an_error_in_a_body_with_status_200_is_raised_in_the_providers_words(body: Any, words: str) -> None:
    with pytest.raises(MalformedResponseError, match=words) as caught:
        read_completion(body, most=1)
    failure = model_error(caught.value, who="m")
    assert failure
    assert words in str(failure)
    assert failure.scope == "model", "every further call would be refused as well"


@pytest.mark.parametrize(
    "stream", [b'[{"error": "no"}]', b'{\n"error": "no"\n}', b'data: [{"error": {"message": "no"}}]\n']
)
def test_an_error_is_read_from_a_stream_in_any_form(stream: bytes) -> None:
    with pytest.raises(MalformedResponseError, match=r"^no$"):
        read_body(stream, most=1, content_type="text/event-stream")


@pytest.mark.parametrize(
    ("word", "reason"), [("ERROR_LIMIT", "length"), ("ERROR_TOXIC", "content_filter"), ("odd", "odd")]
)
def test_a_finish_reason_that_is_no_failure_is_read(word: str, reason: str) -> None:
    assert read_choice({"message": {"content": "yes"}, "finish_reason": word}).finish_reason == reason


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_response_of_the_responses_api_that_a_failure_ended_is_malformed(status: str) -> None:
    answer = {"status": status, "output": [{"type": "message", "content": []}], "error": None}
    with pytest.raises(MalformedResponseError, match=status):
        read_completion(as_completion(answer), most=1)


THINKS = [{"type": "thinking", "thinking": [{"type": "text", "text": "8?"}]}]


@pytest.mark.parametrize(
    ("deltas", "text", "thought", "live"),
    [
        ([THINKS, "9", " it is"], "9 it is", "8?", "9 it is"),
        (["It", [{"type": "text", "text": " is 9"}]], "It is 9", "", "It is 9"),
        ([THINKS, [{"type": "text", "text": "9"}], "", None], "9", "8?", "9"),
        ([[3, "9"]], "9", "", ""),
        ([{"text": "9"}, "7"], "7", "", "7"),
    ],
)
def test_parts_of_a_streamed_content_are_joined(deltas: list[Any], text: str, thought: str, live: str) -> None:
    lines = [event(choices=[{"index": 0, "delta": {"content": delta}}]) for delta in deltas]
    read = read_body(b"".join([*lines, b"data: [DONE]\n\n"]), most=1).choices[0]
    assert (read.text, read.thought) == (text, thought)
    reader = EventReader()
    assert "".join(text_in(data) for line in lines for data in reader.feed(line)) == live
