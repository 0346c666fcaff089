"""`BatchTransport` against loopback servers with the batch interfaces of OpenAI and of Anthropic."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.errors import CatalogError, ModelError, PermanentModelError, TransientModelError
from agentopt.models import batch as batch_module
from agentopt.models import batch_anthropic, batch_openai
from agentopt.models.base import Message, Request, Response
from agentopt.models.batch import BatchTransport, Outcome
from agentopt.models.batch_anthropic import AnthropicBatches
from agentopt.models.batch_calls import Batch
from agentopt.models.batch_openai import OpenAIBatches
from agentopt.models.batch_provider import BatchStatus
from agentopt.models.batch_wire import WiredModel
from agentopt.models.catalog import ModelSpec
from agentopt.models.charging import charge, charge_failure, discounted, worst_case
from agentopt.models.hosted import HostedModel
from agentopt.testing.batch_servers import AnthropicBatchServer, BatchPlan, OpenAIBatchServer
from agentopt.testing.faults import Fault, Faults
from agentopt.testing.odd_bodies import odd_bodies
from agentopt.testing.servers import OpenAIServer

KEY = "sk-a-key-that-is-secret"
Server = OpenAIBatchServer | AnthropicBatchServer
SERVERS: dict[str, type[Server]] = {"openai": OpenAIBatchServer, "anthropic": AnthropicBatchServer}
every_provider = pytest.mark.parametrize("provider", SERVERS)
NAMES = ("custom_id", "response", "error", "result", "type", "code", "status_code", "body", "message", "choices")
SCHEMA = '{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": false}'


class Clock:
    """Time that passes by sleeping alone, `speed` times as fast."""

    def __init__(self, speed: float = 1.0) -> None:
        self.now, self.sleeps, self._speed = 0.0, list[float](), speed

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds * self._speed
        await asyncio.sleep(0)


def spec_of(provider: str, server: Server, name: str = "small", **options: Any) -> ModelSpec:
    route = {"litellm": "anthropic/claude-haiku-4-5"} if provider == "anthropic" else {"model": name}
    # The first call through litellm imports for seconds, which must not count as a timeout.
    fields = {"base_url": server.base_url, "timeout_seconds": 60, "max_attempts": 3, **route, **options}
    return ModelSpec(name=name, **fields)


def transport(*specs: ModelSpec, clock: Clock | None = None, **options: Any) -> BatchTransport:
    clock = clock or Clock()
    return BatchTransport(
        {spec.name: spec for spec in specs},
        connect=lambda spec: WiredModel(spec, api_key=KEY, environ={}),
        sleep=clock.sleep,
        clock=clock,
        **options,
    )


def request(word: str, model: str = "small", **options: Any) -> Request:
    return Request(
        model, (Message("system", "Be brief."), Message("user", f"Say [[{word}]]")), **{"max_tokens": 20, **options}
    )


def requests_of(number: int, **options: Any) -> dict[str, Request]:
    return {f"id-{i}": request(f"word{i}", **options) for i in range(number)}


async def all_of(results: AsyncIterator[Any]) -> list[Any]:
    return [result async for result in results]


async def submitted(batches: BatchTransport, requests: Mapping[str, Request], **options: Any) -> Batch:
    """Submit requests of one model, and expect one batch."""
    (found,) = await all_of(batches.submit(requests, **{"label": "run-1", **options}))
    assert isinstance(found, Batch), found
    return found


async def collected(
    batches: BatchTransport, batch: Batch, requests: Mapping[str, Request]
) -> dict[str, Response | ModelError]:
    outcomes = await all_of(batches.collect(batch, requests))
    assert len(outcomes) == len(requests), "each request has one outcome"
    return {outcome.id: outcome.result for outcome in outcomes}


async def outcomes_of(
    provider: str, requests: Mapping[str, Request], plan: BatchPlan, faults: Faults | None = None
) -> dict[str, Response | ModelError]:
    async with SERVERS[provider](plan=plan, faults=faults, api_key=KEY) as server:
        batches = transport(spec_of(provider, server))
        batch = await submitted(batches, requests)
        found = await collected(batches, batch, requests)
        await batches.aclose()
    return found


def texts(found: Mapping[str, Response | ModelError]) -> dict[str, str]:
    return {id_: r.choices[0].text for id_, r in found.items() if isinstance(r, Response)}


def failed(result: Response | ModelError) -> ModelError:
    assert isinstance(result, ModelError), result
    return result


@every_provider
async def test_each_request_gets_its_own_response_whatever_the_order_of_the_results(provider: str) -> None:
    requests = requests_of(12)
    found = await outcomes_of(provider, requests, BatchPlan(polls=3, seed=5))
    assert list(found) != list(requests), "the server shuffles the results"
    assert texts(found) == {f"id-{i}": f"word{i}" for i in range(12)}


@every_provider
async def test_a_response_is_that_of_a_direct_call(provider: str) -> None:
    asked = request("one two three", max_tokens=2, temperature=0.5, stop=("\n",), json_schema=SCHEMA)
    async with SERVERS[provider](plan=BatchPlan()) as server:
        spec = spec_of(provider, server, json_schema=True, reasoning_effort=None)
        direct = HostedModel(spec, api_key=KEY, environ={}, clock=lambda: 0.0)
        response = await direct.generate(asked)
        await direct.aclose()
        batches = transport(spec)
        batch = await submitted(batches, {"a": asked})
        found = await collected(batches, batch, {"a": asked})
        await batches.aclose()
        one, other = server.requests
    assert found == {"a": response}
    assert one.body == other.body, "the batch sends the body of a direct call"
    beta = "anthropic-beta"
    assert {k.lower(): v for k, v in other.headers.items()}.get(beta) == {
        k.lower(): v for k, v in one.headers.items()
    }.get(beta)


async def test_a_request_for_several_choices_gets_them_from_one_entry() -> None:
    async with OpenAIBatchServer() as server:
        batches = transport(spec_of("openai", server, max_choices=4))
        asked = {"a": request("yes", n=3)}
        found = await collected(batches, await submitted(batches, asked), asked)
        await batches.aclose()
    result = found["a"]
    assert isinstance(result, Response)
    assert [choice.text for choice in result.choices] == ["yes"] * 3


@every_provider
async def test_a_new_process_collects_what_a_killed_one_submitted_and_nothing_is_executed_twice(provider: str) -> None:
    requests = requests_of(20)
    async with SERVERS[provider](plan=BatchPlan(polls=2)) as server:
        for _ in range(3):  # killed while it waits
            polled = asyncio.Event()
            killed = transport(spec_of(provider, server), on_status=lambda *_, seen=polled: seen.set())
            if not server.batches:
                batch = await submitted(killed, requests)
            waiting = asyncio.create_task(collected(killed, batch, requests))
            await polled.wait()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await killed.aclose()
        new = transport(spec_of(provider, server))
        found = await collected(new, batch, requests)
        again = await collected(new, batch, requests)
        await new.aclose()
    assert texts(found) == texts(again) == {f"id-{i}": f"word{i}" for i in range(20)}
    assert server.operations["create"] == 1
    assert set(server.executed.values()) == {1}
    assert len(server.executed) == 20


@every_provider
async def test_a_resumed_submission_finds_the_batch_whose_id_was_not_stored(provider: str) -> None:
    requests = requests_of(3)
    async with SERVERS[provider](plan=BatchPlan(polls=2)) as server:
        first = transport(spec_of(provider, server))
        lost = await submitted(first, requests)
        for i in range(4):  # on later pages of the list
            await submitted(first, {f"{i}": request("x"), f"b{i}": request("y"), f"c{i}": request("z")}, label=f"{i}")
        await first.aclose()
        second = transport(spec_of(provider, server))
        found = await submitted(second, requests, is_resumed=True)
        other = await submitted(second, requests, label="run-2", is_resumed=True)
        await second.aclose()
    assert found == lost
    assert other.id != lost.id, "another submission is another batch"


@every_provider
async def test_a_creation_with_an_unknown_outcome_is_not_repeated_if_the_batch_exists(provider: str) -> None:
    requests = requests_of(3)
    script: list[Fault | None] = [None, "drop"] if provider == "openai" else ["drop"]
    async with SERVERS[provider](faults=Faults(script=script)) as server:
        batches = transport(spec_of(provider, server))
        batch = await submitted(batches, requests)
        found = await collected(batches, batch, requests)
        await batches.aclose()
    assert len(texts(found)) == 3
    assert server.operations["create"] == len(server.batches) == 1


@every_provider
async def test_a_creation_with_an_unknown_outcome_is_repeated_if_there_is_no_batch(provider: str) -> None:
    script: list[Fault | None] = [None, 500] if provider == "openai" else [500]
    async with SERVERS[provider](faults=Faults(script=script)) as server:
        batches = transport(spec_of(provider, server))
        await submitted(batches, requests_of(3))
        await batches.aclose()
    assert (server.operations["create"], server.operations["list"], len(server.batches)) == (2, 1, 1)


@every_provider
async def test_a_creation_whose_outcome_stays_unknown_may_have_been_billed(provider: str) -> None:
    script: list[Fault | None] = [*([None] if provider == "openai" else []), "drop", 503, 503, 503]
    async with SERVERS[provider](faults=Faults(script=script)) as server:
        batches = transport(spec_of(provider, server))
        outcomes = await all_of(batches.submit(requests_of(2), label="run-1"))
        await batches.aclose()
    errors = [failed(outcome.result) for outcome in outcomes]
    assert {(e.kind, e.billed, e.sent) for e in errors} == {("HTTP 503", True, True)}
    assert len(errors) == 2


@every_provider
@pytest.mark.parametrize("fault", ["rate_limit", 503, 529])
async def test_a_refused_creation_is_repeated_after_the_requested_time(provider: str, fault: Fault) -> None:
    clock, script = Clock(), [None, fault] if provider == "openai" else [fault]
    async with SERVERS[provider](faults=Faults(script=script, retry_after=7)) as server:
        batches = transport(spec_of(provider, server), clock=clock)
        await submitted(batches, requests_of(2))
        await batches.aclose()
    assert server.operations["create"] == 2
    assert len(server.batches) == 1
    assert clock.sleeps == [7.0 if fault == "rate_limit" else 0.5]


@every_provider
async def test_failures_while_waiting_and_reading_are_retried(provider: str) -> None:
    before = 2 if provider == "openai" else 1
    script: list[Fault | None] = [*[None] * before, "server_error", "not_json", None, "drop", None, "drop_mid_body"]
    found = await outcomes_of(provider, requests_of(4), BatchPlan(polls=1), Faults(script=script))
    assert len(texts(found)) == 4


@every_provider
@pytest.mark.parametrize("cut", [1, 2, 200, 100_000])
async def test_results_that_end_early_are_read_again(provider: str, cut: int) -> None:
    found = await outcomes_of(provider, requests_of(4), BatchPlan(cut=cut))
    assert len(texts(found)) == 4


@every_provider
async def test_a_failed_request_is_classified_like_a_direct_call(provider: str) -> None:
    fates: Mapping[int, Any] = {0: 400, 1: 429, 2: 500, 3: "expired", 4: "missing", 5: "not_json"}
    found = await outcomes_of(provider, requests_of(8), BatchPlan(fates=fates))
    errors = {id_: failed(result) for id_, result in found.items() if isinstance(result, ModelError)}
    assert {id_: (type(e), e.kind, e.billed, e.sent) for id_, e in errors.items()} == {
        "id-0": (PermanentModelError, "HTTP 400", False, True),
        "id-1": (TransientModelError, "HTTP 429", False, True),
        "id-2": (TransientModelError, "HTTP 500", False, True),
        "id-3": (TransientModelError, "batch expired", False, False),
        # Also in an expired batch of OpenAI: its counts say that they were executed.
        "id-4": (TransientModelError, "batch ended", True, True),
        "id-5": (TransientModelError, "batch ended", True, True),
    }
    assert set(texts(found)) == {"id-6", "id-7"}


@every_provider
async def test_a_request_without_a_result_may_have_been_billed(provider: str) -> None:
    found = await outcomes_of(provider, requests_of(3), BatchPlan(fates={0: "missing", 1: "not_json", 2: "huge"}))
    errors = [failed(result) for result in found.values()]
    assert {(e.kind, e.billed) for e in errors} == {("batch ended", True)}


@every_provider
async def test_a_result_larger_than_the_bound_is_left_out_and_the_others_are_read(provider: str) -> None:
    found = await outcomes_of(provider, requests_of(3), BatchPlan(fates={1: "huge"}))
    assert set(texts(found)) == {"id-0", "id-2"}


@every_provider
async def test_compressed_results_are_not_unpacked(provider: str) -> None:
    with pytest.raises(TransientModelError, match="has the encoding gzip"):
        await outcomes_of(provider, requests_of(30), BatchPlan(gzip=True))


@every_provider
async def test_a_batch_that_vanishes_may_have_been_billed(provider: str) -> None:
    found = await outcomes_of(provider, requests_of(3), BatchPlan(polls=2, vanishes=True))
    errors = [failed(result) for result in found.values()]
    assert {(type(e), e.kind, e.billed) for e in errors} == {(TransientModelError, "batch lost", True)}


@every_provider
async def test_a_batch_that_never_ends_is_given_up(provider: str) -> None:
    async with SERVERS[provider](plan=BatchPlan(polls=10**6)) as server:
        batches = transport(spec_of(provider, server), clock=Clock(speed=1e4))
        batch = await submitted(batches, requests_of(1))
        found = await collected(batches, batch, requests_of(1))
        await batches.aclose()
    assert failed(found["id-0"]).kind == "batch overdue"


@every_provider
async def test_the_time_between_polls_grows_to_a_bound(provider: str) -> None:
    clock = Clock()
    async with SERVERS[provider](plan=BatchPlan(polls=1, seconds=600), clock=clock) as server:
        batches = transport(spec_of(provider, server), clock=clock)
        await collected(batches, await submitted(batches, requests_of(1)), requests_of(1))
        await batches.aclose()
    assert clock.sleeps[:3] == [2.0, 3.0, 4.5]
    assert sorted(clock.sleeps) == clock.sleeps
    assert max(clock.sleeps) == batch_module.LONGEST_POLL


@every_provider
async def test_each_status_is_reported(provider: str) -> None:
    seen: list[tuple[Batch, BatchStatus]] = []
    async with SERVERS[provider](plan=BatchPlan(polls=2)) as server:
        batches = transport(spec_of(provider, server), on_status=lambda *status: seen.append(status))
        batch = await submitted(batches, requests_of(4))
        await collected(batches, batch, requests_of(4))
        await batches.aclose()
    assert [(one, status.state, status.done) for one, status in seen] == [
        (batch, "waiting", 0),
        (batch, "waiting", 0),
        (batch, "ended", 4),
    ]
    assert seen[-1][1].total == 4


@every_provider
async def test_a_cancelled_batch_returns_what_was_executed(provider: str) -> None:
    async with SERVERS[provider](plan=BatchPlan(polls=10**6)) as server:
        batches = transport(spec_of(provider, server))
        batch = await submitted(batches, requests_of(4))
        await batches.cancel(batch)
        found = await collected(batches, batch, requests_of(4))
        await batches.aclose()
    assert texts(found) == {"id-0": "word0"}
    assert {failed(found[f"id-{i}"]).kind for i in (1, 2, 3)} == {"batch cancelled"}
    assert len(server.executed) == 1


@pytest.mark.parametrize(
    ("error", "kind", "expected"),
    [
        ({"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}, "HTTP 429", TransientModelError),
        ({"code": "model_not_found", "message": "The model 'small' does not exist"}, "error in", PermanentModelError),
        ({"code": "invalid_json_line", "message": "This line is not parseable", "line": 1}, "", PermanentModelError),
    ],
)
async def test_a_batch_that_is_refused_after_its_creation(
    error: dict[str, Any], kind: str, expected: type[ModelError]
) -> None:
    found = await outcomes_of("openai", requests_of(2), BatchPlan(refused=error))
    errors = [failed(result) for result in found.values()]
    assert {(type(e), e.billed, e.sent) for e in errors} == {(expected, False, False)}
    assert all(error["message"] in str(e) and kind in str(e) for e in errors)


@every_provider
async def test_a_wrong_key_fails_each_request_and_is_in_no_message(provider: str) -> None:
    async with SERVERS[provider](api_key="another") as server:
        batches = transport(spec_of(provider, server))
        outcomes = await all_of(batches.submit(requests_of(2), label="run-1"))
        with pytest.raises(PermanentModelError, match="check the API key") as caught:
            await all_of(batches.collect(Batch("batch_0", "small", "run-1-small-0", ("id-0",)), requests_of(1)))
        await batches.aclose()
    errors = [failed(outcome.result) for outcome in outcomes]
    assert {(e.kind, e.scope, e.sent) for e in errors} == {("HTTP 401", "model", False)}
    assert not any(KEY in f"{e} {e.provider_message}" for e in (*errors, caught.value))


@pytest.mark.parametrize("status", [301, 307])
@every_provider
async def test_a_redirect_is_not_followed(provider: str, status: int) -> None:
    other = Faults(script=[status], headers={"Location": "http://127.0.0.1:9/elsewhere"})
    async with SERVERS[provider](faults=other) as server:
        batches = transport(spec_of(provider, server))
        (outcome,) = await all_of(batches.submit(requests_of(1), label="run-1"))
        await batches.aclose()
    assert "redirects are not followed" in str(failed(outcome.result))
    assert sum(server.operations.values()) == 1


@pytest.mark.parametrize(
    "faults",
    [
        Faults(script=[404]),
        Faults(script=[405]),
        Faults(script=[410]),
        Faults(script=[501] * 3),
        Faults(script=[None, 404]),
    ],
    ids=["404", "405", "410", "501", "files without batches"],
)
async def test_an_endpoint_without_a_batch_interface_is_reported_with_the_setting(faults: Faults) -> None:
    async with OpenAIBatchServer(faults=faults) as server:
        batches = transport(spec_of("openai", server))
        outcomes = await all_of(batches.submit(requests_of(2), label="run-1"))
        await batches.aclose()
    errors = [failed(outcome.result) for outcome in outcomes]
    assert {(type(e), e.scope, e.sent, e.billed) for e in errors} == {(PermanentModelError, "model", False, False)}
    assert all("remove `batch` from the catalogue entry, or set batch=false" in str(e) for e in errors)
    assert not any("check the model's name" in str(e) for e in errors)


async def test_an_endpoint_of_direct_calls_alone_is_reported_with_the_setting() -> None:
    async with OpenAIServer() as server:
        batches = transport(ModelSpec(name="small", base_url=server.base_url, batch={"price": 0.5}))
        (outcome,) = await all_of(batches.submit(requests_of(1), label="run-1"))
        await batches.aclose()
    assert "small: a batch could not be submitted (HTTP 404: " in str(failed(outcome.result))


async def test_requests_are_grouped_by_model() -> None:
    requests = {**requests_of(3), **{f"big-{i}": request(f"big{i}", model="big") for i in range(2)}}
    async with OpenAIBatchServer() as server:
        batches = transport(spec_of("openai", server), spec_of("openai", server, "big"))
        found = await all_of(batches.submit(requests, label="run-1"))
        answers = [await all_of(batches.collect(batch, requests)) for batch in found]
        await batches.aclose()
    assert [(batch.model, len(batch.ids)) for batch in found] == [("small", 3), ("big", 2)]
    assert [len(outcomes) for outcomes in answers] == [3, 2]


@every_provider
@pytest.mark.parametrize(("limit", "value", "sizes"), [("most_requests", 3, [3, 3, 1]), ("most_bytes", 1, [1] * 7)])
async def test_the_limits_of_a_provider_split_a_batch(
    provider: str, limit: str, value: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = OpenAIBatches if provider == "openai" else AnthropicBatches
    monkeypatch.setattr(kind, limit, value)  # the real limits need 200 MB
    requests = requests_of(7)
    async with SERVERS[provider]() as server:
        batches = transport(spec_of(provider, server))
        found = await all_of(batches.submit(requests, label="run-1"))
        answers = [o for batch in found for o in await all_of(batches.collect(batch, requests))]
        again = (
            await all_of(batches.submit(requests, label="run-1", is_resumed=True)) if provider == "openai" else found
        )
        await batches.aclose()
    assert [len(batch.ids) for batch in found] == sizes
    assert texts({outcome.id: outcome.result for outcome in answers}) == {f"id-{i}": f"word{i}" for i in range(7)}
    assert again == found


@every_provider
async def test_a_prompt_that_cannot_fit_is_not_submitted_and_the_others_are(provider: str) -> None:
    requests = {"long": request("x" * 9000), **requests_of(2)}
    async with SERVERS[provider]() as server:
        batches = transport(spec_of(provider, server, context_length=1000))
        refused, batch = await all_of(batches.submit(requests, label="run-1"))
        await batches.aclose()
    assert isinstance(refused, Outcome)
    assert (refused.id, failed(refused.result).kind) == ("long", "context length")
    assert batch.ids == ("id-0", "id-1")


async def test_a_response_is_read_though_the_measured_density_would_refuse_its_prompt() -> None:
    requests = {f"id-{i}": request("a " * 3000 + f"b{i}") for i in range(7)}
    async with OpenAIBatchServer() as server:
        batches = transport(spec_of("openai", server, context_length=1000))
        batch = await submitted(batches, requests)
        found = await collected(batches, batch, requests)
        later = await all_of(batches.submit(requests, label="run-2"))
        await batches.aclose()
    assert len(texts(found)) == 7
    assert {failed(outcome.result).kind for outcome in later} == {"context length"}


@every_provider
async def test_a_longer_wait_than_the_entry_permits_is_a_failure(provider: str) -> None:
    clock = Clock()
    async with SERVERS[provider](faults=Faults(script=["rate_limit"], retry_after=1e9)) as server:
        batches = transport(spec_of(provider, server), clock=clock)
        (outcome,) = await all_of(batches.submit(requests_of(1), label="run-1"))
        await batches.aclose()
    assert failed(outcome.result).kind == "HTTP 429"
    assert clock.sleeps == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@given(result=JSON)
def test_any_result_is_read_or_left_out(result: Any) -> None:
    for line in (json.dumps(result).encode(), json.dumps({"custom_id": "a", "response": result, "result": result})):
        content = line if isinstance(line, bytes) else line.encode()
        for read in (batch_openai._raw, batch_anthropic._raw):
            raw = read(content)
            assert raw is None or (isinstance(raw.body, bytes) and raw.status > 0)


@pytest.mark.parametrize("depth", [500, 900, 980, 100_000])
def test_a_result_of_any_depth_is_read_or_left_out(depth: int) -> None:
    nested = "[" * depth + "]" * depth
    for line in (
        f'{{"custom_id": "a", "response": {{"body": {nested}}}}}',
        f'{{"custom_id": "a", "result": {{"type": "succeeded", "message": {nested}}}}}',
    ):
        for read in (batch_openai._raw, batch_anthropic._raw):
            raw = read(line.encode())
            assert raw is None or raw.custom_id == "a"


@pytest.mark.parametrize("provider", SERVERS)
async def test_any_body_is_a_response_or_a_failed_call(provider: str) -> None:
    route = {"litellm": "anthropic/claude-haiku-4-5"} if provider == "anthropic" else {}
    model = WiredModel(ModelSpec(name="small", base_url="http://127.0.0.1:9/v1", **route), api_key=KEY, environ={})
    for body in odd_bodies(15):
        for status in (body.status, 99999):
            try:
                found: Response | ModelError = await model.response_of(request("x"), status, body.content)
            except ModelError as error:
                found = error
            assert isinstance(found, Response | ModelError)
    await model.aclose()


KILLED = """
import asyncio, sys
from agentopt.models.base import Message, Request
from agentopt.models.batch import BatchTransport
from agentopt.models.catalog import ModelSpec

