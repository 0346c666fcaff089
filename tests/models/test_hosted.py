"""`HostedModel` against loopback servers, on three routes: openai, litellm to OpenAI, litellm to Anthropic."""

import asyncio
import gzip
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.errors import (
    CatalogError,
    MalformedResponseError,
    ModelError,
    PermanentModelError,
    TransientModelError,
)
from agentopt.models.base import Message, Request, Response
from agentopt.models.catalog import ModelSpec, Weights
from agentopt.models.hosted import HostedModel, PromptDensity, estimated_tokens, split_tokens
from agentopt.models.http_refusals import requested_wait
from agentopt.models.request_fitting import payload
from agentopt.models.response_body import read_completion
from agentopt.models.retry_after import retry_after
from agentopt.models.scripted import ScriptedModel
from agentopt.testing.conformance import check_chat_model
from agentopt.testing.faults import Fault, Faults
from agentopt.testing.server_process import ServerProcess
from agentopt.testing.servers import AnthropicServer, OpenAIServer, planted_answer

KEY = "sk-a-key-that-is-secret"
Server = OpenAIServer | AnthropicServer
ROUTES: dict[str, tuple[Callable[..., Server], dict[str, Any]]] = {
    "openai": (OpenAIServer, {}),
    "litellm-openai": (OpenAIServer, {"litellm": "openai/small"}),
    "litellm-anthropic": (AnthropicServer, {"litellm": "anthropic/claude-haiku-4-5"}),
}
every_route = pytest.mark.parametrize("route", ROUTES)


def ask(text: str = "Say [[yes]]", **options: Any) -> Request:
    messages = (Message("system", "Be brief."), Message("user", text))
    return Request("small", messages, **{"max_tokens": 20, **options})


def server_of(route: str, answer: Any = None, **options: Any) -> Server:
    return ROUTES[route][0](answer, **options)


def model_of(route: str, base_url: str, **options: Any) -> HostedModel:
    built = {name: options.pop(name) for name in ("count_tokens", "api_key", "environ") if name in options}
    # The first call through litellm imports for seconds, which must not count as a timeout.
    options = {"timeout_seconds": 60, "max_choices": 4, "supports": {"seed": True}, **ROUTES[route][1], **options}
    return HostedModel(ModelSpec(name="small", base_url=base_url, **options), **{"api_key": KEY, **built})


async def outcome(route: str, *script: Fault | None, faults: Faults | None = None, **options: Any) -> ModelError:
    """The error of one call to a server with these faults."""
    async with server_of(route, faults=faults or Faults(script=script)) as server:
        model = model_of(route, server.base_url, **options)
        with pytest.raises(ModelError) as caught:
            await model.generate(ask())
        await model.aclose()
    assert server.calls == 1, "one attempt per generate"
    return caught.value


async def answer_of(route: str, request: Request, server: Server, **options: Any) -> Response:
    async with server:
        model = model_of(route, server.base_url, **options)
        response = await model.generate(request)
        await model.aclose()
    return response


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - requests of a server are not events of this process
            await asyncio.sleep(0.01)


async def test_the_scripted_model_passes_the_conformance_check() -> None:
    await check_chat_model(ScriptedModel(lambda request, repeat: f"answer {repeat}"), ask())


@every_route
async def test_a_hosted_model_passes_the_conformance_check(route: str) -> None:
    async with server_of(route) as server:
        await check_chat_model(model_of(route, server.base_url), ask())


