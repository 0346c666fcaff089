"""A journal under many writers, in SQLite and in PostgreSQL: each question is requested once, and nothing is lost."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from agentopt.core.budget import Budget, Usage
from agentopt.core.errors import PermanentModelError
from agentopt.models import single_flight
from agentopt.models.base import Choice, Message, Request, Response, ToolCall
from agentopt.models.catalog import ModelSpec
from agentopt.models.client import ModelClient
from agentopt.models.journal import Journal
from agentopt.models.journal_rows import FIND, PACE, RESPONSES_OF
from agentopt.models.journal_statements import Statements
from agentopt.models.journal_tables import TABLES, ledger, responses
from agentopt.models.journal_tables import flights as flights_table
from agentopt.models.lease import members, this_process
from agentopt.models.router import ModelRouter
from agentopt.models.scripted import ScriptedModel
from agentopt.testing.postgres import PostgresServer
from agentopt.testing.server_process import ServerProcess

SPEC = ModelSpec(name="m", base_url="http://127.0.0.1:1", max_choices=8, max_attempts=3, concurrency=16)
REQUEST = Request("m", (Message("user", "one two three"),), max_tokens=4)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    """Where a journal is, of each dialect."""
    if request.param == "sqlite":
        return tmp_path / "journal.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


def question(number: int) -> Request:
    return Request("m", (Message("user", f"question {number}"),), max_tokens=4)


def client_of(provider: object, journal: Journal, run: str = "run") -> ModelClient:
    return ModelClient(provider, {"m": SPEC}, journal, Budget(), run)  # type: ignore[arg-type]


class Held(ScriptedModel):
    """Answers `text` when it is released, or raises `error`."""

    def __init__(self, text: str = "first", error: Exception | None = None) -> None:
        super().__init__(lambda *_: text)
        self.error, self.sent, self.release = error, asyncio.Event(), asyncio.Event()

    async def generate(self, request: Request) -> Response:
        self.sent.set()
        await self.release.wait()
        response = await super().generate(request)
        if self.error:
            raise self.error
        return response


async def two_processes(place: str | Path, first: Held, second: ScriptedModel) -> tuple[Any, Any, Usage | None]:
    """Two sessions with the same request; the second one starts when the first has sent it.

    Returns both outcomes, and what the second one spent.
    """
    one, other = Journal(place), Journal(place)
    asking = asyncio.create_task(client_of(first, one, "one").generate(REQUEST))
    await first.sent.wait()
    waiting = asyncio.create_task(client_of(second, other, "other").generate(REQUEST))
    await asyncio.sleep(0.2)
    assert second.requests == []
    first.release.set()
    outcomes = await asyncio.gather(asking, waiting, return_exceptions=True)
    spent = other.spend("other").by_purpose.get("samples")
    await one.aclose()
    await other.aclose()
    return outcomes[0], outcomes[1], spent


async def test_a_process_waits_for_another_that_sent_the_same_request(place: str | Path) -> None:
    silent = ScriptedModel(script=[])
    first, second, spent = await two_processes(place, Held(), silent)
    assert first.choices == second.choices == (Choice("first", 1),)
    assert spent is None


@pytest.mark.parametrize("error", [PermanentModelError("refused"), TimeoutError("a fault of the provider")])
async def test_after_a_failure_the_next_process_sends_the_request(place: str | Path, error: Exception) -> None:
    first, second, spent = await two_processes(place, Held(error=error), ScriptedModel(script=["second"]))
    assert first is error
    assert second.choices[0].text == "second"
    assert spent is not None
    assert spent.calls == 1


async def test_a_process_whose_lease_is_over_is_replaced_and_reads_the_new_answer(place: str | Path) -> None:
    one, other = Journal(place), Journal(place)
    first = Held("too late")
    asking = asyncio.create_task(client_of(first, one, "one").generate(REQUEST))
    await first.sent.wait()
    with one._engine.begin() as connection:  # as if it had been suspended for longer than its lease
        connection.execute(flights_table.update().values(lease_until=1.0))
    second = await client_of(ScriptedModel(script=["in time"]), other, "other").generate(REQUEST)
    first.release.set()
    assert (await asking).choices == second.choices == (Choice("in time", 2),)
    assert one.spend("one").by_purpose["samples"].calls == 1, "its call was paid for, too"
    await one.aclose()
    await other.aclose()


async def test_a_process_that_is_known_to_have_ended_is_replaced_before_its_lease_is_over(place: str | Path) -> None:
    one, other = Journal(place), Journal(place)
    assert await one.open("one", REQUEST, Usage(), REQUEST.key(SPEC.identity))
    with one._engine.begin() as connection:  # as if another process had its process id by now
        of_one = members.c.id == one.session
        ended = f"{this_process()}0"
        assert connection.execute(members.update().where(of_one).values(process=ended)).rowcount == 1
        connection.execute(flights_table.update().values(lease_until=1e12))
    async with asyncio.timeout(60):
        answer = await client_of(ScriptedModel(script=["second"]), other, "other").generate(REQUEST)
    assert answer.choices[0].text == "second"
    await other.aclose()
    await one.aclose()


async def test_a_session_releases_what_it_claimed_if_its_end_is_cancelled(place: str | Path) -> None:
    one, other = Journal(place), Journal(place)
    assert await one.open("one", REQUEST, Usage(), "key")
    ending = asyncio.create_task(one.aclose())
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert other.rows(sa.select(flights_table)) == other.rows(sa.select(members)) == []
    await other.aclose()


async def test_leases_are_renewed_while_a_call_is_in_flight(place: str | Path) -> None:
    journal = Journal(place)
    journal.flights._lease_seconds = 0.4
    entry = await journal.open("run", REQUEST, Usage(), "key")
    ends: list[float] = []
    with journal._engine.connect() as connection:
        while len(set(ends)) < 3:
            ends += connection.execute(sa.select(flights_table.c.lease_until)).scalars()
            connection.rollback()
            await asyncio.sleep(0.02)
    assert entry
    await journal.abandon(entry)
    assert journal.rows(sa.select(flights_table)) == []
    await journal.aclose()


async def test_a_response_that_was_stored_since_the_look_up_is_not_claimed(place: str | Path) -> None:
    one, other = Journal(place), Journal(place)
    key = REQUEST.key(SPEC.identity)
    assert other.find(key, 0, 1) == {}
    await client_of(ScriptedModel(script=["stored"]), one).generate(REQUEST)
    assert await other.open("other", REQUEST, Usage(), key) is None
    assert other.spend("other").by_purpose == {}
    await one.aclose()
    await other.aclose()


async def test_a_request_for_more_choices_sends_those_that_no_other_process_does(place: str | Path) -> None:
    one, other = Journal(place), Journal(place)
    first, second = Held(), ScriptedModel(lambda *_: "second")
    asking = asyncio.create_task(client_of(first, one).generate(REQUEST.for_repeats(0, 2)))
    await first.sent.wait()
    waiting = asyncio.create_task(client_of(second, other, "other").generate(REQUEST.for_repeats(0, 5)))
    await asyncio.sleep(0.1)
    first.release.set()
    await asking
    texts = [choice.text for choice in (await waiting).choices]
    assert texts == ["first", "first", "second", "second", "second"]
    assert [(r.first_repeat, r.n) for r in second.requests] == [(2, 3)]
    await one.aclose()
    await other.aclose()


async def test_a_call_looks_its_responses_up_once(place: str | Path) -> None:
    journal = Journal(place)
    texts_read = []

    def count(_c: object, _k: object, statement: str, *_: object) -> None:
        if "responses.text" in statement:
            texts_read.append(statement)

    sa.event.listen(journal._engine, "before_cursor_execute", count)
    model = client_of(ScriptedModel(lambda request, repeat: f"answer {repeat}"), journal)
    of_a_new_call = isinstance(place, str)  # of a new call in SQLite, the key alone is looked up
    for already_read, n in enumerate((3, 3, 5)):  # sent, cached, in part
        assert len((await model.generate(REQUEST.for_repeats(0, n))).choices) == n
        assert len(texts_read) == already_read + of_a_new_call
    await journal.aclose()


async def test_texts_that_a_database_refuses_are_replaced_and_returned_as_they_are_stored(place: str | Path) -> None:
    odd = "a\0b\ud800c"
    choice = Choice(odd, 2, f"\0{'x' * 40}", odd, (ToolCall("c", "find", '{"q": "\\u0000\0"}'),))

    class Odd(ScriptedModel):
        async def generate(self, request: Request) -> Response:
            return Response((choice,), 3)

    journal, request = Journal(place), Request("m", (Message("user", odd),), max_tokens=4)
    sent = await client_of(Odd(script=[]), journal).generate(request)
    entry = await journal.open("run", request, Usage())
    assert entry
    await journal.record_failure(entry, Usage(1), odd)
    later = Journal(place)
    found = await client_of(ScriptedModel(script=[]), later).generate(request)
    assert found.choices == sent.choices
    assert sent.choices[0].text == "a\ufffdb?c"
    assert sent.choices[0].tool_calls == choice.tool_calls
    await journal.aclose()
    await later.aclose()


class Counting(ScriptedModel):
    """Appends the question to a file that several processes write, and answers after a moment."""

    def __init__(self, file: Path) -> None:
        super().__init__(lambda request, repeat: request.messages[0].content.upper())
        self.file, self.is_under_way = file, asyncio.Event()

    async def generate(self, request: Request) -> Response:
        with self.file.open("a") as lines:
            lines.write(f"{request.messages[0].content}\n")
        if len(self.requests) > 10:
            self.is_under_way.set()
        await asyncio.sleep(0.005)
        return await super().generate(request)


def request_all(place: str | Path, counter: Path, base_url: str | None, seed: int, questions: int) -> None:
    """One process: requests all questions in an order of its own, and stops with an error if an answer is wrong."""

    async def request() -> None:
        journal = Journal(place)
        spec = SPEC.model_copy(update={"base_url": base_url, "price": "free"}) if base_url else SPEC
        provider = ModelRouter({"m": spec}) if base_url else Counting(counter)
        model = ModelClient(provider, {"m": spec}, journal, Budget(), f"run {seed}")
        numbers = random.Random(seed).sample(range(questions), questions)
        answers = await asyncio.gather(*(model.generate(question(number)) for number in numbers))
        await model.aclose()
        await provider.aclose()
        await journal.aclose()
        if not base_url:
            assert [a.choices[0].text for a in answers] == [f"QUESTION {number}" for number in numbers]

    asyncio.run(request())


def in_processes(count: int, *arguments: Any, questions: int) -> Iterator[multiprocessing.process.BaseProcess]:
    """Start processes, yield once while they run, and check that all ended well."""
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=request_all, args=(*arguments, seed, questions)) for seed in range(count)]
    for worker in workers:
        worker.start()
    yield workers[0]
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * count


def calls_in_ledger(place: str | Path, runs: int) -> int:
    journal = Journal(place)
    spent = [journal.spend(f"run {seed}").by_purpose.get("samples", Usage()).calls for seed in range(runs)]
    assert journal.rows(sa.select(flights_table)) == []
    journal.close()
    return sum(spent)


def test_processes_with_the_same_questions_request_each_once(place: str | Path, tmp_path: Path) -> None:
    counter = tmp_path / "requests"
    for _ in in_processes(3, place, counter, None, questions=60):
        pass
    assert Counter(counter.read_text().splitlines()) == {f"question {number}": 1 for number in range(60)}
    assert calls_in_ledger(place, 3) == 60


async def test_a_restart_of_the_database_loses_no_answer(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    one, other = Journal(postgres_url), Journal(postgres_url)
    counter = tmp_path / "requests"
    provider = Counting(counter)
    models = [client_of(provider, one, "run 0"), client_of(Counting(counter), other, "run 1")]
    asking = [asyncio.create_task(model.generate(question(number))) for number in range(60) for model in models]
    await provider.is_under_way.wait()
    await asyncio.get_running_loop().run_in_executor(None, lambda: postgres_server.restart(is_crash=True))
    await asyncio.gather(*asking)
    assert Counter(counter.read_text().splitlines()) == {f"question {number}": 1 for number in range(60)}
    await one.aclose()
    await other.aclose()
    assert calls_in_ledger(postgres_url, 2) == 60


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [0, 2])
def test_8_processes_with_500_questions_request_each_once_as_the_server_counts(
    request: pytest.FixtureRequest, place: str | Path, tmp_path: Path, restarts: int
) -> None:
    if restarts and isinstance(place, Path):
        pytest.skip("a file does not restart")
    with ServerProcess(counter=tmp_path / "counter", delay=0.05) as server:
        began = time.monotonic()
        for _ in in_processes(8, place, tmp_path / "unused", server.base_url, questions=500):
            for number in range(restarts):
                while len(server.received()) < 100 * (number + 1):
                    time.sleep(0.05)
                request.getfixturevalue("postgres_server").restart(is_crash=number % 2 == 0)
        seconds = time.monotonic() - began
        received = Counter(one["key"] for one in server.received())
    print(f"{sum(received.values())} calls for {len(received)} questions, in {seconds:.0f} s on {os.cpu_count()} cores")
    assert len(received) == sum(received.values()) == 500
    assert calls_in_ledger(place, 8) == 500


PLACE = {"of_key": "k", "of_repeat": 0}
QUERIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "find": (FIND, {"key": "k", "first": 0, "last": 4}),
    "responses": (RESPONSES_OF, {"keys": ["k", "l"]}),
    "locked": (single_flight._LOCKED, {"keys": ["k", "l"]}),
    "remove": (single_flight._REMOVE, {**PLACE, "of_worker": "w"}),
    "settle": (Statements.settle, {"entry": "e", **asdict(Usage()), "outcome": "ok", "closed": 1.0}),
    "retried": (Statements.retried, PLACE),
    "remove details": (Statements.remove_details, PLACE),
    "pace": (PACE, {"identity": "i"}),
    "spend": (sa.select(sa.func.sum(ledger.c.usd)).where(ledger.c.run == "r"), {}),
}
"""What is executed for each call, and the aggregates that a run reads."""


@pytest.mark.parametrize("name", QUERIES)
def test_queries_use_an_index(place: str | Path, name: str) -> None:
    journal, executed = Journal(place), []

    def note(_c: object, _k: object, text: str, values: Any, *_: object) -> None:
        executed.append((text, values))

    with journal._engine.connect() as connection:
        sa.event.listen(connection, "before_cursor_execute", note)
        connection.execute(*QUERIES[name])
        text, values = executed[0]
        if isinstance(place, Path):
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)]
        else:
            connection.exec_driver_sql("SET enable_seqscan = off")  # which is faster as long as there are few rows
            plan = [row[0] for row in connection.exec_driver_sql(f"EXPLAIN {text}", values)]
    journal.close()
    tables = "|".join(TABLES.tables)
    assert not [line for line in plan if re.search(rf"^SCAN ({tables})\b|Seq Scan", line)], "\n".join(plan)


def test_the_check_of_indexes_notices_a_scan(tmp_path: Path) -> None:
    query = sa.select(responses).where(responses.c.created > 1)
    QUERIES["scan"] = query, {}
    with pytest.raises(AssertionError, match="SCAN responses"):
        test_queries_use_an_index(tmp_path / "journal.db", "scan")
    del QUERIES["scan"]
