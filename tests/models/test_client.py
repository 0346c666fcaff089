"""The model client at endpoints that refuse, wait, overcharge or answer oddly; counted by the server."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentopt.core.budget import Caps, Usage
from agentopt.core.errors import (
    BudgetExceeded,
    CatalogError,
    ConfigError,
    ModelError,
    PermanentModelError,
    TransientModelError,
)
from agentopt.core.events import Event, ModelNotice
from agentopt.models.base import Message, Request
from agentopt.models.catalog import ModelSpec, with_table_defaults
from agentopt.models.charging import Overruns
from agentopt.models.hosted import HostedModel
from agentopt.models.journal_admin import JournalAdmin
from agentopt.models.scripted import ScriptedModel
from agentopt.models.session import Session, open_session
from tests.models.free_server import Answer, FreeServer, completion, refusal

SCHEMA = '{"type":"object","properties":{"a":{"type":"string"}},"required":["a"],"additionalProperties":false}'
Handler = Callable[[dict[str, Any], int], Answer]


class Endpoint:
    """A server with its session, and the notices it caused."""

    def __init__(self, server: FreeServer, session: Session, notices: list[Event]) -> None:
        self.server, self.session, self.notices = server, session, notices

    async def ask(self, text: str = "Where?", **options: Any) -> str:
        messages = (Message("system", "Be brief."), Message("user", text))
        response = await self.session.model.generate(Request("m", messages, **{"max_tokens": 16, **options}))
        return response.choices[0].text

    @property
    def topics(self) -> list[str]:
        return [notice.topic for notice in self.notices if isinstance(notice, ModelNotice)]


@asynccontextmanager
async def endpoint(
    handler: Handler, folder: Path, *, caps: Caps = Caps(), query: str = "", **fields: Any
) -> AsyncIterator[Endpoint]:
    notices: list[Event] = []
    async with FreeServer(handler) as server:
        entry = {"backoff_seconds": 0.01, "max_attempts": 3, **fields}
        spec = with_table_defaults(ModelSpec(name="m", base_url=server.base_url + query, **entry))
        journal = str(folder / "journal.db")
        async with open_session({"m": spec}, "run", caps=caps, journal=journal, observer=notices.append) as session:
            yield Endpoint(server, session, notices)


SAMPLING = {"temperature": 0.5, "top_p": 0.5, "seed": 3, "stop": ("\n",), "reasoning_effort": "low"}
REFUSALS: list[tuple[str, Answer]] = [
    ("max_tokens", refusal(400, "Unsupported parameter: 'max_tokens'", param="max_tokens")),
    ("max_tokens", refusal(400, "max_tokens is not supported with this model", code="unsupported_parameter")),
    ("temperature", refusal(400, "temperature must be 1 with this model", code="unsupported_value")),
    ("temperature", refusal(400, "Only the default (1) value is supported.", param="temperature")),
    ("top_p", refusal(400, "temperature and top_p cannot both be given")),
    ("top_p", (422, {"detail": [{"loc": ["body", "top_p"], "msg": "Extra inputs are not permitted"}]}, {})),
    ("seed", refusal(400, "Unknown parameter: seed")),
    ("stop", refusal(400, "Unsupported parameter: 'stop' is not supported with this model.")),
    ("reasoning_effort", refusal(400, "Unrecognized request argument supplied: reasoning_effort")),
    ("reasoning_effort", (200, {"error": {"message": "reasoning_effort is not supported", "code": 400}}, {})),
    ("response_format", refusal(400, "response_format is not available for this model")),
]


@pytest.mark.parametrize(("parameter", "answer"), REFUSALS)
async def test_a_refused_parameter_is_left_out_once_reported_and_remembered(
    tmp_path: Path, parameter: str, answer: Answer
) -> None:
    def handler(body: dict[str, Any], _: int) -> Answer:
        return answer if parameter in body else completion()

    async with endpoint(handler, tmp_path, json_schema=True) as here:
        for text in ("one", "two"):
            assert await here.ask(text, json_schema=SCHEMA, **SAMPLING) == "yes"
        refused = [parameter in body for body in here.server.bodies]
        # A strict schema is tried without `strict` first.
        assert refused == ([True, True, False, False] if parameter == "response_format" else [True, False, False])
        assert set(here.topics) == {"parameter"}
        others = {"temperature", "top_p", "seed", "stop", "reasoning_effort", "response_format"} - {parameter}
        assert others <= set(here.server.bodies[-1])
        assert here.session.budget.spent.tokens == 50


@pytest.mark.parametrize(
    ("counts", "sent", "notices"),
    [
        ([3], [8, 3, 2], ["m: returns at most 3 choices per request, so that further requests are sent"]),
        ([8, 7], [8, 8, 1, 8], []),
        ([1], [8, *[1] * 7], ["m: is called without n"]),
    ],
    ids=["limit", "left out of one response", "ignored"],
)
async def test_the_number_of_choices_that_an_endpoint_returns_is_learned(
    tmp_path: Path, counts: list[int], sent: list[int], notices: list[str]
) -> None:
    def few(body: dict[str, Any], index: int) -> Answer:
        status, content, headers = completion()
        most = counts[index] if index < len(counts) else counts[0]
        return status, {**content, "choices": content["choices"] * min(most, body.get("n", 1))}, headers

    async with endpoint(few, tmp_path, max_choices=8) as here:
        for text in ("one", "two", "three")[: 3 if len(counts) > 1 else 1]:
            await here.session.model.generate(Request("m", (Message("user", text),), 16, n=8))
        assert [body.get("n", 1) for body in here.server.bodies] == sent
        assert [notice.message for notice in here.notices] == notices


async def test_an_endpoint_that_ignores_n_at_one_effort_is_found_after_another_effort(tmp_path: Path) -> None:
    def thinking(body: dict[str, Any], _: int) -> Answer:
        status, content, headers = completion()
        most = 1 if body.get("reasoning_effort") == "high" else 8
        return status, {**content, "choices": content["choices"] * min(most, body.get("n", 1))}, headers

    async with endpoint(thinking, tmp_path, max_choices=8) as here:
        for effort in ("low", "high"):
            await here.session.model.generate(Request("m", (Message("user", "one"),), 16, n=8, reasoning_effort=effort))
        assert [body.get("n", 1) for body in here.server.bodies] == [8, 8, *[1] * 7]
        assert [notice.message for notice in here.notices] == ["m: is called without n at effort high"]


async def test_a_parameter_that_is_refused_at_one_effort_is_sent_at_the_others(tmp_path: Path) -> None:
    def thinking(body: dict[str, Any], _: int) -> Answer:
        is_refused = body.get("reasoning_effort", "none") != "none" and "temperature" in body
        return refusal(400, "Unsupported parameter: temperature") if is_refused else completion()

    async def sent(here: Endpoint, *efforts: str | None) -> list[tuple[str | None, bool]]:
        before = len(here.server.bodies)
        for effort in efforts:
            assert await here.ask(f"at {effort}", temperature=0.5, reasoning_effort=effort) == "yes"
        return [(body.get("reasoning_effort"), "temperature" in body) for body in here.server.bodies[before:]]

    async with endpoint(thinking, tmp_path) as here:
        assert await sent(here, "none", "low") == [("none", True), ("low", True), ("low", False)]
        assert [notice.message for notice in here.notices] == ["m: is called without temperature at effort low"]
        assert await sent(here, "high", None) == [("high", True), ("high", False), (None, True)]
        assert await sent(here, "none", "low", "high", None) == [], "all of them are in the journal"


async def test_two_refused_parameters_are_both_left_out(tmp_path: Path) -> None:
    def newer(body: dict[str, Any], _: int) -> Answer:
        for name in ("max_tokens", "top_p"):
            if name in body:
                return refusal(400, f"{name} is not supported with this model", code="unsupported_parameter")
        return completion() if body.get("temperature", 1) == 1 else refusal(400, "temperature must be 1")

    async with endpoint(newer, tmp_path) as here:
        assert await here.ask(temperature=0.2, top_p=0.3) == "yes"
        assert here.topics == ["parameter"] * 3
        assert here.server.bodies[-1]["max_completion_tokens"] == 16


async def test_other_runs_leave_out_what_the_same_entry_was_refused_until_they_are_fresh_or_forget_it(
    tmp_path: Path,
) -> None:
    def handler(body: dict[str, Any], _: int) -> Answer:
        return refusal(400, "Unsupported parameter: temperature") if "temperature" in body else completion()

    async with FreeServer(handler) as server:

        async def sent(run: str, name: str = "m", path: str = "", *, fresh: bool = False) -> tuple[list[bool], str]:
            """Whether each request to the server had the parameter, and the notices."""
            spec = ModelSpec(name=name, model="served", base_url=server.base_url + path, max_attempts=1)
            notices, before, journal = list[Event](), len(server.bodies), str(tmp_path / "journal.db")
            opened = open_session({name: spec}, run, journal=journal, observer=notices.append, fresh=fresh)
            async with opened as session:
                for text in ("one", run):
                    await session.model.generate(Request(name, (Message("user", text),), max_tokens=16, temperature=1))
            bodies = server.bodies[before:]
            return ["temperature" in body for body in bodies], "\n".join(str(notice.message) for notice in notices)

        assert await sent("first") == ([True, False, False], "m: is called without temperature")
        inherited = "m: is called without temperature, as was found before"
        # The response to the first request is that of the first run, found without a refused request before it.
        assert await sent("second") == ([False], inherited)
        assert await sent("first") == ([], "")
        assert (await sent("renamed", "other"))[0] == [True, False]
        assert (await sent("elsewhere", path="/x"))[0] == [True, False, False]
        assert await sent("anew", fresh=True) == ([True, False, False], "m: is called without temperature")
        with JournalAdmin(tmp_path / "journal.db") as admin:
            admin.forget(identity=f"openai:{server.base_url}:served")
        assert (await sent("third"))[0] == [True, False, False]


async def test_system_messages_are_joined_if_the_role_is_refused(tmp_path: Path) -> None:
    def handler(body: dict[str, Any], _: int) -> Answer:
        return refusal(400, "no system messages here") if body["messages"][0]["role"] == "system" else completion()

    async with endpoint(handler, tmp_path) as here:
        assert await here.ask() == "yes"
        assert here.server.bodies[-1]["messages"] == [{"role": "user", "content": "Be brief.\n\nWhere?"}]


async def test_a_streaming_only_endpoint_is_streamed(tmp_path: Path) -> None:
    events = b'data: {"choices":[{"index":0,"delta":{"content":"yes"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

    def handler(body: dict[str, Any], _: int) -> Answer:
        if not body.get("stream"):
            return refusal(400, "this model answers streams only")
        if "stream_options" in body:
            return refusal(400, "Unknown parameter: stream_options")
        return 200, events, {"Content-Type": "text/event-stream"}

    async with endpoint(handler, tmp_path) as here:
        assert await here.ask() == "yes"
        assert len(here.server.bodies) == 3


async def test_a_stop_sequence_that_is_not_taken_is_applied_here(tmp_path: Path) -> None:
    async with endpoint(lambda *_: completion("one\ntwo"), tmp_path, supports={"stop": False}) as here:
        assert await here.ask(stop=("\n",)) == "one"


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 100000. This model supports at most 16384 completion tokens",
        "max_tokens must be at least 16, which is not supported here",
    ],
)
async def test_a_value_that_is_out_of_range_is_not_a_refused_parameter(tmp_path: Path, message: str) -> None:
    async with endpoint(lambda *_: refusal(400, message), tmp_path) as here:
        with pytest.raises(PermanentModelError, match="max_tokens"):
            await here.ask()
        assert here.topics == []


async def test_a_parameter_that_is_refused_again_ends_the_call(tmp_path: Path) -> None:
    async with endpoint(lambda *_: refusal(400, "max_tokens is invalid"), tmp_path) as here:
        with pytest.raises(PermanentModelError, match="max_tokens is invalid"):
            await here.ask()
        assert len(here.server.bodies) == 2


async def test_headers_query_and_key_header_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", " sk-none-12345678\n")
    fields: dict[str, Any] = {"api_key_env": "MY_KEY", "api_key_header": "api-key", "extra_headers": {"x-mode": "a"}}
    async with endpoint(lambda *_: completion(), tmp_path, query="?api-version=1", **fields) as here:
        assert await here.ask() == "yes"
        assert here.server.paths == ["/v1/chat/completions?api-version=1"]
        assert here.server.headers[0]["api-key"] == "sk-none-12345678"
        assert here.server.headers[0]["x-mode"] == "a"


def test_a_key_with_a_character_that_no_header_can_carry_is_refused() -> None:
    cases = [("sk-a\nb", "U\\+000A"), ("sk-a\u2013b", "U\\+2013"), ("sk a", "U\\+0020"), ("sk\x00a", "U\\+0000")]
    for bad, code in cases:
        spec = ModelSpec(name="m", base_url="http://127.0.0.1/v1", api_key_env="MY_KEY")
        with pytest.raises(CatalogError, match=code) as caught:
            HostedModel(spec, environ={"MY_KEY": bad})
        assert bad not in str(caught.value)


NO_ACCESS: list[Any] = [
    {"base_resp": {"status_code": 1004, "status_msg": "auth"}, "choices": None},
    {"base_resp": {"status_code": 1004, "status_msg": "login fail: carry the API secret key"}, "choices": None},
    {"success": False, "errors": [{"code": 10000, "message": "Authentication error"}], "result": None},
    {"error": {"message": "no", "status": "UNAUTHENTICATED"}},
    {"error": {"message": "no", "type": "permission_error", "code": 7}},
    {"detail": "Forbidden"},
    {"message": "Missing API key"},
]
UNKNOWN_FAILURES: list[Any] = [
    {"detail": "Not Found"},
    {"success": False, "errors": [{"message": "no"}], "result": None},
    {"success": False, "errors": ["no"], "result": None},
    {"base_resp": {"status_code": 1000, "status_msg": "unknown error"}},
    {"error": "something else"},
    [{"error": {"message": "no"}}],
]


def gemini_error(code: int, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": "WORDS"}}


SCOPES: list[tuple[Answer, str, str]] = [
    (refusal(401, "Incorrect API key"), "model", "HTTP 401"),
    (refusal(402, "Payment required"), "model", "HTTP 402"),
    (refusal(403, "forbidden"), "model", "HTTP 403"),
    (refusal(404, "The model `x` does not exist"), "model", "HTTP 404"),
    (refusal(400, "The model `x` does not exist", code="model_not_found"), "model", "HTTP 400"),
    (refusal(429, "You exceeded your current quota", code="insufficient_quota"), "model", "HTTP 429"),
    ((307, b"", {"Location": "http://127.0.0.1:1/"}), "model", "HTTP 307"),
    ((200, {"error": {"message": "no credit left", "code": 402}}, {}), "model", "HTTP 402"),
    ((200, {"error": {"message": "insufficient balance"}}, {}), "model", "error in the response"),
    (refusal(400, "filtered by the content policy", code="content_filter"), "example", "content filter"),
    (refusal(403, "input flagged by moderation"), "example", "content filter"),
    (refusal(400, "This model's maximum context length is 4096 tokens"), "example", "context length"),
    (refusal(500, "the request exceeds the available context size"), "example", "context length"),
    (refusal(413, "prompt is too long: 9 tokens > 4 maximum"), "example", "context length"),
    (refusal(400, "bad request"), "example", "HTTP 400"),
    (refusal(429, "slow down"), "transient", "HTTP 429"),
    (refusal(529, "Overloaded"), "transient", "HTTP 529"),
    ((200, {"error": {"message": "Overloaded", "type": "overloaded_error"}}, {}), "transient", "error in the response"),
    ((200, b"<html>", {}), "transient", "malformed body"),
    *(((200, body, {}), "model", "error in the response") for body in NO_ACCESS),
    *(((200, body, {}), "transient", "error in the response") for body in UNKNOWN_FAILURES),
    *(((status, [gemini_error(429, "Resource exhausted")], {}), "transient", "HTTP 429") for status in (200, 429)),
    *(((status, [gemini_error(503, "Overloaded")], {}), "transient", "HTTP 503") for status in (200, 503)),
    *(((status, [gemini_error(403, "No access")], {}), "model", "HTTP 403") for status in (200, 403)),
    *(((status, [gemini_error(400, "Wrong value")], {}), "example", "HTTP 400") for status in (200, 400)),
    ((200, {"error": {"message": "no", "code": "invalid_prompt"}}, {}), "example", "error in the response"),
    ((200, {"error": {"message": "no", "status": "INVALID_ARGUMENT"}}, {}), "example", "error in the response"),
    ((200, {"statusCode": 401, "message": "No token"}, {}), "model", "HTTP 401"),
    ((200, {"errors": [{"code": 429, "message": "slow down"}], "success": False}, {}), "transient", "HTTP 429"),
    ((200, {"detail": "input flagged by moderation"}, {}), "example", "content filter"),
]


@pytest.mark.parametrize(("answer", "scope", "kind"), SCOPES)
async def test_failures_are_classified(tmp_path: Path, answer: Answer, scope: str, kind: str) -> None:
    async with endpoint(lambda *_: answer, tmp_path) as here:
        with pytest.raises(ModelError) as caught:
            await here.ask()
        assert (caught.value.scope, caught.value.kind) == (scope, kind)
        assert isinstance(caught.value, TransientModelError) is (scope == "transient")
        assert len(here.server.bodies) == (3 if scope == "transient" else 1)


async def test_the_wait_in_an_error_with_status_200_is_kept(tmp_path: Path) -> None:
    answer: Answer = (200, [gemini_error(429, "Please retry in 500.5s.")], {})
    async with endpoint(lambda *_: answer, tmp_path) as here:
        with pytest.raises(PermanentModelError, match=r"requests to wait 500\.5 s"):
            await here.ask()


BROKEN_OFF = ["error", "ERROR", "Failed", "failure", "server_error", "network_error", "abort", "cancelled", "TIMEOUT"]


@pytest.mark.parametrize("reason", [*BROKEN_OFF, "insufficient_system_resource"])
async def test_an_answer_that_a_failure_ended_is_charged_and_retried(tmp_path: Path, reason: str) -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 5}
    broken = {"choices": [{"message": {"content": "ye"}, "finish_reason": reason}], "usage": usage}
    answers = [(200, broken, {}), completion(usage=usage)]
    async with endpoint(lambda _, count: answers[count > 0], tmp_path, caps=Caps(tokens=10_000)) as here:
        assert await here.ask() == "yes"
        assert here.session.budget.spent == Usage(2, 40, 10)


async def test_after_a_failure_of_the_model_nothing_more_is_sent(tmp_path: Path) -> None:
    async with endpoint(lambda *_: refusal(401, "Incorrect API key: sk-x"), tmp_path) as here:
        for text in ("one", "two", "three"):
            with pytest.raises(PermanentModelError, match="Incorrect API key") as caught:
                await here.ask(text)
            assert caught.value.scope == "model"
            assert caught.value.provider_message.startswith("Incorrect API key")
        assert len(here.server.bodies) == 1
        assert here.topics == ["stopped"]
        assert here.session.budget.spent.calls == 1


@pytest.mark.parametrize("wait", ["86400", "121", "1e9"])
async def test_a_wait_longer_than_max_wait_seconds_fails_the_call(tmp_path: Path, wait: str) -> None:
    answer = refusal(429, "daily limit", headers={"Retry-After": wait.replace("1e9", "1000000000")})
    async with endpoint(lambda *_: answer, tmp_path) as here:
        with pytest.raises(PermanentModelError, match=r"requests to wait .* s, more than max_wait_seconds \(120\)"):
            await here.ask()
        assert len(here.server.bodies) == 1
        assert here.topics == ["stopped"]


async def test_nothing_is_charged_for_a_request_that_was_never_sent(tmp_path: Path) -> None:
    prices = {"usd_per_1m_completion": 10.0}
    spec = ModelSpec(name="m", base_url="http://127.0.0.1:9/v1", max_attempts=2, backoff_seconds=0.01, **prices)
    for base_url in ("http://127.0.0.1:9/v1", "http://no-such-host.invalid/v1", "localhost/v1"):
        here = spec.model_copy(update={"base_url": base_url})
        journal = str(tmp_path / "journal.db")
        async with open_session({"m": here}, base_url, caps=Caps(usd=1e-3), journal=journal) as session:
            with pytest.raises(ModelError) as caught:
                await session.model.generate(Request("m", (Message("user", "x"),), 16))
            assert not caught.value.sent
            assert session.budget.spent == Usage()


async def test_a_prompt_that_cannot_fit_is_not_sent(tmp_path: Path) -> None:
    async with endpoint(lambda *_: completion(), tmp_path, context_length=100) as here:
        with pytest.raises(PermanentModelError, match="does not fit into the context length of 100") as caught:
            await here.ask("word " * 500)
        assert (caught.value.kind, caught.value.scope) == ("context length", "example")
        assert await here.ask("word " * 50) == "yes"
        assert len(here.server.bodies) == 1


PRICES: dict[str, Any] = {"usd_per_1m_prompt": 1.0, "usd_per_1m_completion": 10.0}


@pytest.mark.parametrize(
    ("usage", "prices", "usd"),
    [
        ({"prompt_tokens": 20, "completion_tokens": 5}, PRICES, 70e-6),
        ({"prompt_tokens": 20, "completion_tokens": 5}, {**PRICES, "usd_per_request": 0.01}, 0.01007),
        (
            {"prompt_tokens": 20, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 10}},
            {**PRICES, "usd_per_1m_cached_prompt": 0.1},
            61e-6,
        ),
        (
            {"prompt_tokens": 20, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 4}},
            {**PRICES, "usd_per_1m_reasoning": 20.0},
            110e-6,
        ),
    ],
)
async def test_a_call_is_charged_at_its_own_usage(tmp_path: Path, usage: Any, prices: Any, usd: float) -> None:
    for content in ("yes", None):
        async with endpoint(lambda *_, c=content: completion(c, usage=usage), tmp_path, **prices) as here:
            await here.ask(f"with {content}")
            assert here.session.budget.spent.usd == pytest.approx(usd * (1 if content else 2))


async def test_a_malformed_body_is_charged_at_its_usage_if_it_has_one(tmp_path: Path) -> None:
    answer: Answer = (200, {"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 5}}, {})
    async with endpoint(lambda *_: answer, tmp_path, max_attempts=1, **PRICES) as here:
        with pytest.raises(TransientModelError):
            await here.ask(max_tokens=2000)
        assert here.session.budget.spent.usd == pytest.approx(70e-6)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -3, "completion_tokens": 10**40}, "many"])
async def test_missing_usage_is_charged_at_the_worst_case_under_a_cap(tmp_path: Path, usage: Any) -> None:
    for caps, is_worst in ((Caps(), False), (Caps(tokens=10_000), True)):
        folder = tmp_path / str(is_worst)
        async with endpoint(lambda *_: completion("yes", usage=usage), folder, caps=caps) as here:
            await here.ask(max_tokens=1000)
            assert (here.session.budget.spent.completion_tokens == 1000) is is_worst


async def test_usage_above_the_reservation_raises_later_ones_and_is_reported(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 400}
    async with endpoint(lambda *_: completion(usage=usage), tmp_path, caps=Caps(tokens=1100)) as here:
        assert await here.ask("one") == "yes"
        assert await here.ask("two") == "yes"
        with pytest.raises(BudgetExceeded, match="tokens cap"):
            await here.ask("three")
        assert len(here.server.bodies) == 2
        assert "usage" in here.topics
        assert here.session.budget.spent.tokens <= 1100


@pytest.mark.parametrize(
    ("prompt", "completion_tokens", "words"),
    [
        (5, 5, "reported 5 completion tokens, more than the 4 reserved; later"),
        (900, 4, r"reported 900 prompt tokens, more than the \d\d reserved; later"),
        (900, 9, r"reported 900 prompt tokens, .* and 9 completion tokens, more than the 4 reserved; later"),
    ],
)
async def test_usage_above_the_reservation_is_reported_by_kind(
    tmp_path: Path, prompt: int, completion_tokens: int, words: str
) -> None:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion_tokens}
    async with endpoint(lambda *_: completion(usage=usage), tmp_path) as here:
        await here.ask(max_tokens=4)
        (notice,) = here.notices
        assert isinstance(notice, ModelNotice)
        assert re.match(words, notice.detail)


async def test_a_cap_in_usd_needs_prices(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs the prices of all models, but there is none for m"):
        async with endpoint(lambda *_: completion(), tmp_path, caps=Caps(usd=1)):
            pass
    for fields in ({"price": "free"}, {"unpriced": "ok"}, {"usd_per_1m_prompt": 0.0}, {"model": "gpt-4o-mini"}):
        async with endpoint(lambda *_: completion(), tmp_path, caps=Caps(usd=1), **fields) as here:
            assert await here.ask() == "yes"


async def test_a_body_is_bounded(tmp_path: Path) -> None:
    huge = b'{"choices": [{"message": {"content": "' + b"x" * (17 * 2**20) + b'"}}]}'
    async with endpoint(lambda *_: (200, huge, {}), tmp_path, max_attempts=1) as here:
        with pytest.raises(TransientModelError, match="larger than 16 MiB"):
            await here.ask()


async def test_a_compressed_body_is_bounded_after_decompression(tmp_path: Path) -> None:
    bomb = gzip.compress(b" " * (64 * 2**20))
    async with endpoint(lambda *_: (200, bomb, {"Content-Encoding": "gzip"}), tmp_path, max_attempts=1) as here:
        with pytest.raises(TransientModelError, match="larger than 16 MiB"):
            await here.ask()


async def test_concurrency_is_halved_after_a_429(tmp_path: Path) -> None:
    async with endpoint(lambda _, i: refusal(429, "slow") if i == 0 else completion(), tmp_path, concurrency=8) as here:
        assert await here.ask() == "yes"
        limiter = here.session.model._limiter(here.session.specs["m"])
        assert limiter.concurrency == 4


def test_concurrent_calls_that_take_too_much_raise_later_ones_once() -> None:
    overruns, worst = Overruns(), Usage(1, 10, 4)
    said = [overruns.observe("m", Usage(1, 10, 40), worst) for _ in range(50)]
    assert [bool(words) for words in said] == [True] + [False] * 49, "each was reserved before any was observed"
    assert overruns.raised("m", worst) == Usage(1, 10, 40)
    assert overruns.observe("m", Usage(1, 30, 60), worst).startswith("30 prompt tokens, more than the 10")
    assert overruns.raised("m", worst) == Usage(1, 30, 60)


class Slow(ScriptedModel):
    """A provider whose preparation is counted, as the loading of a client library."""

    def __init__(self) -> None:
        super().__init__(lambda request, repeat: "a")
        self.prepared: list[str] = []

    async def prepare(self, model: str) -> None:
        self.prepared.append(model)


@pytest.mark.parametrize("cap", [1, 1000])
async def test_a_cap_without_room_for_the_first_call_is_refused_before_anything_is_loaded(
    tmp_path: Path, cap: int
) -> None:
    spec, provider = ModelSpec(name="m", base_url="http://127.0.0.1:9/v1"), Slow()
    journal = str(tmp_path / "journal.db")
    async with open_session({"m": spec}, "run", caps=Caps(tokens=cap), journal=journal, provider=provider) as session:
        request = Request("m", (Message("user", "a question"),), 8)
        if cap == 1:
            with pytest.raises(BudgetExceeded, match="is too low: the first call"):
                await session.model.generate(request)
        else:
            await session.model.generate(request)
        assert provider.prepared == (["m"] if cap > 1 else [])
        assert session.budget.spent.calls == len(provider.requests) == len(provider.prepared)