async def test_the_conformance_check_detects_too_many_choices() -> None:
    class Generous(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            return await super().generate(request.for_repeats(0, request.n + 1))

    with pytest.raises(AssertionError, match="requested 1 choices, got 2"):
        await check_chat_model(Generous(lambda *_: "yes"), ask())


@every_route
async def test_a_response_has_text_tokens_and_finish_reason(route: str) -> None:
    response = await answer_of(route, ask("Say [[one two three]]", max_tokens=2), server_of(route))
    (choice,) = response.choices
    assert (choice.text, choice.completion_tokens, choice.finish_reason) == ("one two", 2, "length")
    assert response.prompt_tokens == 6
    assert response.seconds > 0


STATUSES: dict[Fault, type[ModelError]] = {
    **dict.fromkeys((408, 409, 425, 429, 500, 502, 503, 529), TransientModelError),
    **dict.fromkeys((400, 401, 403, 404, 413, 422), PermanentModelError),
}


@every_route
async def test_an_error_status_is_not_charged_and_is_transient_or_permanent(route: str) -> None:
    async with server_of(route, faults=Faults(script=list(STATUSES))) as server:
        model = model_of(route, server.base_url)
        for status, error_class in STATUSES.items():
            with pytest.raises(ModelError) as caught:
                await model.generate(ask())
            error = caught.value
            assert (type(error), error.billed, error.kind) == (error_class, False, f"HTTP {status}")
            assert f"small at {server.base_url}: HTTP {status}: planted {status}" in str(error)
        await model.aclose()
    assert server.calls == len(STATUSES), "one attempt per generate"


@every_route
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("hang", "timeout"),
        ("drop", "connection dropped"),
        ("drop_mid_body", "connection dropped"),
        ("not_json", "malformed body"),
        ("no_choices", "malformed body"),
    ],
)
async def test_a_failure_with_unknown_outcome_may_have_been_billed_and_is_transient(
    route: str, fault: Fault, kind: str
) -> None:
    error = await outcome(route, fault, timeout_seconds=0.5 if fault == "hang" else 60)
    assert type(error) is TransientModelError
    assert error.billed
    assert error.kind == kind


@every_route
async def test_a_refused_connection_is_transient_and_not_sent(route: str) -> None:
    async with server_of(route) as server:
        gone = server.base_url
    model = model_of(route, gone)
    with pytest.raises(TransientModelError, match="no connection") as caught:
        await model.generate(ask())
    await model.aclose()
    assert not caught.value.billed
    assert not caught.value.sent
    assert caught.value.kind == "no connection"


@every_route
async def test_an_address_without_a_scheme_is_permanent(route: str) -> None:
    model = model_of(route, "localhost/v1")
    with pytest.raises(PermanentModelError, match="not an address"):
        await model.generate(ask())
    await model.aclose()


@every_route
async def test_retry_after_is_read(route: str) -> None:
    in_seconds = await outcome(route, faults=Faults(script=["rate_limit"], retry_after=7))
    assert isinstance(in_seconds, TransientModelError)
    assert in_seconds.retry_after == 7
    date = formatdate(time.time() + 90, usegmt=True)
    as_date = await outcome(route, faults=Faults(script=["rate_limit"], retry_after=date))
    assert isinstance(as_date, TransientModelError)
    assert as_date.retry_after is not None
    assert 60 < as_date.retry_after <= 90
    in_milliseconds = await outcome(route, faults=Faults(script=[503], headers={"retry-after-ms": "250"}))
    assert isinstance(in_milliseconds, TransientModelError)
    assert in_milliseconds.retry_after == 0.25


def test_retry_after_is_read_in_every_form_and_an_unreadable_one_is_ignored() -> None:
    date = formatdate(1_000_030, usegmt=True)
    cases = [({"retry-after": "3"}, 3.0), ({"retry-after": "0.5"}, 0.5), ({"retry-after": date}, 30.0)]
    cases += [({"retry-after": "3", "retry-after-ms": "1500"}, 1.5), ({"retry-after": "+5"}, 5.0)]
    cases += [
        ({"retry-after": "1m30s"}, 90.0),
        ({"retry-after": "120 seconds"}, 120.0),
        ({"retry-after": "6ms"}, 0.006),
    ]
    cases += [({"retry-after": "1970-01-12T13:47:10Z"}, 30.0), ({"retry-after": "9" * 400}, math.inf)]
    cases += [({"retry-after": "1700000000"}, 1_699_000_000), ({"retry-after": "1700000000000"}, 1_699_000_000)]
    for headers, seconds in cases:
        assert retry_after(headers, now=lambda: 1_000_000) == seconds
    assert retry_after({"retry-after": date}, now=lambda: 2_000_000) == 0
    for headers in (
        {},
        {"retry-after": "soon"},
        {"retry-after": "-1"},
        {"retry-after": "nan"},
        {"retry-after": "5, 5"},
    ):
        assert retry_after(headers) is None


