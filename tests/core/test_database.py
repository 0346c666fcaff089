"""A database that several processes share opens with concurrent writers, and survives deadlocks and restarts."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from agentopt.core.database import VERSIONS, create_tables, insert, open_engine, sqlite_url, transact, without_password
from agentopt.core.errors import ConfigError
from agentopt.core.outages import Patience
from agentopt.testing.postgres import PASSWORD, PostgresServer

TABLES = sa.MetaData()
NOTES = sa.Table("notes", TABLES, sa.Column("text", sa.Text, index=True))
COUNTS = sa.Table("counts", TABLES, sa.Column("name", sa.Text, primary_key=True), sa.Column("n", sa.Integer))


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    """A database with `TABLES`, of each dialect."""
    is_file = request.param == "sqlite"
    engine = open_engine(tmp_path / "shared.db" if is_file else request.getfixturevalue("postgres_url"))
    create_tables(engine, TABLES)
    yield engine
    engine.dispose()


def test_a_new_file_that_another_process_writes_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "shared.db"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE old (x)")
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.2, other.execute, ["COMMIT"])
    release.start()
    engine = open_engine(file)
    create_tables(engine, TABLES)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    release.join()
    engine.dispose()
    other.close()


def test_tables_that_are_there_stay_as_they_are(tmp_path: Path) -> None:
    for _ in range(2):
        engine = open_engine(tmp_path / "notes.db")
        create_tables(engine, TABLES)
        with engine.begin() as connection:
            connection.execute(NOTES.insert(), {"text": "kept"})
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(NOTES)).scalar() == 2
    engine.dispose()


def test_a_path_may_hold_what_has_a_meaning_in_a_url(tmp_path: Path) -> None:
    file = tmp_path / "what? 50%#" / "notes.db"
    engine = open_engine(file)
    create_tables(engine, TABLES)
    engine.dispose()
    assert file.exists()


def test_a_file_that_is_no_database_is_refused_immediately(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database at all" * 100)
    with pytest.raises(sa.exc.DatabaseError, match="not a database"):
        open_engine(tmp_path / "text.db").connect()


@contextmanager
def connected(place: str, environ: dict[str, str] | None = None) -> Iterator[sa.Connection]:
    """A connection to a database whose engine is closed at the end."""
    engine = open_engine(place, environ or {})
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def together(*calls: Callable[[], object]) -> None:
    """Call all of them at the same time, each in a thread, and raise what one raises."""
    start = threading.Barrier(len(calls))

    def call(one: Callable[[], object]) -> None:
        start.wait()
        one()

    with ThreadPoolExecutor(len(calls)) as threads:
        list(threads.map(call, calls))


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_processes_that_create_the_same_tables_concurrently(
    request: pytest.FixtureRequest, tmp_path: Path, dialect: str
) -> None:
    place = tmp_path / "new.db" if dialect == "sqlite" else request.getfixturevalue("postgres_url")
    engines = [open_engine(place) for _ in range(8)]
    together(*(lambda engine=engine: create_tables(engine, TABLES) for engine in engines))
    with engines[0].connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(VERSIONS)).scalar() == 1
        assert [index["name"] for index in sa.inspect(connection).get_indexes("notes")] == ["ix_notes_text"]
    for engine in engines:
        engine.dispose()


def test_what_a_transaction_reads_does_not_change_before_it_writes(engine: sa.Engine) -> None:
    transact(engine, lambda c: c.execute(COUNTS.insert(), {"name": "a", "n": 0}))

    def increment(connection: sa.Connection) -> None:
        n = connection.execute(sa.select(COUNTS.c.n).with_for_update()).scalar_one()
        connection.execute(COUNTS.update().values(n=n + 1))

    together(*([lambda: [transact(engine, increment) for _ in range(20)]] * 4))
    assert transact(engine, lambda c: c.execute(sa.select(COUNTS.c.n)).scalar()) == 80


def test_transactions_that_block_each_other_are_both_committed(engine: sa.Engine) -> None:
    names = [f"{i}" for i in range(6)]
    transact(engine, lambda c: c.execute(COUNTS.insert(), [{"name": name, "n": 0} for name in names]))
    attempts = []

    def increment(connection: sa.Connection, names: list[str]) -> None:
        attempts.append(names)
        for name in names:
            connection.execute(COUNTS.update().where(COUNTS.c.name == name).values(n=COUNTS.c.n + 1))
            if engine.dialect.name == "postgresql":
                connection.execute(sa.text("SELECT pg_sleep(0.05)"))

    together(
        lambda: transact(engine, lambda c: increment(c, names)),
        lambda: transact(engine, lambda c: increment(c, names[::-1])),
    )
    assert transact(engine, lambda c: list(c.execute(sa.select(COUNTS.c.n)).scalars())) == [2] * 6
    print(f"{engine.dialect.name}: {len(attempts)} attempts for 2 transactions")


def test_a_failure_that_does_not_pass_is_raised_immediately(engine: sa.Engine) -> None:
    transact(engine, lambda c: c.execute(COUNTS.insert(), {"name": "a", "n": 0}))
    with pytest.raises(sa.exc.IntegrityError):
        transact(engine, lambda c: c.execute(COUNTS.insert(), {"name": "a", "n": 0}))
    with pytest.raises(sa.exc.DBAPIError, match="absent"):
        transact(engine, lambda c: c.execute(sa.text("SELECT * FROM absent")))


@pytest.mark.parametrize("is_crash", [False, True])
def test_transactions_continue_after_a_restart_of_the_database(
    postgres_server: PostgresServer, postgres_url: str, is_crash: bool
) -> None:
    engine = open_engine(postgres_url)
    create_tables(engine, TABLES)
    engine.connect().close()  # one that the pool keeps, and that the restart closes
    restarts = iter([True, False])

    def work(connection: sa.Connection) -> None:
        connection.execute(insert(engine, COUNTS).on_conflict_do_nothing(), {"name": "a", "n": 1})
        if next(restarts):
            postgres_server.restart(is_crash=is_crash)

    transact(engine, work)
    assert transact(engine, lambda c: c.execute(sa.select(COUNTS)).all()) == [("a", 1)]
    engine.dispose()


def test_a_transaction_that_was_suspended_gives_its_locks_back_and_is_repeated(postgres_url: str) -> None:
    engine = open_engine(postgres_url)
    with engine.connect() as connection:
        limit = connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar_one()
    attempts = iter([True, False])

    def work(connection: sa.Connection) -> int:
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
        if next(attempts):
            time.sleep(1)
        return int(connection.exec_driver_sql("SELECT 7").scalar_one())

    assert transact(engine, work) == 7
    assert (limit, next(attempts, None)) == ("30s", None), "the first attempt was ended by the server"
    engine.dispose()


def test_a_database_that_stays_away_is_waited_for_until_the_limit() -> None:
    with socket.socket() as bound:  # it does not listen
        bound.bind(("127.0.0.1", 0))
        now, waits = iter(range(0, 10_000, 5)), list[float]()
        patience = Patience(sleep=waits.append, clock=lambda: next(now))
        engine = open_engine(f"postgresql://u@127.0.0.1:{bound.getsockname()[1]}/db", patience=patience)
    with pytest.raises(sa.exc.OperationalError):
        transact(engine, lambda c: c.execute(sa.select(1)))
    assert len(waits) >= 3
    engine.dispose()


@pytest.mark.parametrize(("version", "remedy"), [("9999", "update agentopt"), ("0000", "agentopt storage migrate")])
def test_tables_of_another_version_are_refused_with_the_remedy(engine: sa.Engine, version: str, remedy: str) -> None:
    transact(engine, lambda c: c.execute(VERSIONS.update().values(version_num=version)))
    with pytest.raises(ConfigError, match=f"version {version}.*(?s:.)*{remedy}"):
        create_tables(engine, TABLES)


def test_tables_without_a_version_are_completed(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "old.db") as old:
        old.execute("CREATE TABLE notes (text TEXT)")
        old.execute("INSERT INTO notes VALUES ('kept')")
    engine = open_engine(tmp_path / "old.db")
    create_tables(engine, TABLES)
    with engine.connect() as connection:
        assert connection.execute(sa.select(NOTES.c.text)).scalars().all() == ["kept"]
        assert len(sa.inspect(connection).get_indexes("notes")) == 1
    engine.dispose()


def test_the_password_comes_from_the_variable_that_the_url_names(postgres_url: str) -> None:
    url = f"{postgres_url.replace(f':{PASSWORD}@', '@')}?password_env=SECRET"
    assert without_password(url) == url
    with connected(url, {"SECRET": PASSWORD}) as connection:
        assert connection.execute(sa.select(1)).scalar() == 1
    with pytest.raises(ConfigError, match=r"SECRET of password_env is not set\n.*export SECRET"):
        open_engine(url, {})
    with pytest.raises(sa.exc.OperationalError) as wrong, connected(url, {"SECRET": "hunter2"}):
        pass
    assert "hunter2" not in str(wrong.value)


def test_the_password_comes_from_the_environment_of_libpq(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with connected(postgres_url.replace(f":{PASSWORD}@", "@")) as connection:
        assert connection.execute(sa.select(1)).scalar() == 1


def test_the_password_comes_from_a_service_file(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sa.make_url(postgres_url)
    places = {"host": url.host, "port": url.port, "dbname": url.database, "user": url.username, "password": PASSWORD}
    lines = [f"{name}={value}" for name, value in places.items()]
    (tmp_path / "services").write_text("\n".join(["[team]", *lines]))
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    with connected("postgresql:///?service=team") as connection:
        assert connection.execute(sa.text("SELECT current_database()")).scalar() == url.database


def test_a_driver_that_is_not_installed_is_named_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"psycopg2 of the database is not installed\n.*postgres"):
        open_engine("postgresql+psycopg2://u:hunter2@127.0.0.1/db")


def test_a_file_that_is_open_in_this_process_keeps_its_locks_when_it_is_opened_again(tmp_path: Path) -> None:
    """A process that opens a database alone removes its log at the end, which would lose what this one has written."""
    place = tmp_path / "journal.db"
    first = open_engine(place)
    with first.connect() as held:
        held.exec_driver_sql("CREATE TABLE written (row INTEGER)")
        held.commit()
        held.exec_driver_sql("SELECT * FROM written").all()
        again = open_engine(place)
        other = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM written'); c.close()"
        subprocess.run([sys.executable, "-c", other, str(place)], check=True)
        assert place.with_name("journal.db-wal").exists()
        again.dispose()
    first.dispose()


@pytest.mark.parametrize("name", ["a?b", "a?b=c&d", "a%28b", "a%", "a%%s", "a#b", "{0}", "a b", "\u00e4@:b"])
def test_the_url_of_a_file_leads_to_that_file_whatever_its_name(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    engine = open_engine(sqlite_url(place))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE written (row INTEGER)")
    engine.dispose()
    assert place.stat().st_size > 0
    assert not [file for file in tmp_path.iterdir() if not file.name.startswith(name)]
