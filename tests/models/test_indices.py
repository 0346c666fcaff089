"""The queries of a large journal use its indices, in SQLite and in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from agentopt.core.database import create_tables, insert, open_engine
from agentopt.models import budget_store, journal_tables, lease
from agentopt.models.journal_rows import FIND, PACE, RESPONSES_OF
from agentopt.models.journal_tables import ledger, requests, responses
from agentopt.models.single_flight import _LOCKED
from agentopt.runs.workers import chunks

ROWS = 10_000
SPENT = sa.select(sa.func.sum(ledger.c.calls)).where(ledger.c.run == "run 1")
CLAIM = (
    sa.select(chunks.chunks.c.number)
    .where(chunks.chunks.c.run == "run 1", chunks.chunks.c.state == "open", chunks.chunks.c.member.not_in(["a"]))
    .order_by(chunks.chunks.c.number)
    .limit(1)
)
RESULTS = sa.select(chunks.results.c.example).where(
    chunks.results.c.run == "run 1", chunks.results.c.evaluation == "evaluation"
)
GRANTS = sa.select(budget_store.grants).where(budget_store.grants.c.run == "run 1")
QUERIES: dict[str, tuple[sa.Select[Any], dict[str, object]]] = {
    "look-up": (FIND, {"key": "key 5", "first": 0, "last": 4}),
    "what is known": (RESPONSES_OF, {"keys": ["key 5", "key 6"]}),
    "pace": (PACE, {"identity": "model 1"}),
    "flights": (_LOCKED, {"keys": ["key 5", "key 6"]}),
    "spend": (SPENT, {}),
    "grants": (GRANTS, {}),
    "chunk": (CLAIM, {}),
    "results": (RESULTS, {}),
}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Engine]:
    """A database with enough rows for an index to be worth it."""
    server = None if request.param == "sqlite" else request.getfixturevalue("postgres_server")
    place = server.create_database() if server else tmp_path_factory.mktemp("indices") / "journal.db"
    engine = open_engine(place)
    for tables in (journal_tables.TABLES, lease.TABLES, budget_store.TABLES, chunks.TABLES):
        create_tables(engine, tables)
    with engine.begin() as connection:
        for table, rows in filled().items():
            connection.execute(insert(engine, table), rows)
        connection.exec_driver_sql("ANALYZE")
    yield engine
    engine.dispose()
    if server:
        server.drop_database(place)


def filled() -> dict[sa.Table, list[dict[str, object]]]:
    """Rows of many runs and models."""
    of_call = {"session": "s", "model": "m", "purpose": "samples", "calls": 1, "prompt_tokens": 1}
    of_call |= {"completion_tokens": 1, "usd": 0.0, "outcome": "ok", "opened": 1.0, "closed": 2.0}
    answer = {"text": "a", "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1}
    settled = {"calls": 1, "prompt_tokens": 1, "completion_tokens": 1, "usd": 0.0}
    granted = {"granted_calls": 1, "granted_tokens": 1, "granted_usd": 0.0}
    work = {"epoch": 0, "work": "w", "member": "", "state": "open", "calls": 0, "failure": ""}
    numbers = range(ROWS)
    return {
        requests: [{"key": f"key {i}", "identity": f"model {i % (ROWS // 10)}", "request": "{}"} for i in numbers],
        responses: [{"key": f"key {i}", "repeat": 0, **answer, "seconds": 1.0, "created": 1.0} for i in numbers],
        ledger: [{"id": f"{i}", "run": f"run {i % 300}", **of_call} for i in numbers],
        journal_tables.flights: [
            {"key": f"key {i}", "repeat": 0, "worker": "w", "lease_until": 1.0, "is_awaited": False} for i in numbers
        ],
        budget_store.grants: [
            {"run": f"run {i}", "member": "m", "purpose": "samples", **settled, **granted} for i in numbers
        ],
        chunks.chunks: [{"run": f"run {i % 300}", "number": i, **work} for i in numbers],
        chunks.results: [
            {"run": f"run {i % 300}", "evaluation": "evaluation", "example": f"{i}", "result": "{}"} for i in numbers
        ],
    }


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_reads_no_whole_table(engine: sa.Engine, name: str) -> None:
    query, values = QUERIES[name]
    compiled = query.params(values).compile(engine, compile_kwargs={"literal_binds": True})
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(f"{explain} {str(compiled).replace('%', '%%')}").all()
    plan = [str(row[-1]) for row in rows]
    tables = {table.name for table in filled()}
    scanned = [
        line
        for line in plan
        for table in tables
        if f"Seq Scan on {table}" in line or line.split()[:2] == ["SCAN", table]
    ]
    assert scanned == [], plan
    assert any("INDEX" in line.upper() for line in plan)


def test_a_scan_is_noticed(engine: sa.Engine) -> None:
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    with engine.connect() as connection:
        plan = str(connection.exec_driver_sql(f"{explain} SELECT * FROM ledger WHERE outcome = 'ok'").all())
    assert "Seq Scan on ledger" in plan or "SCAN ledger" in plan