@every_route
async def test_the_key_is_redacted_if_the_provider_repeats_it(route: str) -> None:
    async with server_of(route, api_key="another") as server:
        model = model_of(route, server.base_url)
        with pytest.raises(PermanentModelError, match=r"Incorrect API key provided: \[key\]") as caught:
            await model.generate(ask())
        await model.aclose()
    assert KEY not in str(caught.value)
    assert caught.value.__suppress_context__, "a traceback would show the provider's own message"
    assert str(caught.value).endswith("; check the API key")


@pytest.mark.parametrize(
    ("key", "remedy"), [(KEY, "check the API key"), (None, "the entry sends no API key, set api_key_env")]
)
async def test_a_refused_key_and_a_missing_one_have_different_remedies(key: str | None, remedy: str) -> None:
    async with server_of("openai", api_key="another") as server:
        model = model_of("openai", server.base_url, api_key=key, environ={"OPENAI_API_KEY": "unused"})
        with pytest.raises(PermanentModelError) as caught:
            await model.generate(ask())
        await model.aclose()
    assert f"; {remedy}" in str(caught.value)


@every_route
async def test_cancelling_a_call_closes_its_connection(route: str) -> None:
    async with server_of(route, faults=Faults(script=["hang"])) as server:
        model = model_of(route, server.base_url)
        call = asyncio.ensure_future(model.generate(ask()))
        await until(lambda: server.in_flight == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: server.in_flight == 0)
        assert (await model.generate(ask())).choices[0].text == "yes"
        await model.aclose()


async def test_an_exception_handled_by_the_caller_is_not_part_of_the_failure() -> None:
    async with OpenAIServer(faults=Faults(script=[401, "no_choices"])) as server:
        model = model_of("openai", server.base_url)
        try:
            await model.generate(ask())
        except PermanentModelError:
            with pytest.raises(TransientModelError, match="expected choices"):
                await model.generate(ask())
        await model.aclose()


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (500, "the request exceeds the available context size"),
        (400, "This model's maximum context length is 4096 tokens"),
        (429, "You exceeded your current quota (insufficient_quota)"),
    ],
)
async def test_a_prompt_too_long_and_an_empty_account_are_permanent_whatever_the_status(
    status: int, message: str
) -> None:
    error = await outcome("openai", faults=Faults(script=[status], message=message))
    assert type(error) is PermanentModelError
    assert not error.billed


async def test_repeats_continue_the_seeds_of_a_call_with_several_choices() -> None:
    server = OpenAIServer(planted_answer({"small": 0.5}, seed=3))
    async with server:
        model = model_of("openai", server.base_url, max_choices=8)
        whole = await model.generate(ask(n=8, seed=40))
        parts = [await model.generate(ask(n=4, seed=40).for_repeats(first, 4)) for first in (0, 4)]
        await model.aclose()
    texts = [choice.text for choice in whole.choices]
    assert texts == [choice.text for part in parts for choice in part.choices]
    assert len(set(texts)) > 1
    first = ask(seed=40).sampling_seed
    assert [(r.n, r.seed) for r in server.requests] == [(8, first), (4, first), (4, first + 4)]
    assert server.choices == 16


def test_each_prompt_has_a_different_reproducible_seed() -> None:
    seeds = {ask(f"Say {word}", seed=seed).sampling_seed for word in ("a", "b", "c") for seed in (0, 1)}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**30 for seed in seeds)
    assert ask(seed=1).for_repeats(3, 2).sampling_seed == ask(seed=1).sampling_seed + 3


async def test_no_more_choices_are_requested_than_max_choices() -> None:
    server = OpenAIServer()
    assert len((await answer_of("openai", ask(n=9), server, max_choices=4)).choices) == 4
    assert server.requests[0].n == 4
    single = OpenAIServer()
    assert len((await answer_of("openai", ask(n=9), single, max_choices=1)).choices) == 1
    assert "n" not in single.requests[0].body


