"""Batched calls of a session: grouped, under the caps, in the journal before they are waited for."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentopt.core.budget import Budget, Caps, Usage
from agentopt.core.errors import BudgetExceeded, PermanentModelError, RunStoppingError
from agentopt.core.events import BatchWaiting, Event
from agentopt.models.base import Message, Request, Response, ToolCall
from agentopt.models.batch import BatchTransport
from agentopt.models.batch_calls import BatchBook, decoded, encoded
from agentopt.models.batch_lane import BatchLane
from agentopt.models.batch_wire import WiredModel
from agentopt.models.catalog import BatchTerms, ModelSpec
from agentopt.models.client import ModelClient
from agentopt.models.hosted import HostedModel
from agentopt.models.journal import Journal
from agentopt.models.shared_budget import open_shared_budget
from agentopt.testing.batch_servers import AnthropicBatchServer, BatchPlan, OpenAIBatchServer

KEY = "sk-a-key-that-is-secret"
Server = OpenAIBatchServer | AnthropicBatchServer
SERVERS: dict[str, type[Server]] = {"openai": OpenAIBatchServer, "anthropic": AnthropicBatchServer}
every_provider = pytest.mark.parametrize("provider", SERVERS)
USD = 1e-6
"""Price of a token of a direct call."""


def spec_of(server: Server, **options: Any) -> ModelSpec:
    is_anthropic = isinstance(server, AnthropicBatchServer)
    route = {"litellm": "anthropic/claude-haiku-4-5"} if is_anthropic else {"model": "small"}
    fields = {
        "base_url": server.base_url,
        "timeout_seconds": 60,
        "max_attempts": 3,
        "backoff_seconds": 0.001,
        "usd_per_1m_prompt": 1.0,
        "usd_per_1m_completion": 1.0,
        "batch": BatchTerms(price=0.5),
        **route,
        **options,
    }
    return ModelSpec(name="small", **fields)


class Client:
    """One session of a run: its model client, and what it spent."""

    def __init__(self, model: ModelClient, budget: Budget, journal: Journal) -> None:
        self.model, self.budget, self.journal = model, budget, journal

    async def texts(self, requests: Mapping[str, Request], *, is_batched: bool = True) -> dict[str, str]:
        responses = await asyncio.gather(*(self.model.generate(r, is_batched=is_batched) for r in requests.values()))
        return dict(zip(requests, (response.choices[0].text for response in responses), strict=True))


async def no_wait(seconds: float) -> None:
    """Pass time without waiting for it: a poll of a day takes as long as its call."""
    await asyncio.sleep(0.001)


@asynccontextmanager
async def session(
    folder: Path,
    spec: ModelSpec,
    *,
    run: str = "run",
    caps: Caps = Caps(),
    observer: Callable[[Event], None] = lambda _: None,
    quiet: float = 0.02,
    fresh: bool = False,
    sleep: Callable[[float], Any] = no_wait,
    is_shared: bool = False,
) -> AsyncIterator[Client]:
    journal, specs = Journal(folder / "journal.db", fresh=fresh), {spec.name: spec}
    ending = AsyncExitStack()
    budget = (
        await ending.enter_async_context(open_shared_budget(folder / "journal.db", run, journal.session, caps))
        if is_shared
        else Budget(caps, already_spent=journal.spend(run).by_purpose)
    )

    def transport(specs: Mapping[str, ModelSpec], on_status: Callable[..., None]) -> BatchTransport:
        return BatchTransport(
            specs,
            connect=lambda spec: WiredModel(spec, api_key=KEY, environ={}),
            on_status=on_status,
            sleep=sleep,
        )

    lane = BatchLane(specs, journal, budget, run, transport=transport, observer=observer, quiet=quiet)
    provider = HostedModel(spec, api_key=KEY, environ={})
    model = ModelClient(provider, specs, journal, budget, run, observer=observer, lane=lane)
    await lane.resume()
    try:
        yield Client(model, budget, journal)
    finally:
        await model.aclose()
        await provider.aclose()
        await ending.aclose()
        await journal.aclose()


def request(word: str, **options: Any) -> Request:
    return Request("small", (Message("user", f"Say [[{word}]]"),), **{"max_tokens": 20, **options})


def requests_of(number: int, **options: Any) -> dict[str, Request]:
    return {f"word{i}": request(f"word{i}", **options) for i in range(number)}


async def ends_of(client: Client, requests: Mapping[str, Request]) -> list[Response | BaseException]:
    calls = (client.model.generate(one, is_batched=True) for one in requests.values())
    return list(await asyncio.gather(*calls, return_exceptions=True))


def close(one: Usage, other: Usage) -> bool:
    """Whether usages are equal, up to the rounding of sums."""
    return (one.calls, one.tokens) == (other.calls, other.tokens) and math.isclose(one.usd, other.usd)


def equal(requests: Mapping[str, Request]) -> dict[str, str]:
    return {word: word for word in requests}


@every_provider
async def test_concurrent_calls_are_one_batch_at_its_price(provider: str, tmp_path: Path) -> None:
    requests, events = requests_of(30), list[Event]()
    async with SERVERS[provider](api_key=KEY) as server:
        async with session(tmp_path, spec_of(server), observer=events.append) as client:
            assert await client.texts(requests) == equal(requests)
            spent = client.budget.spent
            assert client.budget.in_flight.usd == pytest.approx(0)
            assert close(client.journal.spend("run").by_purpose["samples"], spent)
            assert await client.texts(requests) == equal(requests), "the journal has them"
        async with session(tmp_path, spec_of(server), run="direct", fresh=True) as client:
            await client.texts(requests, is_batched=False)
            direct = client.budget.spent
    assert server.operations["create"] == 1
    assert len(server.requests) == 60
    assert spent.calls == 30
    assert spent.tokens == direct.tokens
    assert spent.usd == pytest.approx(direct.usd / 2)
    waiting = [event for event in events if isinstance(event, BatchWaiting)]
    assert [(e.calls, e.done, e.has_ended) for e in (waiting[0], waiting[-1])] == [(30, 0, False), (30, 30, True)]


@pytest.mark.parametrize(
    "options", [{"purpose": "judge"}, {"purpose": "agent"}, {"purpose": "prompts"}, {"purpose": "check"}]
)
async def test_calls_that_are_waited_for_are_made_directly(options: dict[str, Any], tmp_path: Path) -> None:
    async with OpenAIBatchServer(api_key=KEY) as server, session(tmp_path, spec_of(server)) as client:
        await client.texts(requests_of(3, **options))
    assert not server.operations
    assert len(server.requests) == 3


async def test_a_model_without_batches_is_called_directly(tmp_path: Path) -> None:
    async with OpenAIBatchServer(api_key=KEY) as server, session(tmp_path, spec_of(server, batch=None)) as client:
        await client.texts(requests_of(3))
    assert not server.operations


@every_provider
async def test_lines_that_fail_are_called_directly_or_fail_as_classified(provider: str, tmp_path: Path) -> None:
    plan = BatchPlan(fates={0: "expired", 1: 500, 2: "missing", 3: 400})
    requests = requests_of(6)
    async with SERVERS[provider](plan=plan, api_key=KEY) as server, session(tmp_path, spec_of(server)) as client:
        ends = await ends_of(client, requests)
        failures = client.journal.spend("run").failures
    failed = [i for i, end in enumerate(ends) if isinstance(end, BaseException)]
    assert failed == [3]
    assert isinstance(ends[3], PermanentModelError)
    assert [end.choices[0].text for end in ends if isinstance(end, Response)] == [
        f"word{i}" for i in range(6) if i != 3
    ]
    assert server.operations["create"] == 1
    assert failures == {"batch expired": 1, "batch ended": 1, "HTTP 500": 1, "HTTP 400": 1}


async def left_waiting(folder: Path, spec: ModelSpec, requests: Mapping[str, Request], **options: Any) -> Usage:
    """Calls of a session that ends while their batch waits; returns what the ledger has for them then."""
    accepted = asyncio.Event()

    def observe(event: Event) -> None:
        if isinstance(event, BatchWaiting):
            accepted.set()

    async with session(folder, spec, observer=observe, **options) as client:
        calls = [asyncio.create_task(client.model.generate(r, is_batched=True)) for r in requests.values()]
        await accepted.wait()
        await client.model.aclose()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(end) for end in ends} == {RunStoppingError}
        left = client.journal.spend(options.get("run", "run"))
        assert close(client.budget.spent, left.by_purpose["samples"]), "a call that waits counts at its worst case"
        assert left.failures == {}
    return left.by_purpose["samples"]


shared_or_not = pytest.mark.parametrize("is_shared", [False, True], ids=["own budget", "shared budget"])


@every_provider
@shared_or_not
async def test_an_end_of_the_session_leaves_its_batch_to_the_next_one(
    provider: str, tmp_path: Path, *, is_shared: bool
) -> None:
    requests = requests_of(20)
    async with SERVERS[provider](plan=BatchPlan(polls=10**9), api_key=KEY) as server:
        left = await left_waiting(tmp_path, spec_of(server), requests, is_shared=is_shared)
        server.plan = BatchPlan()
        async with session(tmp_path, spec_of(server), is_shared=is_shared) as client:
            assert close(client.budget.in_flight, left)
            assert client.budget.spent.calls == 0
            assert await client.texts(requests, is_batched=False) == equal(requests), "it is waited for, not paid again"
            spent = client.journal.spend("run").by_purpose["samples"]
            assert close(client.budget.spent, spent)
            assert client.budget.in_flight.usd == pytest.approx(0)
            assert BatchBook(client.journal).submissions() == []
    assert set(server.executed.values()) == {1}
    assert server.operations["create"] == 1
    assert spent.usd < left.usd / 2


@every_provider
@shared_or_not
@pytest.mark.parametrize("more", [1, 3, 40])
async def test_a_cap_holds_over_the_batch_of_an_earlier_session(
    provider: str, tmp_path: Path, more: int, *, is_shared: bool
) -> None:
    """The later calls are sent one by one, so that the shared budget is written between them."""
    async with SERVERS[provider](plan=BatchPlan(polls=10**9), api_key=KEY) as server:
        await left_waiting(tmp_path, spec_of(server), requests_of(6), is_shared=is_shared)
        server.plan, caps = BatchPlan(), Caps(calls=6 + more)
        async with session(tmp_path, spec_of(server), caps=caps, is_shared=is_shared) as client:
            assert await client.texts(requests_of(6)) == equal(requests_of(6))
            for number in range(more):
                assert await client.texts({f"w{number}": request(f"w{number}")}, is_batched=False)
                assert client.budget.spent.calls == 7 + number
            with pytest.raises(BudgetExceeded, match=f"the calls cap of {6 + more} is reached: {6 + more} spent"):
                await client.texts({"beyond": request("beyond")}, is_batched=False)
            spent = client.journal.spend("run").by_purpose["samples"]
            assert close(client.budget.spent, spent)
        assert spent.calls == len(server.requests) == 6 + more


async def test_another_run_collects_the_batch_that_has_its_responses_and_pays_nothing(tmp_path: Path) -> None:
    requests = requests_of(5)
    async with OpenAIBatchServer(plan=BatchPlan(polls=10**9), api_key=KEY) as server:
        await left_waiting(tmp_path, spec_of(server), requests, run="first")
        server.plan = BatchPlan()
        async with session(tmp_path, spec_of(server), run="second") as client:
            more = requests_of(7)
            assert await client.texts(more) == equal(more)
            assert client.budget.spent.calls == 2
            assert client.journal.spend("first").by_purpose["samples"].calls == 5
    assert set(server.executed.values()) == {1}


async def test_the_batch_of_a_model_with_another_name_is_collected(tmp_path: Path) -> None:
    async with OpenAIBatchServer(plan=BatchPlan(polls=10**9), api_key=KEY) as server:
        accepted = asyncio.Event()

        def observe(event: Event) -> None:
            if isinstance(event, BatchWaiting):
                accepted.set()

        spec = spec_of(server)
        async with session(tmp_path, spec, run="first", observer=observe) as client:
            calls = [asyncio.create_task(client.model.generate(r, is_batched=True)) for r in requests_of(5).values()]
            await accepted.wait()
            await client.model.aclose()
            await asyncio.gather(*calls, return_exceptions=True)
        server.plan = BatchPlan()
        async with session(tmp_path, spec.model_copy(update={"name": "tiny"}), run="second") as client:
            renamed = {word: replace(one, model="tiny") for word, one in requests_of(7).items()}
            assert await client.texts(renamed) == equal(renamed)
    assert set(server.executed.values()) == {1}


@every_provider
async def test_a_cap_holds_and_calls_beyond_it_wait_for_the_batches_before(provider: str, tmp_path: Path) -> None:
    requests = requests_of(40)
    async with SERVERS[provider](api_key=KEY) as server, session(tmp_path, spec_of(server)) as client:
        await client.texts(requests_of(1))
        spent = client.budget.spent.usd
    worst = 0.5 * USD * (len("Say [[word39]]") + 8 + 48 + 20)
    caps = Caps(usd=worst + 20 * spent)
    async with (
        SERVERS[provider](api_key=KEY) as server,
        session(tmp_path / "capped", spec_of(server), caps=caps) as client,
    ):
        ends = await ends_of(client, requests)
        total = client.journal.spend("run").by_purpose["samples"]
    answered = [end for end in ends if isinstance(end, Response)]
    assert {type(end) for end in ends if not isinstance(end, Response)} == {BudgetExceeded}
    assert len(answered) == total.calls == len(server.requests)
    assert caps.usd is not None
    assert caps.usd - worst < total.usd <= caps.usd
    assert server.operations["create"] > 1


async def test_when_the_time_is_up_the_batch_stays_in_the_journal(tmp_path: Path) -> None:
    async with (
        OpenAIBatchServer(plan=BatchPlan(polls=10**9), api_key=KEY) as server,
        session(tmp_path, spec_of(server), caps=Caps(seconds=3)) as client,
    ):
        for end in await ends_of(client, requests_of(3)):
            assert isinstance(end, BudgetExceeded)
            assert end.name == "seconds"
        assert client.budget.spent.calls == 3
        (submission,) = BatchBook(client.journal).submissions()
        assert len(submission.calls) == 3
        assert submission.is_known


async def test_a_wrong_key_fails_the_calls_and_nothing_is_left_in_the_journal(tmp_path: Path) -> None:
    async with OpenAIBatchServer(api_key="another") as server, session(tmp_path, spec_of(server)) as client:
        for end in await ends_of(client, requests_of(3)):
            assert isinstance(end, PermanentModelError)
            assert end.kind == "HTTP 401"
        assert client.budget.spent.usd == 0
        assert client.budget.in_flight.usd == pytest.approx(0)
        assert BatchBook(client.journal).submissions() == []


async def test_a_parameter_that_the_endpoint_refuses_is_left_out_of_the_next_batch(tmp_path: Path) -> None:
    class Picky(OpenAIBatchServer):
        def _result(self, entry: dict[str, Any], fate: Any) -> dict[str, Any]:
            if "temperature" not in entry["body"]:
                return super()._result(entry, fate)
            error = {
                "message": "Unsupported parameter: 'temperature'",
                "param": "temperature",
                "code": "unsupported_parameter",
            }
            response = {
                "status_code": 400,
                "request_id": "1",
                "body": {"error": {**error, "type": "invalid_request_error"}},
            }
            return {"id": "1", "custom_id": entry["custom_id"], "response": response, "error": None}

    async with Picky(api_key=KEY) as server, session(tmp_path, spec_of(server)) as client:
        requests = requests_of(4, temperature=0.5)
        assert await client.texts(requests) == equal(requests)
    assert server.operations["create"] == 2


@pytest.mark.parametrize(
    "one",
    [
        request("x", temperature=0.5, stop=("a", "b"), left_out=frozenset({"n", "seed"}), n=3, first_repeat=2),
        Request(
            "small",
            (
                Message("user", "\ud800 \0 ü", parts=('{"type": "text"}',)),
                Message("assistant", "", tool_calls=(ToolCall("1", "f", "{}"),)),
                Message("tool", "2", tool_call_id="1"),
            ),
            5,
            tools=('{"a": 1}',),
            tool_choice='"none"',
            parallel_tool_calls=False,
        ),
    ],
)
def test_a_stored_request_is_read_as_it_was(one: Request) -> None:
    assert decoded(encoded(one)) == one
