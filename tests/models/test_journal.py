"""The journal and the model client: each response is paid for once and stored before use; no cap is exceeded."""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentopt.core.budget import Budget, Caps, Usage
from agentopt.core.errors import (
    AgentoptError,
    BudgetExceeded,
    ModelError,
    PermanentModelError,
    TransientModelError,
    WeightsError,
)
from agentopt.models.base import Choice, Message, Request, Response, ToolCall, reject
from agentopt.models.catalog import ModelSpec
from agentopt.models.charging import worst_case
from agentopt.models.client import ModelClient
from agentopt.models.journal import REMEMBERED, Journal
from agentopt.models.journal_records import CacheUse
from agentopt.models.journal_rows import Pace
from agentopt.models.scripted import ScriptedModel

SPEC = ModelSpec(
    name="m", base_url="http://127.0.0.1:1", max_choices=8, usd_per_1m_prompt=1e6, max_attempts=3, concurrency=64
)
REQUEST = Request("m", (Message("user", "one two three"),), max_tokens=4)


def numbered(request: Request, repeat: int) -> str:
    return f"answer {repeat}"


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    book = Journal(tmp_path / "journal.db")
    yield book
    await book.aclose()


def client_of(provider: object, journal: Journal, budget: Budget | None = None, spec: ModelSpec = SPEC) -> ModelClient:
    async def no_sleep(_: float) -> None:
        await asyncio.sleep(0)

    return ModelClient(provider, {"m": spec}, journal, budget or Budget(), "run", sleep=no_sleep)  # type: ignore[arg-type]


async def test_ten_samples_after_five_send_five_more(journal: Journal) -> None:
    provider = ScriptedModel(numbered)
    model = client_of(provider, journal)
    five = await model.generate(REQUEST.for_repeats(0, 5))
    ten = await model.generate(REQUEST.for_repeats(0, 10))
    assert ten.choices[:5] == five.choices
    assert [(r.first_repeat, r.n) for r in provider.requests] == [(0, 5), (5, 5)]


async def test_more_choices_than_max_choices_are_split_over_several_calls(journal: Journal) -> None:
    provider = ScriptedModel(numbered, choices_per_call=3)
    response = await client_of(provider, journal).generate(REQUEST.for_repeats(0, 10))
    assert [c.text for c in response.choices] == [f"answer {i}" for i in range(10)]
    assert max(r.n for r in provider.requests) == 8


async def test_identical_concurrent_requests_are_sent_once(journal: Journal) -> None:
    provider = ScriptedModel(numbered)
    model = client_of(provider, journal)
    responses = await asyncio.gather(*(model.generate(REQUEST) for _ in range(20)))
    assert len(provider.requests) == 1
    assert len(set(responses)) == 1


async def test_a_response_is_found_by_a_later_process(journal: Journal, tmp_path: Path) -> None:
    await client_of(ScriptedModel(numbered), journal).generate(REQUEST)
    other = Journal(tmp_path / "journal.db")
    silent = ScriptedModel(script=[])
    assert (await client_of(silent, other).generate(REQUEST)).choices[0].text == "answer 0"
    assert other.spend("run").by_purpose == {"samples": Usage(1, 3, 2, 3.0)}
    await other.aclose()


async def test_a_name_that_is_repointed_to_another_model_misses_the_cache(journal: Journal) -> None:
    await client_of(ScriptedModel(numbered), journal).generate(REQUEST)
    moved = SPEC.model_copy(update={"base_url": "http://127.0.0.1:2"})
    provider = ScriptedModel(lambda *_: "new")
    assert (await client_of(provider, journal, spec=moved).generate(REQUEST)).choices[0].text == "new"


async def test_a_transient_failure_is_retried_and_counted(journal: Journal) -> None:
    provider = ScriptedModel(script=[TransientModelError("busy", kind="HTTP 429"), "fine"])
    model = client_of(provider, journal)
    assert (await model.generate(REQUEST)).choices[0].text == "fine"
    assert journal.spend("run").failures == {"HTTP 429": 1}
    assert model.budget.spent.calls == 2


async def test_attempts_are_bounded_and_a_permanent_failure_is_not_retried(journal: Journal) -> None:
    provider = ScriptedModel(script=[TransientModelError("busy")] * 3)
    with pytest.raises(ModelError, match="busy"):
        await client_of(provider, journal).generate(REQUEST)
    provider = ScriptedModel(script=[PermanentModelError("no such model")])
    with pytest.raises(PermanentModelError):
        await client_of(provider, journal).generate(REQUEST)
    assert len(provider.requests) == 1