async def test_a_provider_without_n_and_seed_returns_one_choice() -> None:
    server = AnthropicServer()
    assert len((await answer_of("litellm-anthropic", ask(n=3, seed=5), server)).choices) == 1
    assert not {"n", "seed"} & set(server.requests[0].body)


async def test_reported_tokens_are_split_over_the_choices() -> None:
    server = OpenAIServer(lambda _, index: "word " * (index + 1))
    response = await answer_of("openai", ask(n=3), server)
    assert [choice.completion_tokens for choice in response.choices] == [1, 2, 3]


async def count_words(text: str) -> int:
    return len(text.split())


async def test_choices_are_counted_separately_if_usage_covers_only_the_first() -> None:
    server = OpenAIServer(lambda *_: "four words of text", usage="one_choice")
    trapped = await answer_of("openai", ask(n=3), server)
    assert trapped.completion_tokens == 4
    server = OpenAIServer(lambda *_: "four words of text", usage="one_choice")
    counted = await answer_of("openai", ask(n=3), server, count_tokens=count_words)
    assert [choice.completion_tokens for choice in counted.choices] == [4, 4, 4]


async def test_unreported_tokens_are_estimated_as_a_quarter_of_the_bytes() -> None:
    server = OpenAIServer(lambda *_: "twelve bytes!", usage="none")
    response = await answer_of("openai", ask("Five!", n=2), server)
    assert [choice.completion_tokens for choice in response.choices] == [4, 4]
    assert response.prompt_tokens == 3 + 2


@given(total=st.integers(0, 10_000), lengths=st.lists(st.integers(0, 500), min_size=1, max_size=20))
def test_split_tokens_sum_to_the_total_and_stay_within_one_of_their_share(total: int, lengths: list[int]) -> None:
    shares = split_tokens(total, lengths)
    assert sum(shares) == total
    whole = sum(lengths)
    for share, length in zip(shares, lengths, strict=True):
        assert abs(share - (total * length / whole if whole else total / len(lengths))) < 1 + 1e-9


async def test_a_model_without_chat_template_is_sent_one_completion_prompt() -> None:
    server = OpenAIServer(lambda *_: " and so on")
    response = await answer_of("openai", ask("Once upon"), server, chat_template=False)
    assert response.choices[0].text == " and so on"
    assert server.requests[0].body["prompt"] == "Be brief.\n\nOnce upon"


def test_the_body_has_the_set_parameters_and_a_schema_only_if_supported() -> None:
    request = ask(json_schema='{"type": "object"}', stop=("\n",), temperature=0.3, top_p=0.8, seed=2)
    spec = ModelSpec(name="small", model="org/small", base_url="http://127.0.0.1/v1")
    plain = payload(spec, request)
    assert plain == {
        "model": "org/small",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say [[yes]]"}],
        "max_tokens": 20,
        "temperature": 0.3,
        "top_p": 0.8,
        "seed": request.sampling_seed,  # because a seed is set
        "stop": ["\n"],
    }
    schema = {"name": "answer", "schema": {"type": "object"}}
    with_schema = payload(spec.model_copy(update={"json_schema": True}), request)
    assert with_schema == {**plain, "response_format": {"type": "json_schema", "json_schema": schema}}


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"message": {"content": None}, "finish_reason": "length"}, ""),
        ({"message": {"content": ""}, "finish_reason": "stop"}, ""),
        ({"message": {"content": None, "refusal": "I cannot."}, "finish_reason": "stop"}, "I cannot."),
        ({"message": {"content": None}, "finish_reason": "content_filter"}, ""),
        ({"message": {"content": None}, "finish_reason": "stop"}, ""),
        ({"message": {}, "finish_reason": "stop"}, ""),
        ({"message": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}}, "ab"),
        ({"message": {"content": 3}, "finish_reason": "stop"}, None),
        ({"message": None}, None),
        ("yes", None),
    ],
)
def test_null_content_is_an_empty_text_and_other_types_are_malformed(choice: Any, text: str | None) -> None:
    if text is None:
        with pytest.raises(MalformedResponseError, match="but got"):
            read_completion({"choices": [choice]}, most=1)
    else:
        assert read_completion({"choices": [choice]}, most=1).choices[0].text == text


