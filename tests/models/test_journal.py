"""The journal and the metered model: pay once, record before use, never pass a cap."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
from collections.abc import AsyncIterator
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
from agentopt.models.base import Choice, Message, Request, Response
from agentopt.models.catalog import ModelSpec
from agentopt.models.client import ModelClient, worst_case
from agentopt.models.journal import Journal
from agentopt.models.scripted import ScriptedModel

SPEC = ModelSpec(
    name="m", base_url="http://127.0.0.1:1", max_choices=8, usd_per_1m_prompt=1e6, max_attempts=3, concurrency=64
)
QUESTION = Request("m", (Message("user", "one two three"),), max_tokens=4)


def told(request: Request, repeat: int) -> str:
    return f"answer {repeat}"


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    book = Journal(tmp_path / "journal.db")
    yield book
    await book.aclose()


def metered(provider: object, journal: Journal, budget: Budget | None = None, spec: ModelSpec = SPEC) -> ModelClient:
    async def no_sleep(_: float) -> None:
        await asyncio.sleep(0)

    return ModelClient(provider, {"m": spec}, journal, budget or Budget(), "run", sleep=no_sleep)  # type: ignore[arg-type]


async def test_drawing_ten_after_five_asks_for_five_more(journal: Journal) -> None:
    provider = ScriptedModel(told)
    model = metered(provider, journal)
    five = await model.generate(QUESTION.for_repeats(0, 5))
    ten = await model.generate(QUESTION.for_repeats(0, 10))
    assert ten.choices[:5] == five.choices
    assert [(r.first_repeat, r.n) for r in provider.requests] == [(0, 5), (5, 5)]


async def test_more_choices_than_the_endpoint_gives_are_asked_for_in_parts(journal: Journal) -> None:
    provider = ScriptedModel(told, choices_per_call=3)
    response = await metered(provider, journal).generate(QUESTION.for_repeats(0, 10))
    assert [c.text for c in response.choices] == [f"answer {i}" for i in range(10)]
    assert max(r.n for r in provider.requests) == 8


async def test_the_same_question_at_the_same_time_is_asked_once(journal: Journal) -> None:
    provider = ScriptedModel(told)
    model = metered(provider, journal)
    responses = await asyncio.gather(*(model.generate(QUESTION) for _ in range(20)))
    assert len(provider.requests) == 1
    assert len(set(responses)) == 1


async def test_an_answer_outlives_the_process_that_paid_for_it(journal: Journal, tmp_path: Path) -> None:
    await metered(ScriptedModel(told), journal).generate(QUESTION)
    other = Journal(tmp_path / "journal.db")
    silent = ScriptedModel(script=[])
    assert (await metered(silent, other).generate(QUESTION)).choices[0].text == "answer 0"
    assert other.spend("run").by_purpose == {"samples": Usage(1, 3, 2, 3.0)}
    await other.aclose()


async def test_another_model_under_the_same_name_is_another_question(journal: Journal) -> None:
    await metered(ScriptedModel(told), journal).generate(QUESTION)
    moved = SPEC.model_copy(update={"base_url": "http://127.0.0.1:2"})
    provider = ScriptedModel(lambda *_: "new")
    assert (await metered(provider, journal, spec=moved).generate(QUESTION)).choices[0].text == "new"


async def test_a_passing_failure_is_tried_again_and_counted(journal: Journal) -> None:
    provider = ScriptedModel(script=[TransientModelError("busy", kind="HTTP 429"), "fine"])
    model = metered(provider, journal)
    assert (await model.generate(QUESTION)).choices[0].text == "fine"
    assert journal.spend("run").failures == {"HTTP 429": 1}
    assert model.budget.spent.calls == 2


async def test_attempts_end_and_a_final_failure_is_not_repeated(journal: Journal) -> None:
    provider = ScriptedModel(script=[TransientModelError("busy")] * 3)
    with pytest.raises(ModelError, match="busy"):
        await metered(provider, journal).generate(QUESTION)
    provider = ScriptedModel(script=[PermanentModelError("no such model")])
    with pytest.raises(PermanentModelError):
        await metered(provider, journal).generate(QUESTION)
    assert len(provider.requests) == 1


async def test_a_failure_that_may_have_been_billed_counts_at_its_worst(journal: Journal) -> None:
    model = metered(ScriptedModel(script=[PermanentModelError("dropped", billed=True)]), journal)
    with pytest.raises(PermanentModelError):
        await model.generate(QUESTION)
    assert model.budget.spent == worst_case(QUESTION, SPEC)
    assert journal.spend("run").by_purpose["samples"] == worst_case(QUESTION, SPEC)


@pytest.mark.parametrize("caps", [Caps(calls=100), Caps(tokens=1000), Caps(usd=500.0)])
async def test_no_cap_is_passed_with_64_calls_in_flight(journal: Journal, caps: Caps) -> None:
    class Slow(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            response = await super().generate(request)
            await asyncio.sleep(0.001)
            return response

    provider = Slow(told)
    model = metered(provider, journal, Budget(caps))
    questions = [Request("m", (Message("user", f"question {i}"),), max_tokens=4) for i in range(400)]
    outcomes = await asyncio.gather(*(model.generate(q) for q in questions), return_exceptions=True)
    assert {type(o) for o in outcomes} == {Response, BudgetExceeded}
    sent = Usage(len(provider.requests), 2 * len(provider.requests), 2 * len(provider.requests))
    assert caps.exceeded_by(sent) is None
    assert caps.exceeded_by(model.budget.spent) is None
    assert model.budget.spent.calls == len(provider.requests)


async def test_a_call_in_flight_at_a_crash_counts_at_its_worst(journal: Journal, tmp_path: Path) -> None:
    worst = worst_case(QUESTION, SPEC)
    await journal.open("run", QUESTION, worst)
    after = Journal(tmp_path / "journal.db")
    assert after.spend("run").by_purpose == {"samples": worst}
    assert after.spend("run").failures == {"cut off by a crash": 1}
    await after.aclose()


async def test_an_answer_whose_caller_gave_up_is_still_kept(journal: Journal) -> None:
    sent, release = asyncio.Event(), asyncio.Event()

    class Held(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            sent.set()
            await release.wait()
            return await super().generate(request)

    model = metered(Held(told), journal)
    caller = asyncio.create_task(model.generate(QUESTION))
    await sent.wait()
    caller.cancel()
    release.set()
    await model.aclose()
    assert caller.cancelled()
    identity = SPEC.identity
    assert journal.find(QUESTION.key(identity), 0, 1)[0][0] == Choice("answer 0", 2)


async def test_after_closing_nothing_more_is_sent(journal: Journal) -> None:
    provider = ScriptedModel(told)
    model = metered(provider, journal)
    await model.aclose()
    with pytest.raises(PermanentModelError, match="stopping"):
        await model.generate(QUESTION)
    assert provider.requests == []


def _write_many(path: Path, start: int) -> None:
    async def write() -> None:
        book = Journal(path)
        model = ModelClient(ScriptedModel(told), {"m": SPEC}, book, Budget(), f"run {start}")
        asks = (Request("m", (Message("user", f"{i}"),), 4) for i in range(start, start + 200))
        await asyncio.gather(*(model.generate(request) for request in asks))
        await book.aclose()

    asyncio.run(write())


async def test_two_processes_write_one_journal_at_once(tmp_path: Path) -> None:
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


async def test_a_wait_that_the_time_cap_does_not_cover_ends_the_run_at_once(journal: Journal) -> None:
    provider = ScriptedModel(script=[TransientModelError("busy", retry_after=300)])
    budget = Budget(Caps(seconds=10), clock=lambda: 0.0)
    with pytest.raises(BudgetExceeded, match="seconds cap of 10"):
        await metered(provider, journal, budget).generate(QUESTION)


async def test_callers_that_wait_for_money_are_not_sent_once_the_run_stops(journal: Journal) -> None:
    release = asyncio.Event()

    class Held(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            await release.wait()
            return await super().generate(request)

    provider = Held(told)
    two_at_most = Caps(tokens=2 * worst_case(QUESTION, SPEC).tokens + 1)
    model = metered(provider, journal, Budget(two_at_most))
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
    model = metered(provider, journal)
    with pytest.raises(WeightsError):
        await model.generate(QUESTION)
    assert model.budget.spent == Usage()
    assert journal.spend("run").by_purpose == {"samples": Usage()}


class Slow(ScriptedModel):
    """A model whose file is on its way for ever."""

    def __init__(self) -> None:
        super().__init__(told)
        self.began, self.cancelled = asyncio.Event(), False

    async def prepare(self, model: str) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def test_the_end_of_a_run_does_not_wait_for_a_model_that_is_being_fetched(journal: Journal) -> None:
    provider = Slow()
    model = metered(provider, journal)
    caller = asyncio.create_task(model.generate(QUESTION))
    await provider.began.wait()
    await model.aclose()
    with pytest.raises(PermanentModelError, match="stopping"):
        await caller
    assert provider.cancelled
    assert provider.requests == []
    assert model.budget.spent == journal.spend("run").by_purpose.get("samples", Usage()) == Usage()


async def test_fetching_a_model_is_bounded_by_the_cap_on_time(journal: Journal) -> None:
    now = iter([0.0, *[9.99] * 100])
    with pytest.raises(BudgetExceeded, match="seconds cap of 10"):
        await metered(Slow(), journal, Budget(Caps(seconds=10), clock=lambda: next(now))).generate(QUESTION)


async def test_an_answer_that_could_not_be_kept_counts_at_its_worst(journal: Journal, tmp_path: Path) -> None:
    def answer(request: Request, repeat: int) -> str:
        with sqlite3.connect(tmp_path / "journal.db") as other:
            other.execute("DROP TABLE responses")
        return "paid for"

    model = metered(ScriptedModel(answer), journal)
    with pytest.raises(AgentoptError, match="journal cannot be written"):
        await model.generate(QUESTION)
    assert model.budget.spent == worst_case(QUESTION, SPEC)


async def test_a_time_out_of_a_providers_own_is_not_told_as_the_cap_on_time(journal: Journal) -> None:
    model = metered(ScriptedModel(script=[TimeoutError("mine")]), journal, Budget(Caps(seconds=100)))
    with pytest.raises(TimeoutError, match="mine"):
        await model.generate(QUESTION)
    assert model.budget.spent == worst_case(QUESTION, SPEC)


async def test_an_answer_that_no_database_takes_does_not_take_the_others_with_it(journal: Journal) -> None:
    class Broken(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            response = await super().generate(request)
            absurd = 2**70 if "broken" in request.messages[0].content else 1
            return Response((Choice("fine", absurd),), response.prompt_tokens)

    model = metered(Broken(told), journal)
    questions = [Request("m", (Message("user", text),), max_tokens=4) for text in ("one", "broken", "two")]
    outcomes = await asyncio.gather(*(model.generate(question) for question in questions), return_exceptions=True)
    assert [isinstance(outcome, Response) for outcome in outcomes] == [True, False, True]
    assert isinstance(outcomes[1], AgentoptError)
    assert journal.spend("run").by_purpose["samples"].calls == 3