async def main():
    batches = BatchTransport({"small": ModelSpec(name="small", base_url=sys.argv[1], model="small")})
    messages = Message("system", "Be brief."), Message("user", "Say [[word%d]]")
    requests = {
        f"id-{i}": Request("small", (messages[0], Message("user", messages[1].content % i)), 20) for i in range(200)
    }
    async for batch in batches.submit(requests, label="run-1"):
        print(batch.id, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_of_200_batched_calls_of_a_process_killed_before_it_stored_the_batch_each_is_executed_once() -> None:
    requests = requests_of(200)
    async with OpenAIBatchServer() as server:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, server.base_url, stdout=PIPE)
        assert process.stdout
        lost = (await process.stdout.readline()).decode().strip()
        process.kill()
        await process.wait()
        new = transport(spec_of("openai", server))
        batch = await submitted(new, requests, is_resumed=True)
        found = await collected(new, batch, requests)
        await new.aclose()
    assert batch.id == lost
    assert texts(found) == {f"id-{i}": f"word{i}" for i in range(200)}
    assert server.operations["create"] == server.operations["upload"] == 1
    assert len(server.executed) == 200
    assert set(server.executed.values()) == {1}


@pytest.mark.parametrize(
    "fields", [{"litellm": "bedrock/some-model"}, {"litellm": "openai/small", "base_url": "http://127.0.0.1:9/v1"}]
)
async def test_a_model_without_a_batch_interface_is_refused_before_anything_is_sent(fields: dict[str, str]) -> None:
    async with OpenAIBatchServer() as server:
        batches = transport(spec_of("openai", server), ModelSpec(name="other", **fields))
        requests = {**requests_of(1), "b": request("x", model="other")}
        with pytest.raises(CatalogError, match=r"(?s)litellm: .*remedy: choose another model"):
            await all_of(batches.submit(requests, label="run-1"))
        await batches.aclose()
    assert not server.operations