async def test_a_failure_that_may_have_been_billed_is_charged_at_its_worst_case(journal: Journal) -> None:
    model = client_of(ScriptedModel(script=[PermanentModelError("dropped", billed=True)]), journal)
    with pytest.raises(PermanentModelError):
        await model.generate(REQUEST)
    assert model.budget.spent == worst_case(REQUEST, SPEC)
    assert journal.spend("run").by_purpose["samples"] == worst_case(REQUEST, SPEC)


@pytest.mark.parametrize("caps", [Caps(calls=100), Caps(tokens=1000), Caps(usd=500.0)])
async def test_no_cap_is_exceeded_with_64_calls_in_flight(journal: Journal, caps: Caps) -> None:
    class Slow(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            response = await super().generate(request)
            await asyncio.sleep(0.001)
            return response

    provider = Slow(numbered)
    model = client_of(provider, journal, Budget(caps))
    questions = [Request("m", (Message("user", f"question {i}"),), max_tokens=4) for i in range(400)]
    outcomes = await asyncio.gather(*(model.generate(q) for q in questions), return_exceptions=True)
    assert {type(o) for o in outcomes} == {Response, BudgetExceeded}
    sent = Usage(len(provider.requests), 2 * len(provider.requests), 2 * len(provider.requests))
    assert caps.exceeded_by(sent) is None
    assert caps.exceeded_by(model.budget.spent) is None
    assert model.budget.spent.calls == len(provider.requests)


async def test_a_call_in_flight_at_a_crash_is_charged_at_its_worst_case(journal: Journal, tmp_path: Path) -> None:
    worst = worst_case(REQUEST, SPEC)
    await journal.open("run", REQUEST, worst)
    after = Journal(tmp_path / "journal.db")
    assert after.spend("run").by_purpose == {"samples": worst}
    assert after.spend("run").failures == {"cut off, counted at the worst case": 1}
    await after.aclose()


async def test_the_response_to_a_cancelled_caller_is_still_stored(journal: Journal) -> None:
    sent, release = asyncio.Event(), asyncio.Event()

    class Held(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            sent.set()
            await release.wait()
            return await super().generate(request)

    model = client_of(Held(numbered), journal)
    caller = asyncio.create_task(model.generate(REQUEST))
    await sent.wait()
    caller.cancel()
    release.set()
    await model.aclose()
    assert caller.cancelled()
    identity = SPEC.identity
    assert journal.find(REQUEST.key(identity), 0, 1)[0].choice == Choice("answer 0", 2)


async def test_after_closing_nothing_more_is_sent(journal: Journal) -> None:
    provider = ScriptedModel(numbered)
    model = client_of(provider, journal)
    await model.aclose()
    with pytest.raises(PermanentModelError, match="stopping"):
        await model.generate(REQUEST)
    assert provider.requests == []


def _write_many(path: Path, start: int) -> None:
    async def write() -> None:
        book = Journal(path)
        model = ModelClient(ScriptedModel(numbered), {"m": SPEC}, book, Budget(), f"run {start}")
        requests = (Request("m", (Message("user", f"{i}"),), 4) for i in range(start, start + 200))
        await asyncio.gather(*(model.generate(request) for request in requests))
        await book.aclose()

    asyncio.run(write())


async def test_two_processes_write_one_journal_concurrently(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_write_many, args=(tmp_path / "j.db", start)) for start in (0, 100)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    book = Journal(tmp_path / "j.db")
    known = [book.find(Request("m", (Message("user", f"{i}"),), 4).key(SPEC.identity), 0, 1) for i in range(300)]
    assert all(known)
    await book.aclose()


async def test_a_wait_longer_than_the_remaining_time_ends_the_run_immediately(journal: Journal) -> None:
    provider = ScriptedModel(script=[TransientModelError("busy", retry_after=100)])
    budget = Budget(Caps(seconds=10), clock=lambda: 0.0)
    with pytest.raises(BudgetExceeded, match="seconds cap of 10"):
        await client_of(provider, journal, budget).generate(REQUEST)


async def test_calls_waiting_for_budget_are_not_sent_after_the_run_stops(journal: Journal) -> None:
    release = asyncio.Event()

    class Held(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            await release.wait()
            return await super().generate(request)

    provider = Held(numbered)
    two_at_most = Caps(tokens=2 * worst_case(REQUEST, SPEC).tokens + 1)
    model = client_of(provider, journal, Budget(two_at_most))
    questions = [Request("m", (Message("user", f"one two {i}"),), max_tokens=4) for i in range(10)]
    callers = [asyncio.create_task(model.generate(question)) for question in questions]
    await asyncio.sleep(0.2)
    closing = asyncio.create_task(model.aclose())
    await asyncio.sleep(0)
    release.set()
    await closing
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert len(provider.requests) == sum(isinstance(outcome, Response) for outcome in outcomes) == 2
    assert model.budget.spent.calls == 2


async def test_a_model_that_cannot_be_started_costs_nothing(journal: Journal) -> None:
    provider = ScriptedModel(script=[WeightsError("no such file")])
    model = client_of(provider, journal)
    with pytest.raises(WeightsError):
        await model.generate(REQUEST)
    assert model.budget.spent == Usage()
    assert journal.spend("run").by_purpose == {"samples": Usage()}


class Slow(ScriptedModel):
    """A model whose download never finishes."""

    def __init__(self) -> None:
        super().__init__(numbered)
        self.began, self.cancelled = asyncio.Event(), False

    async def prepare(self, model: str) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def test_the_end_of_a_run_does_not_wait_for_a_download(journal: Journal) -> None:
    provider = Slow()
    model = client_of(provider, journal)
    caller = asyncio.create_task(model.generate(REQUEST))
    await provider.began.wait()
    await model.aclose()
    with pytest.raises(PermanentModelError, match="stopping"):
        await caller
    assert provider.cancelled
    assert provider.requests == []
    assert model.budget.spent == journal.spend("run").by_purpose.get("samples", Usage()) == Usage()


async def test_a_download_is_bounded_by_the_time_cap(journal: Journal) -> None:
    now = iter([0.0, *[9.99] * 100])
    with pytest.raises(BudgetExceeded, match="seconds cap of 10"):
        await client_of(Slow(), journal, Budget(Caps(seconds=10), clock=lambda: next(now))).generate(REQUEST)


async def test_a_response_that_could_not_be_stored_is_charged_at_its_worst_case(
    journal: Journal, tmp_path: Path
) -> None:
    def answer(request: Request, repeat: int) -> str:
        with sqlite3.connect(tmp_path / "journal.db") as other:
            other.execute("DROP TABLE responses")
        return "paid for"

    model = client_of(ScriptedModel(answer), journal)
    with pytest.raises(AgentoptError, match="journal cannot be written"):
        await model.generate(REQUEST)
    assert model.budget.spent == worst_case(REQUEST, SPEC)


async def test_a_timeout_raised_by_the_provider_is_not_reported_as_the_time_cap(journal: Journal) -> None:
    model = client_of(ScriptedModel(script=[TimeoutError("mine")]), journal, Budget(Caps(seconds=100)))
    with pytest.raises(TimeoutError, match="mine"):
        await model.generate(REQUEST)
    assert model.budget.spent == worst_case(REQUEST, SPEC)


async def test_a_response_rejected_by_the_database_does_not_affect_others(journal: Journal) -> None:
    class Broken(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            response = await super().generate(request)
            absurd = 2**70 if "broken" in request.messages[0].content else 1
            return Response((Choice("fine", absurd),), response.prompt_tokens)

    model = client_of(Broken(numbered), journal)
    questions = [Request("m", (Message("user", text),), max_tokens=4) for text in ("one", "broken", "two")]
    outcomes = await asyncio.gather(*(model.generate(question) for question in questions), return_exceptions=True)
    assert [isinstance(outcome, Response) for outcome in outcomes] == [True, False, True]
    assert isinstance(outcomes[1], AgentoptError)
    assert journal.spend("run").by_purpose["samples"].calls == 3


THOUGHTFUL = Choice("yes", 5, "stop", "Is it no?", (ToolCall("c", "find", "{}"),), 3)


class Answering(ScriptedModel):
    """Answers every call with one choice, numbered by the call."""

    def __init__(self, choice: Choice) -> None:
        super().__init__(numbered)
        self.choice = choice

    async def generate(self, request: Request) -> Response:
        response = await super().generate(request)
        return replace(response, choices=(replace(self.choice, text=f"{self.choice.text} {len(self.requests)}"),))


async def test_thoughts_tool_calls_and_token_details_are_stored(journal: Journal, tmp_path: Path) -> None:
    first = await client_of(Answering(THOUGHTFUL), journal).generate(REQUEST)
    later = Journal(tmp_path / "journal.db")
    found = await client_of(ScriptedModel(script=[]), later).generate(REQUEST)
    assert found.choices == first.choices
    assert found.choices[0].thought == "Is it no?"
    assert (found.prompt_tokens, found.cached_tokens) == (first.prompt_tokens, first.cached_tokens)
    await later.aclose()


async def test_an_answer_that_mentions_a_tag_is_read_as_it_was_stored(journal: Journal, tmp_path: Path) -> None:
    text = "<think> is a tag"
    await client_of(ScriptedModel(script=[text]), journal).generate(REQUEST)
    later = Journal(tmp_path / "journal.db")
    assert (await client_of(ScriptedModel(script=[]), later).generate(REQUEST)).choices[0].text == text
    await later.aclose()


async def test_a_rejected_response_is_requested_again_by_the_next_session_once(tmp_path: Path) -> None:
    provider = Answering(Choice("verdict", 2))
    texts = []
    for _ in range(4):
        book = Journal(tmp_path / "journal.db")
        model = client_of(provider, book)
        texts.append((await model.generate(REQUEST)).choices[0].text)
        await reject(model, REQUEST)
        assert (await model.generate(REQUEST)).choices[0].text == texts[-1], "not within a session"
        await book.aclose()
    assert texts == ["verdict 1", "verdict 2", "verdict 2", "verdict 2"]


async def test_a_model_that_keeps_nothing_ignores_a_rejection() -> None:
    model = ScriptedModel(numbered)
    before = await model.generate(REQUEST)
    await reject(model, REQUEST)
    assert model.requests == [REQUEST], "a rejection makes no call"
    assert (await model.generate(REQUEST)).choices == before.choices


async def test_a_fresh_session_requests_everything_again_and_replaces_it(tmp_path: Path) -> None:
    provider = Answering(THOUGHTFUL)
    texts = []
    for fresh in (False, True, False):
        book = Journal(tmp_path / "journal.db", fresh=fresh)
        model = client_of(provider, book)
        texts += [(await model.generate(REQUEST)).choices[0].text for _ in range(2)]
        await book.aclose()
        await asyncio.sleep(0.01)
    assert texts == ["yes 1", "yes 1", "yes 2", "yes 2", "yes 2", "yes 2"]


async def test_the_responses_of_earlier_sessions_are_counted_once_each(journal: Journal, tmp_path: Path) -> None:
    before = client_of(ScriptedModel(numbered), journal)
    await before.generate(REQUEST.for_repeats(0, 3))
    assert before.cache_use == CacheUse()
    await asyncio.sleep(0.01)
    later = Journal(tmp_path / "journal.db")
    model = client_of(ScriptedModel(numbered), later)
    for _ in range(2):
        await model.generate(REQUEST.for_repeats(0, 3))
    use = model.cache_use
    assert use.responses == 3
    assert use.oldest is not None
    assert use.oldest < later.opened
    await later.aclose()


OLD_TABLES = """
CREATE TABLE requests (key VARCHAR(64) PRIMARY KEY, identity TEXT NOT NULL, request TEXT NOT NULL);
CREATE TABLE responses (
  key VARCHAR(64) NOT NULL, repeat INTEGER NOT NULL, text TEXT NOT NULL, finish_reason VARCHAR(32) NOT NULL,
  prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, seconds FLOAT NOT NULL, created FLOAT NOT NULL,
  PRIMARY KEY (key, repeat));
CREATE TABLE ledger (
  id VARCHAR(32) PRIMARY KEY, run TEXT NOT NULL, session VARCHAR(32) NOT NULL, model TEXT NOT NULL,
  purpose VARCHAR(16) NOT NULL, calls INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL, usd FLOAT NOT NULL, outcome TEXT NOT NULL, opened FLOAT NOT NULL, closed FLOAT);
INSERT INTO ledger VALUES ('a', 'run', 's', 'm', 'samples', 1, 20, 5, 0.5, 'ok', 100.0, 101.0);
"""


@pytest.mark.parametrize(
    ("stored", "text", "thought"),
    [("plain", "plain", ""), ("<think>hm</think>yes", "yes", "hm"), ("<think>hm", "", "hm")],
)
async def test_a_journal_of_version_0_1_0_opens_and_its_thoughts_are_split(
    tmp_path: Path, stored: str, text: str, thought: str
) -> None:
    request = replace(REQUEST, temperature=0.9, top_p=1.0)
    # The formula of version 0.1.0.
    messages = [[m.role, m.content] for m in request.messages]
    key = hashlib.sha256(
        json.dumps([SPEC.identity, messages, [request.max_tokens, 0.9, 1.0, (), None, 0]]).encode()
    ).hexdigest()
    with sqlite3.connect(tmp_path / "old.db") as old:
        old.executescript(OLD_TABLES)
        old.execute("INSERT INTO responses VALUES (?, 0, ?, 'stop', 20, 5, 1.0, 100.0)", (key, stored))
    book = Journal(tmp_path / "old.db")
    model = client_of(ScriptedModel(script=["new"]), book)
    choice = (await model.generate(request)).choices[0]
    assert (choice.text, choice.thought, choice.completion_tokens) == (text, thought, 5)
    assert book.spend("run").by_purpose == {"samples": Usage(1, 20, 5, 0.5)}
    assert (await model.generate(replace(request, temperature=None))).choices[0].text == "new"
    await book.aclose()


@pytest.mark.parametrize(("durations", "pace"), [([2.0, 4.0], 3.0), ([0.0, 2.0, 0.0], 2.0), ([0.0], None), ([], None)])
async def test_the_pace_of_a_model_leaves_out_responses_that_took_no_time(
    journal: Journal, durations: list[float], pace: float | None
) -> None:
    class Lasting(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            return replace(await super().generate(request), seconds=durations[request.first_repeat])

    model = client_of(Lasting(numbered), journal)
    for number in range(len(durations)):
        await model.generate(REQUEST.for_repeats(number, 1))
    timed = len([one for one in durations if one])
    assert journal.pace(SPEC.identity) == Pace(pace, timed, len(durations) - timed)


@pytest.mark.parametrize(("durations", "latency"), [([2.0, 4.0, 1.0], 4.0), ([0.0, 4.0, 1.0], 0.0)])
async def test_stored_choices_of_several_calls_took_as_long_as_the_slowest(
    journal: Journal, durations: list[float], latency: float
) -> None:
    class Lasting(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            place = request.first_repeat
            return replace(await super().generate(request), seconds=durations[place], cached_tokens=30 * place)

    model = client_of(Lasting(numbered), journal)
    for number in range(3):
        await model.generate(REQUEST.for_repeats(number, 1))
    response = await model.generate(REQUEST.for_repeats(0, 3))
    assert (response.seconds, response.cached_tokens) == (latency, 30)


async def test_a_refused_parameter_is_remembered_by_other_runs_for_a_time_after_the_last_call(tmp_path: Path) -> None:
    async def at(now: float, run: str, *, call: str = "", fresh: bool = False) -> tuple[list[str], list[str]]:
        """The parameters that the run found, and those that other runs found lately."""
        book = Journal(tmp_path / "journal.db", clock=lambda: now, fresh=fresh)
        if call == "refused":
            await book.record_refusal(run, SPEC, "top_p")
        if call:
            await book.open(run, REQUEST, Usage())
        found = [sorted(names) for names in (*book.refused(run).values(), *book.refused_lately(run).values())]
        own = book.refused(run)
        await book.aclose()
        assert set(own) <= {("m", SPEC.identity)}
        return (found[0], []) if own else ([], found[0] if found else [])

    week = REMEMBERED
    assert await at(1000, "a", call="refused") == (["top_p"], [])
    assert await at(1000 + week, "b", call="ok") == ([], ["top_p"])
    assert await at(1000 + week, "b", fresh=True) == ([], [])
    assert await at(1001 + week, "b") == ([], []), "b never found it, so that its own call does not extend it"
    assert await at(1001 + week, "a") == (["top_p"], []), "a run leaves out what it found, whenever it is resumed"
    assert await at(2000 + week, "a", call="ok") == (["top_p"], [])
    assert await at(2000 + 2 * week, "c") == ([], ["top_p"])