@pytest.mark.parametrize("route", ["openai", "litellm-openai"])
async def test_null_content_is_an_empty_text_on_every_route(route: str) -> None:
    response = await answer_of(route, ask(), OpenAIServer(lambda *_: None))
    assert response.choices[0].text == ""
    assert response.choices[0].finish_reason == "stop"


LITELLM: dict[str, dict[str, Any]] = {
    "openai": {"litellm": "openai/small"},
    "anthropic": {"litellm": "anthropic/claude-haiku-4-5"},
    "azure": {"litellm": "azure/small", "query": {"api-version": "2024-10-21"}},
    "deepseek": {"litellm": "deepseek/deepseek-chat"},
}
HUGE = b" " * (17 * 2**20)


KEY_VARIABLES = {
    "openai/small": "OPENAI_API_KEY",
    "anthropic/claude-haiku-4-5": "ANTHROPIC_API_KEY",
    "gemini/gemini-2.5-flash": "GEMINI_API_KEY",
    "azure/small": "AZURE_API_KEY",
    "deepseek/deepseek-chat": "DEEPSEEK_API_KEY",
    "groq/small": "GROQ_API_KEY",
    "mistral/small": "MISTRAL_API_KEY",
    "ollama_chat/small": "OLLAMA_API_KEY",
}
"""Model string of litellm -> the variable that litellm reads the provider's key from."""


@pytest.mark.parametrize("named", [False, True], ids=["unnamed", "named"])
@pytest.mark.parametrize("model", KEY_VARIABLES)
async def test_an_address_of_the_entry_receives_a_key_only_if_the_entry_names_it(
    model: str, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLES[model], KEY)  # litellm reads the process's environment
    async with listening({}, status=401) as (base_url, requests):
        variable, query = KEY_VARIABLES[model] if named else None, {"api-version": "2024-10-21"}
        spec = ModelSpec(name="small", litellm=model, base_url=base_url, api_key_env=variable, query=query)
        hosted = HostedModel(spec)
        with pytest.raises(PermanentModelError, match="check the API key" if named else "set api_key_env"):
            await hosted.generate(ask())
        await hosted.aclose()
    assert requests
    assert all(named == any(KEY in value for value in request.headers.values()) for request in requests)
    assert not any(KEY in str(request.url) for request in requests)


@pytest.mark.parametrize("entry", LITELLM.values(), ids=LITELLM)
@pytest.mark.parametrize(
    ("status", "body", "headers", "kind", "words"),
    [
        (307, b"", {"Location": "/elsewhere"}, PermanentModelError, "307|redirect"),
        (200, HUGE, {}, TransientModelError, "larger than 16 MiB"),
        (200, gzip.compress(HUGE), {"Content-Encoding": "gzip"}, TransientModelError, "larger than 16 MiB"),
        (200, b"{}", {"Content-Encoding": "gzip"}, TransientModelError, "not compressed as its header says"),
        (200, b"{}", {"Content-Encoding": "br"}, TransientModelError, "encoding br, but none was requested"),
    ],
    ids=["redirect", "huge", "bomb", "not gzip", "not requested"],
)
async def test_litellm_follows_no_redirect_and_reads_no_unbounded_body(
    entry: dict[str, Any], status: int, body: bytes, headers: dict[str, str], kind: type[ModelError], words: str
) -> None:
    async with listening(body, status=status, headers=headers) as (base_url, requests):
        model = HostedModel(ModelSpec(name="small", base_url=base_url, timeout_seconds=60, **entry), api_key=KEY)
        with pytest.raises(kind, match=words):
            await model.generate(ask())
        await model.aclose()
    assert len(requests) == 1
    assert "elsewhere" not in requests[0].path


