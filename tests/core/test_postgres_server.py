"""The PostgreSQL server of the tests: it keeps its data over restarts, and each test has a database of its own."""

from __future__ import annotations

import psycopg
import pytest

from agentopt.testing.postgres import PostgresServer


@pytest.mark.parametrize("is_crash", [False, True])
def test_a_restarted_server_has_its_data_at_the_same_address(
    postgres_server: PostgresServer, postgres_url: str, is_crash: bool
) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TABLE notes AS SELECT 'kept' AS text")
    postgres_server.restart(is_crash=is_crash)
    with psycopg.connect(postgres_url) as connection:
        assert connection.execute("SELECT text FROM notes").fetchall() == [("kept",)]


def test_each_test_has_an_empty_database(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        found = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert found == (0,)