async def test_an_entry_that_only_streams_is_not_streamed_in_a_batch() -> None:
    async with OpenAIBatchServer() as server:
        batches = transport(spec_of("openai", server, stream=True))
        found = await collected(batches, await submitted(batches, requests_of(1)), requests_of(1))
        await batches.aclose()
    assert texts(found) == {"id-0": "word0"}
    assert not {"stream", "stream_options"} & server.requests[0].body.keys()


async def test_an_entry_of_the_responses_api_has_its_form() -> None:
    spec = ModelSpec(name="small", base_url="http://127.0.0.1:9/v1?api-version=1", api="responses")
    model = WiredModel(spec, api_key=KEY, environ={})
    direct = await model.request_of(request("x"))
    await model.aclose()
    provider = OpenAIBatches(direct, 1.0)
    entry = provider.entry("a", direct)
    await provider.aclose()
    assert b'"url": "/v1/responses"' in entry.content
    assert b'"input"' in entry.content
    assert direct.url.query == b"api-version=1"


def test_a_batched_call_is_charged_at_the_batch_price() -> None:
    spec = ModelSpec(
        name="small", base_url="http://127.0.0.1:9/v1", usd_per_1m_prompt=2, usd_per_1m_completion=8, usd_per_request=1
    )
    cheap, asked, answer = discounted(spec, 0.5), request("x"), Response((), 1000)
    worst = worst_case(asked, spec)
    assert worst_case(asked, cheap).usd == pytest.approx(worst.usd / 2)
    assert worst_case(asked, cheap).tokens == worst.tokens
    assert charge(answer, worst, cheap, is_capped=True).usd == pytest.approx(
        charge(answer, worst, spec, is_capped=True).usd / 2
    )
    error = TransientModelError("", billed=True)
    assert charge_failure(error, worst_case(asked, cheap), cheap).usd == pytest.approx(worst.usd / 2)
    assert discounted(spec, 0.25).usd_per_request == 0.25
    assert cheap.usd_per_1m_cached_prompt is None