@pytest.mark.parametrize(
    ("sizes", "tokens", "most"),
    [
        ([2000] * 4, 500, 8),  # too few prompts
        ([900] * 9, 90, 8),  # too short ones
        ([2000] * 5, 1000, 4),
        ([2000] * 5, 500, 8),
        ([2000] * 4 + [9000], 1000, 8),  # the densest counts
        ([2000] * 9, None, 8),
    ],
)
def test_bytes_per_token_are_bounded_by_twice_the_most_that_was_measured(
    sizes: list[int], tokens: int | None, most: float
) -> None:
    density = PromptDensity()
    for size in sizes:
        density.observe(size, tokens)
    assert density.most_bytes_per_token == most


async def test_a_prompt_is_refused_by_what_was_measured_and_one_that_may_fit_is_sent() -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 1}
    answer = {"choices": [{"message": {"content": "yes"}}], "usage": usage}
    async with listening(answer) as (base_url, requests):
        model = HostedModel(ModelSpec(name="small", base_url=base_url, context_length=1000), api_key=KEY)
        long = ask("word " * 1000)
        for _ in range(5):
            await model.generate(ask("1234 " * 240))
        with pytest.raises(PermanentModelError, match=r"at least 2[0-9]+ tokens, does not fit into the context length"):
            await model.generate(long)
        assert len(requests) == 5
        assert (await model.generate(ask("word " * 400))).choices[0].text == "yes"
        await model.aclose()


async def test_a_prompt_is_counted_by_the_tokenizer_if_there_is_one() -> None:
    async def count(text: str) -> int:
        return len(text.split())

    async with server_of("openai") as server:
        model = model_of("openai", server.base_url, context_length=100, count_tokens=count)
        assert (await model.generate(ask("word " * 90 + "[[yes]]"))).choices[0].text == "yes"
        with pytest.raises(PermanentModelError, match=r" bytes, 1[0-9]+ tokens, does not fit"):
            await model.generate(ask("word " * 110))
        await model.aclose()
    assert server.calls == 1


