"""Tokens pass through gateway and server while a model writes them; the Responses format; tools through the server."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml
from aiohttp import web
from test_serve import client_of, deployment_in, served, spec_of_task, user_message

from agentopt.core.files import write_atomically
from agentopt.deploy.serve.limits import ServerLimits
from agentopt.models.live_text import LiveText

TOOL: Any = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}
FLAT_TOOL: Any = {
    "type": "function",
    "name": "search",
    "parameters": {"type": "object", "properties": {}},
    "strict": False,
}
CALL = {"id": "call_7", "type": "function", "function": {"name": "search", "arguments": '{"q": "Zoë"}'}}


class Backend:
    """An endpoint that sends `deltas` one by one, and after the first waits for `go`."""

    def __init__(self, *deltas: Any, finish: str = "stop", failure: str = "") -> None:
        self.deltas, self.finish, self.failure = deltas, finish, failure
        self.go, self.over = asyncio.Event(), asyncio.Event()
        self.bodies: list[dict[str, Any]] = []
        self.base_url = ""

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
        if not body.get("stream"):
            message: dict[str, Any] = {"role": "assistant", "content": ""}
            for delta in self.deltas:
                message["content"] += delta.get("content", "")
                message |= {key: value for key, value in delta.items() if key != "content"}
            choices = [{"index": i, "message": message, "finish_reason": self.finish} for i in range(body.get("n", 1))]
            return web.json_response({"choices": choices, "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number, delta in enumerate(self.deltas):
            if number == 1:
                await self.go.wait()
                if self.failure == "hang":
                    await self.over.wait()  # a call that was sent is not cancelled
                if self.failure == "error":
                    await self.send(response, {"error": {"message": "overloaded"}})
                    return response
                if self.failure == "close":
                    transport: Any = request.transport
                    transport.close()
                    return response
            await self.send(response, {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        await self.send(response, {"choices": [{"index": 0, "delta": {}, "finish_reason": self.finish}]})
        await self.send(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def send(self, response: web.StreamResponse, event: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")

    async def __aenter__(self) -> Backend:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self.chat)
        self._runner = web.AppRunner(app, shutdown_timeout=0.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.go.set()
        await self._runner.cleanup()


def texts(*parts: str) -> list[dict[str, Any]]:
    return [{"content": part} for part in parts]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(spec_of_task(), sort_keys=False))
    for name in ("rows", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, "word": f"w-{name}", "target": "t"}) + "\n")
    candidate = {"find": {"model": "small", "num_samples": 1}, "tell": {"model": "small", "num_samples": 3}}
    write_atomically(tmp_path / "best.yaml", yaml.safe_dump(candidate))
    return tmp_path


def content(chunk: Any) -> str:
    return (chunk.choices[0].delta.content or "") if chunk.choices else ""


async def test_the_first_token_arrives_before_the_last_is_written(folder: Path) -> None:
    backend: Any = Backend(*texts("Oak", "by", " is it"))
    async with backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        stream = await client.chat.completions.create(
            model="toy/find", messages=user_message("?"), stream=True, stream_options={"include_usage": True}
        )
        chunks = []
        async for chunk in stream:
            chunks.append(chunk)
            if content(chunk):
                backend.go.set()
    assert [content(c) for c in chunks if content(c)] == ["Oak", "by", " is it"]
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens == 8
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert backend.bodies[0]["stream"] is True


async def test_a_thought_is_not_sent(folder: Path) -> None:
    backend: Any = Backend(*texts("<thi", "nk>secret", " plan</think>\n\nOak", "by"))
    backend.go.set()
    async with backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        stream = await client.chat.completions.create(model="toy/find", messages=user_message("?"), stream=True)
        assert "".join([content(chunk) async for chunk in stream]) == "Oakby"


async def test_a_thought_that_the_chat_template_opens_is_sent_at_most_once(folder: Path) -> None:
    backend: Any = Backend(*texts("secret", " plan", "</think>\n\nOak", "by"))
    backend.go.set()
    async with backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        with pytest.raises(openai.APIError, match="repeat the call without stream"):
            [
                chunk
                async for chunk in await client.chat.completions.create(
                    model="toy/find", messages=user_message("?"), stream=True
                )
            ]
        for _ in range(2):
            stream = await client.chat.completions.create(model="toy/find", messages=user_message("?"), stream=True)
            assert [content(chunk) async for chunk in stream if content(chunk)] == ["Oakby"]


async def test_several_samples_are_sent_when_they_are_fused(folder: Path) -> None:
    backend: Any = Backend(*texts("Oak", "by"))
    async with backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        stream = await client.chat.completions.create(model="toy/tell", messages=user_message("?"), stream=True)
        assert [content(chunk) async for chunk in stream if content(chunk)] == ["Oakby"]
    assert "stream" not in backend.bodies[0]


class Unstreamed(Backend):
    """A backend that refuses streams with HTTP 400."""

    def __init__(self, message: str, param: str | None) -> None:
        super().__init__(*texts("Oak", "by"))
        self.error = {"message": message, "type": "invalid_request_error", "param": param, "code": "unsupported_value"}

    async def chat(self, request: web.Request) -> web.StreamResponse:
        if (body := await request.json()).get("stream"):
            self.bodies.append(body)
            return web.json_response({"error": self.error}, status=400)
        return await super().chat(request)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("Your organization must be verified to stream this model. Please click on Verify Organization.", "stream"),
        ("Unsupported value: 'stream' does not support true with this model.", "stream"),
        ("Streaming is not supported for this model", None),
    ],
)
async def test_the_text_of_a_model_that_cannot_be_streamed_is_sent_as_one_piece(
    folder: Path, message: str, param: str | None
) -> None:
    backend: Any = Unstreamed(message, param)
    async with backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        for word in ("one", "two"):
            call: Any = {"model": "toy/find", "messages": user_message(word), "stream": True}
            chunks = [chunk async for chunk in await client.chat.completions.create(**call)]
            assert [content(chunk) for chunk in chunks if content(chunk)] == ["Oakby"]
            assert chunks[-1].choices[0].finish_reason == "stop"
        async with client.responses.stream(model="toy/find", input="three") as stream:
            deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        assert deltas == ["Oakby"]
    assert ["stream" in body for body in backend.bodies] == [True, False, False, False], "remembered"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("finish", ["content_filter", "length"])
async def test_clients_see_that_an_answer_was_cut_off(folder: Path, streamed: bool, finish: str) -> None:
    backend: Any = Backend(*texts("Oak", "by"), finish=finish)
    backend.go.set()
    async with backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        call: Any = {"model": "toy/find", "messages": user_message("?")}
        if streamed:
            chunks = [chunk async for chunk in await client.chat.completions.create(**call, stream=True)]
            reason = chunks[-1].choices[0].finish_reason
            async with client.responses.stream(model="toy/find", input="?") as stream:
                events: list[Any] = [event async for event in stream]
            final = events[-1].response
        else:
            reason = (await client.chat.completions.create(**call)).choices[0].finish_reason
            final = await client.responses.create(model="toy/find", input="?")
    assert reason == finish
    assert (final.status, final.output_text) == ("incomplete", "Oakby")
    expected = {"length": "max_output_tokens", "content_filter": "content_filter"}[finish]
    assert final.incomplete_details.reason == expected


async def test_a_failure_before_the_first_token_has_a_status_and_a_later_one_is_an_event(folder: Path) -> None:
    backend: Any = Backend(*texts("Oak", "by"), failure="close")
    async with backend, served(deployment_in(folder, backend, max_attempts=1)) as url, client_of(url) as client:
        stream = await client.chat.completions.create(model="toy/find", messages=user_message("?"), stream=True)
        assert content(await anext(stream)) == ""
        assert content(await anext(stream)) == "Oak"
        backend.go.set()
        with pytest.raises(openai.APIError):
            await anext(stream)
        with pytest.raises(openai.BadRequestError):
            await client.chat.completions.create(model="toy", messages=user_message("?"), stream=True, tools=[TOOL])


@pytest.mark.parametrize("api", ["chat", "responses"])
@pytest.mark.parametrize(
    ("deltas", "failure", "seconds", "status"),
    [
        (("Oak", "by"), "close", 60.0, 502),
        (("Oak", "by"), "error", 60.0, 502),
        (("secret", " plan", "</think>\n\nOak"), "", 60.0, 502),
        (("Oak", "by"), "hang", 1.0, 504),
    ],
    ids=["connection", "error event", "another text", "timeout"],
)
async def test_a_stream_that_fails_later_is_logged_and_counted_as_failed(
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    deltas: Any,
    failure: str,
    seconds: float,
    status: int,
    api: str,
) -> None:
    backend: Any = Backend(*texts(*deltas), failure=failure)
    limits = ServerLimits(seconds=seconds)
    async with (
        backend,
        served(deployment_in(folder, backend, max_attempts=1), limits=limits) as url,
        client_of(url) as client,
    ):
        if api == "chat":
            stream: Any = await client.chat.completions.create(
                model="toy/find", messages=user_message("?"), stream=True
            )
        else:
            stream = await client.responses.create(model="toy/find", input="?", stream=True)
        with suppress(openai.APIError):  # the Responses API has an event for it
            async for _ in stream:
                backend.go.set()
        backend.over.set()
        async with httpx.AsyncClient() as plain:
            metrics = (await plain.get(url.replace("/v1", "/metrics"))).text
    (line,) = [record.getMessage() for record in caplog.records if record.name == "agentopt.deploy.serve.app"]
    assert line.startswith(f"call failed: status {status}, model toy/find: ")
    assert f'agentopt_requests_total{{model="toy/find",status="{status}"}} 1' in metrics
    assert 'status="200"' not in metrics


def test_an_attempt_after_a_failed_one_is_not_sent_twice() -> None:
    sent: list[str] = []
    live = LiveText(sent.append)
    for text in ("Oak", "by"):
        live.receive(text)
    live.begin()
    live.receive("Redfield")
    assert sent == ["Oak", "by"]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["  Oak", "by \n"], "Oakby"),
        (["a\n<thi", "s> b"], "a\n<this> b"),
        (["a\n<think>b", "</think>\nc"], "a\n\nc"),
        (["<think>a"], ""),
        (["[TH", "INK]a[/THI", "NK]b"], "b"),
        (["<|chan", "nel|>analysis<|message|>a<|end|><|start|>", "assistant<|channel|>final<|message|>b"], "b"),
        (["see [A", "], then b"], "see [A], then b"),
        (["1 < 2"], "1 < 2"),
    ],
)
def test_only_what_is_certainly_an_answer_is_forwarded(parts: list[str], expected: str) -> None:
    sent: list[str] = []
    live = LiveText(sent.append)
    for part in parts:
        live.receive(part)
    assert "".join(sent) == expected


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["toy/find", "toy/tell"])
async def test_tools_pass_through_the_server(folder: Path, stream: bool, model: str) -> None:
    backend: Any = Backend({"tool_calls": [{"index": 0, **CALL}]}, finish="tool_calls")
    messages: Any = [
        *user_message("?"),
        {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": "call_0"}]},
        {"role": "tool", "tool_call_id": "call_0", "content": "found"},
    ]
    async with backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        call: Any = {"model": model, "messages": messages, "tools": [TOOL], "tool_choice": "required"}
        if stream:
            chunks = [chunk async for chunk in await client.chat.completions.create(**call, stream=True)]
            got = next(c.choices[0].delta.tool_calls for c in chunks if c.choices[0].delta.tool_calls)[0]
            reason = chunks[-1].choices[0].finish_reason
        else:
            done = await client.chat.completions.create(**call)
            got, reason = done.choices[0].message.tool_calls[0], done.choices[0].finish_reason
    assert (got.id, got.function.name, got.function.arguments) == ("call_7", "search", '{"q": "Zoë"}')
    assert reason == "tool_calls"
    sent = backend.bodies[0]
    assert (sent["tools"], sent["tool_choice"]) == ([TOOL], "required")
    assert sent["messages"] == messages


@pytest.mark.parametrize("reason", ["length", "content_filter", "stop"])
async def test_the_finish_reason_is_passed_on(folder: Path, reason: str) -> None:
    backend: Any = Backend(*texts("Oakby"), finish=reason)
    async with backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        done = await client.chat.completions.create(model="toy/find", messages=user_message("?"))
        whole = await client.responses.create(model="toy/find", input="?")
    assert done.choices[0].finish_reason == reason
    assert whole.status == ("completed" if reason == "stop" else "incomplete")
    expected = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reason)
    assert (whole.incomplete_details and whole.incomplete_details.reason) == expected


async def test_the_openai_client_reads_a_response(folder: Path) -> None:
    backend: Any = Backend(*texts("Oakby"))
    async with backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        got = await client.responses.create(model="toy/find", instructions="Be brief.", input="Where?")
        parts: Any = [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "input_text", "text": "Wh"}, {"type": "input_text", "text": "ere?"}]},
        ]
        await client.responses.create(model="toy/find", input=parts)
    assert got.output_text == "Oakby"
    assert got.usage
    assert (got.usage.input_tokens, got.usage.output_tokens) == (5, 3)
    expected = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}]
    assert [body["messages"] for body in backend.bodies] == [expected] * 2


async def test_a_response_is_streamed_while_it_is_written(folder: Path) -> None:
    backend: Any = Backend(*texts("Oak", "by"))
    async with backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        events = []
        async with client.responses.stream(model="toy/find", input="Where?") as stream:
            async for event in stream:
                events.append(event)
                if event.type == "response.output_text.delta":
                    backend.go.set()
            final = await stream.get_final_response()
    assert final.output_text == "Oakby"
    assert [e.delta for e in events if e.type == "response.output_text.delta"] == ["Oak", "by"]
    assert [e.type for e in events][:2] == ["response.created", "response.in_progress"]
    assert events[-1].type == "response.completed"


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_pass_through_responses(folder: Path, stream: bool) -> None:
    backend: Any = Backend({"tool_calls": [{"index": 0, **CALL}]}, finish="tool_calls")
    conversation: Any = [
        {"role": "user", "content": "?"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "call_0", "name": "search", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_0", "output": "found"},
    ]
    call: Any = {"model": "toy/find", "input": conversation, "tools": [FLAT_TOOL]}
    async with backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        if stream:
            async with client.responses.stream(**call) as streamed:
                got = await streamed.get_final_response()
        else:
            got = await client.responses.create(**call)
    (item,) = got.output
    assert item.type == "function_call"
    assert (item.call_id, item.name, item.arguments) == ("call_7", "search", '{"q": "Zoë"}')
    sent = backend.bodies[0]
    assert sent["tools"][0]["function"]["name"] == "search"
    assert [m["role"] for m in sent["messages"]] == ["user", "assistant", "tool"]
    assert sent["messages"][2] == {"role": "tool", "content": "found", "tool_call_id": "call_0"}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"type": "computer_call"}]}, "input[0]"),
        ({"background": True}, "background"),
        ({"input": 3}, "input"),
    ],
)
async def test_what_the_responses_format_has_beyond_it_is_refused_with_its_name(
    folder: Path, more: Any, param: str
) -> None:
    backend: Any = Backend(*texts("Oakby"))
    async with backend, served(deployment_in(folder, backend)) as url, client_of(url) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(**{"model": "toy/find", "input": "?", **more})
    assert refused.value.param == param
    assert backend.bodies == []