@pytest.mark.parametrize("texts", [["one two", "one two", "one two"], ["a", "one two three", ""]])
async def test_the_tokens_of_further_choices_are_estimated_if_the_usage_counts_the_first(texts: list[str]) -> None:
    answer = {
        "choices": [{"index": i, "message": {"content": text}} for i, text in enumerate(texts)],
        "usage": {"prompt_tokens": 5, "completion_tokens": 4},
        "timings": {"predicted_n": 4},
    }
    async with listening(answer) as (base_url, _):
        model = HostedModel(ModelSpec(name="small", base_url=base_url, max_choices=3), api_key=KEY)
        response = await model.generate(ask(n=3))
        alone = await model.generate(ask())
        await model.aclose()
    expected = [4 * len(text) // len(texts[0]) for text in texts]
    assert [choice.completion_tokens for choice in response.choices] == expected
    assert (response.is_usage_reported, alone.is_usage_reported) == (False, True)


@asynccontextmanager
async def listening(
    answer: dict[str, Any] | bytes, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[str, list[web.Request]]]:
    """A server that gives every request the same answer; its address, and the requests."""
    requests: list[web.Request] = []

    async def respond(request: web.Request) -> web.Response:
        requests.append(request)
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        return web.Response(status=status, body=body, headers={"Content-Type": "application/json", **(headers or {})})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", respond)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", requests
    finally:
        await runner.cleanup()


async def test_the_key_is_read_from_the_variable_of_the_entry() -> None:
    server = OpenAIServer(api_key=KEY)
    response = await answer_of("openai", ask(), server, api_key=None, api_key_env="MY_KEY", environ={"MY_KEY": KEY})
    assert response.choices[0].text == "yes"


def test_a_missing_key_is_reported_with_the_variable_and_the_remedy() -> None:
    spec = ModelSpec(name="small", base_url="http://127.0.0.1/v1", api_key_env="MY_KEY")
    with pytest.raises(CatalogError, match=r"MY_KEY, which is not set\n  remedy: export MY_KEY="):
        HostedModel(spec, environ={})


def test_an_entry_with_weights_is_refused() -> None:
    with pytest.raises(CatalogError, match="needs litellm or base_url"):
        HostedModel(ModelSpec(name="small", weights=Weights(file="small.gguf")))


@every_route
async def test_a_closed_model_connects_again(route: str) -> None:
    async with server_of(route) as server:
        model = model_of(route, server.base_url)
        for _ in range(2):
            assert (await model.generate(ask())).choices[0].text == "yes"
            await model.aclose()


@every_route
def test_a_model_can_be_used_in_several_event_loops_in_turn(route: str) -> None:
    async def once() -> str:
        return (await answer_of(route, ask(), server_of(route))).choices[0].text

    assert [asyncio.run(once()) for _ in range(3)] == ["yes"] * 3


@every_route
async def test_nothing_is_printed_or_logged(
    route: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for fault in (401, 500, "not_json", "drop"):
        await outcome(route, fault)
    await answer_of(route, ask(), server_of(route))
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR", "CRITICAL")] == []


async def test_faults_come_by_seeded_rate_and_are_counted_by_kind() -> None:
    faults = Faults(rates={"rate_limit": 0.3, "server_error": 0.3}, seed=1)
    async with OpenAIServer(faults=faults) as server:
        model = model_of("openai", server.base_url)
        results = [await asyncio.gather(model.generate(ask()), return_exceptions=True) for _ in range(40)]
        await model.aclose()
    failed = sum(isinstance(result, TransientModelError) for (result,) in results)
    assert server.outcomes["rate_limit"] + server.outcomes["server_error"] == failed
    assert failed == sum(faults.of_request(index) is not None for index in range(40))
    assert 10 < failed < 38


async def test_the_server_counts_concurrent_calls() -> None:
    async with OpenAIServer(delay=0.05) as server:
        model = model_of("openai", server.base_url)
        await asyncio.gather(*(model.generate(ask()) for _ in range(20)))
        await model.aclose()
    assert (server.max_in_flight, server.in_flight, server.calls) == (20, 0, 20)


async def test_a_server_process_answers_from_the_prompt_and_logs_its_requests(tmp_path: Path) -> None:
    counter = tmp_path / "requests.jsonl"
    with ServerProcess(counter=counter, quality={"small": 0.5}, seed=1) as process:
        model = model_of("openai", process.base_url, max_choices=20)
        response = await model.generate(ask(n=20))
        await model.aclose()
    right = sum(choice.text == "yes" for choice in response.choices)
    assert 3 < right < 17
    (line,) = [json.loads(line) for line in counter.read_text().splitlines()]
    sent = ask().sampling_seed
    assert (line["n"], line["seed"], line["model"], line["outcome"]) == (20, sent, "small", "ok")
    assert process.received() == [line]


def test_half_an_emoji_cut_off_by_max_tokens_is_read_and_counted() -> None:
    choice = {"message": {"content": "ok \ud83d"}, "finish_reason": "length"}
    (read,) = read_completion({"choices": [choice]}, most=1).choices
    assert (read.text, read.finish_reason) == ("ok ?", "length")
    assert estimated_tokens("abc\ud83d") == 1


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ("Rate limit reached for gpt-5-mini. Please try again in 20s. Visit the page", 20),
        ("Rate limit reached: tokens per day. Please try again in 7m12.5s.", 432.5),
        ("You exceeded your quota. Please retry in 34.07s.", 34.07),
        ("try again in 6ms", 0.006),
        ("Try again in 500 milliseconds", 0.5),
        ("Please try again in 2 hours and 5 minutes", 7500),
        ("retry after 1d: try again in 1d2h", 93600),
        ("Please try again later", None),
        ("retry, some time in the future", None),
        ("in 3 minutes the model is unloaded", None),
    ],
)
def test_the_wait_that_a_provider_requests_is_read_from_its_words(words: str, seconds: float | None) -> None:
    assert requested_wait(words) == (None if seconds is None else pytest.approx(seconds))


async def test_a_requested_wait_without_a_header_is_kept_to() -> None:
    answer = {"error": {"message": "Rate limit reached. Please try again in 7m12.5s."}}
    async with listening(answer, status=429) as (base_url, _):
        model = HostedModel(ModelSpec(name="small", base_url=base_url), api_key=KEY)
        with pytest.raises(TransientModelError) as caught:
            await model.generate(ask())
        await model.aclose()
    assert caught.value.retry_after == 432.5
