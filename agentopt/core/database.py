"""SQL databases that several processes share: opens them, creates their tables, and repeats transactions.

SQLite and PostgreSQL are supported. The password of a PostgreSQL URL comes from the environment (`PGPASSWORD`), a
password file or a service file (`postgresql:///?service=NAME`), which libpq reads itself, or from the environment
variable that the URL names by `?password_env=NAME`. A transaction of `transact` survives a deadlock and a restart of
the database.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from agentopt.core.errors import ConfigError
from agentopt.core.extras import install_command
from agentopt.core.files import create_private, other_than_file, private_folder
from agentopt.core.outages import WAIT_SECONDS, Outage, Patience, current, outage_at

SECRET = re.compile(r"password(?!_env$)|passwd|pwd|secret|token", re.IGNORECASE)
"""Names of parameters in a URL's query that may hold a secret."""

BUSY_SECONDS = 1
"""Seconds for which SQLite itself waits for a lock in a run, whose transactions are repeated: Ctrl-C has no effect
meanwhile."""

SCHEMA = "0001"
"""Version of the tables that this version of agentopt reads and writes: the last one of `core/migrations`."""
UNVERSIONED = "0001"
"""Version of tables that were created by agentopt 0.1.0, which stored no version."""
VERSIONS = sa.Table("agentopt_schema", sa.MetaData(), sa.Column("version_num", sa.String(32), primary_key=True))
"""The version of the tables of a database; Alembic updates it."""

LOCK = 0x6167656E746F7074
"""Key of the advisory lock under which PostgreSQL databases change their tables: `agentopt` in ASCII."""
KEEPALIVE = {
    "application_name": "agentopt",
    "connect_timeout": "10",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
}
"""libpq parameters unless the URL sets them: a host that disappeared is noticed within 30 seconds."""
LONGEST_PAUSE = 30
"""Seconds after which PostgreSQL ends a transaction that is not continued: a process that was suspended inside of one
would otherwise keep its locks until it continues."""
_NAMES = {
    "sqlite": "SELECT name FROM sqlite_master",
    "postgresql": "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace",
}
"""Queries for the names of all tables and indexes."""

T = TypeVar("T")


def sqlite_url(path: Path) -> str:
    """Return the URL of an SQLite file, with `?` and `%` of its path escaped: they would begin a query or an escape."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string()


def open_engine(
    place: str | Path,
    environ: Mapping[str, str] = os.environ,
    *,
    keeps_connections: bool = True,
    patience: Patience | None = None,
) -> sa.Engine:
    """Open a database.

    SQLite databases wait for the locks of other processes, and survive a crash. Connections to PostgreSQL are checked
    before they are used, so that one that a restart of the database closed is replaced.

    Args:
        place: A SQLAlchemy URL, or the path of an SQLite file, whose folder is created. The driver of `postgresql://`
            is psycopg 3.
        environ: Environment variables, for `password_env`.
        keeps_connections: Whether connections stay open for the next use, until the engine is disposed of.
        patience: How long its transactions wait. Default: that of the run that opens it, otherwise one of its own.

    Raises:
        ConfigError: The driver is not installed, the variable of `password_env` is not set, or SQLite's path is that of
            a folder or a pipe.
    """
    shared = patience or current()
    if isinstance(place, Path):
        private_folder(place.parent)
        # Not as a string, in which a question mark of the path would start the query.
        url = sa.URL.create("sqlite", database=str(place))
    else:
        url = _completed(sa.make_url(re.sub("^postgres(ql)?://", "postgresql+psycopg://", place)), environ)
    if url.get_backend_name() == "sqlite" and url.database and (kind := other_than_file(Path(url.database))):
        raise ConfigError(f"a database must be a file, but this is {kind}", where=url.database, remedy="name a file")
    if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:" and not url.query:
        with suppress(OSError):  # reported when the database is opened
            create_private(Path(url.database))
    try:
        options: dict[str, Any] = {} if keeps_connections else {"poolclass": sa.NullPool}
        options["execution_options"] = {"outage": outage_at(str(url)) if patience is None else patience.of(str(url))}
        engine = sa.create_engine(url, pool_pre_ping=url.get_backend_name() != "sqlite", **options)
    except ModuleNotFoundError as error:
        remedy = install_command("postgres") if url.get_backend_name() == "postgresql" else f"install {error.name}"
        raise ConfigError(f"the driver {error.name} of the database is not installed", remedy=remedy) from error
    if engine.dialect.name == "sqlite":
        busy, outage = BUSY_SECONDS if shared else WAIT_SECONDS, outage_of(engine)
        sa.event.listen(engine, "connect", lambda connection, _: _prepare_sqlite(connection, busy, outage))
    if engine.dialect.name == "postgresql":
        sa.event.listen(engine, "connect", lambda connection, _: _prepare_postgresql(connection, shared))
    return engine


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold in a transaction that writes, such as that this process still has the run.

    Attributes:
        query: Returns a row as long as it holds, and locks it.
        failure: Returns the exception to raise once it does not.
    """

    query: sa.Select[Any]
    failure: Callable[[], Exception]

    def check(self, connection: sa.Connection) -> None:
        """Raise `failure` if it does not hold; otherwise it holds until the end of the transaction.

        Args:
            connection: A connection with a transaction; in SQLite one that has the write lock.
        """
        if connection.execute(self.query).first() is None:
            raise self.failure()

    def sql(self, dialect: sa.Dialect) -> str:
        """Return the query for connections that SQLAlchemy does not manage.

        Args:
            dialect: That of the database.
        """
        return str(self.query.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


def names_no_file(url: str) -> bool:
    """Whether this is a URL of an SQLite database in memory, which is lost at the end of the process."""
    if "://" not in url:
        return False
    with suppress(sa.exc.ArgumentError, ValueError):  # reported when it is opened
        read = sa.make_url(url)
        return read.get_backend_name() == "sqlite" and read.database in (None, "", ":memory:")
    return False


def check_names_file(url: str) -> None:
    """Raise `ConfigError` for a URL of an SQLite database in memory.

    Args:
        url: A SQLAlchemy URL or a path.
    """
    if names_no_file(url):
        rule = "the URL names no file, so the database would be lost at the end of the command"
        raise ConfigError(rule, where=url, remedy="add a path: sqlite:///PATH")


def without_password(url: str) -> str:
    """Return a SQLAlchemy URL without its password, and without the parts of its query that may hold one.

    A path is returned as it is; a URL that cannot be read is replaced.
    """
    if "://" not in url:
        return url
    try:
        read = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        return "a URL that cannot be read"
    secret = [name for name in read.query if SECRET.search(name)]
    if read.password is None and not secret:
        return url
    without = sa.URL.create(read.drivername, read.username, None, read.host, read.port, read.database, read.query)
    return without.difference_update_query(secret).render_as_string(hide_password=False)


def insert(engine: sa.Engine, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT of the database's dialect, which has `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return postgresql.insert(table) if engine.dialect.name == "postgresql" else sqlite.insert(table)


def transact(engine: sa.Engine, work: Callable[[sa.Connection], T], *, is_paid: bool = False) -> T:
    """Execute `work` in one transaction, again if it fails for a reason that passes.

    Such reasons are a deadlock, a serialisation failure, and a lost connection, within `WAIT_SECONDS`. A connection
    that is lost during the commit leaves unknown whether it took place, so that `work` must give the same result if it
    is repeated: insert with `on_conflict_do_nothing`, set values instead of adding to them. In SQLite, the transaction
    holds the write lock from its start, so that what it reads does not change before it writes.

    Args:
        engine: The database.
        work: Executes statements on the connection, and returns the result.
        is_paid: As for `Outage.repeat`.

    Returns:
        What `work` returned in the attempt that was committed.
    """

    def attempt() -> T:
        with engine.begin() as connection:
            if engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            return work(connection)

    return outage_of(engine).repeat(attempt, is_paid=is_paid)


def read(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    """Return what `work` reads, which is repeated as in `transact`, without the write lock of SQLite.

    Args:
        engine: The database.
        work: Executes queries on the connection, and returns the result.
    """

    def attempt() -> T:
        with engine.connect() as connection:
            return work(connection)

    return outage_of(engine).repeat(attempt)


def outage_of(engine: sa.Engine) -> Outage:
    """Return what the transactions of a database share.

    Args:
        engine: The database, of `open_engine`.
    """
    outage: Outage = engine.get_execution_options()["outage"]
    return outage


class Reader:
    """Reads outside of transactions, from any number of threads.

    Each thread has a connection of its own, which stays open and is replaced after a restart of the database.

    Args:
        engine: The database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._own = threading.local()
        self._open: list[sa.Connection] = []

    def rows(self, statement: sa.Executable, values: Mapping[str, object] | None = None) -> Sequence[Any]:
        """Return all rows of a query, which is repeated as a transaction of `transact` is.

        Args:
            statement: The query.
            values: Its parameters.
        """
        return outage_of(self._engine).repeat(lambda: self._read(statement, values or {}))

    def close(self) -> None:
        """Close the connections. No thread may be reading."""
        while self._open:
            self._open.pop().close()

    def _read(self, statement: sa.Executable, values: Mapping[str, object]) -> Sequence[Any]:
        connection: sa.Connection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = self._engine.connect()
            self._open.append(connection)
        try:
            return connection.execute(statement, values).all()
        except sa.exc.DBAPIError:
            # Not opened again: the new one would begin transactions.
            self._open.remove(connection)
            self._own.connection = None
            connection.close()
            raise


def create_tables(engine: sa.Engine, tables: sa.MetaData) -> None:
    """Create the missing tables and indexes, and check the version of the others.

    Another process may do so concurrently. A database in which nothing is missing is not changed, nor locked.

    Raises:
        ConfigError: The tables are those of another version of agentopt.
    """
    with engine.connect() as connection:
        present = names_in(connection)
        check_version(connection, tables)
    wanted = {VERSIONS.name, *tables.tables, *(str(i.name) for t in tables.tables.values() for i in t.indexes)}
    if wanted <= present:
        return
    outage_of(engine).repeat(lambda: _create_missing(engine, tables, present))


def _create_missing(engine: sa.Engine, tables: sa.MetaData, present: Collection[str]) -> None:
    with engine.begin() as connection:
        lock_schema(connection)
        for table in (*tables.sorted_tables, VERSIONS):
            connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                if index.name not in present:
                    connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))
        if connection.execute(sa.select(VERSIONS)).first() is None:
            connection.execute(VERSIONS.insert().values(version_num=SCHEMA))


def lock_schema(connection: sa.Connection) -> None:
    """Let one process at a time change tables, until the end of the transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
    elif connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def names_in(connection: sa.Connection) -> set[str]:
    """Return the names of all tables and indexes of a database."""
    query = _NAMES.get(connection.dialect.name)
    return set(connection.exec_driver_sql(query).scalars()) if query else set()


def check_version(connection: sa.Connection, tables: sa.MetaData) -> None:
    """Check that the tables of a database are of the version that this version of agentopt uses.

    Raises:
        ConfigError: They are of another version.
    """
    present, found = names_in(connection), None
    if VERSIONS.name in present:
        found = connection.execute(sa.select(VERSIONS)).scalar()
    elif present & tables.tables.keys():
        found = UNVERSIONED
    if found not in (None, SCHEMA):
        raise unknown_version(found)


def unknown_version(found: str) -> ConfigError:
    """Return the error for tables of another version, with its remedy."""
    return ConfigError(
        f"the tables of the database have version {found}, but this version of agentopt uses {SCHEMA}",
        remedy="update agentopt" if found > SCHEMA else "end what uses it, then run `agentopt storage migrate`",
    )


def _completed(url: sa.URL, environ: Mapping[str, str]) -> sa.URL:
    """The URL with the password of its `password_env`, and with the defaults of `KEEPALIVE`."""
    if url.get_backend_name() != "postgresql":
        return url
    if name := url.query.get("password_env"):
        if not isinstance(name, str) or not environ.get(name):
            remedy = f"export {name}=PASSWORD, or remove password_env from the URL"
            raise ConfigError(f"the environment variable {name} of password_env is not set", remedy=remedy)
        url = url.difference_update_query(["password_env"]).set(password=environ[name])
    if url.get_driver_name() != "psycopg":
        return url
    return url.update_query_dict({key: value for key, value in KEEPALIVE.items() if key not in url.query})


def _prepare_sqlite(connection: sqlite3.Connection, busy_seconds: int, outage: Outage) -> None:
    connection.execute(f"PRAGMA busy_timeout={busy_seconds * 1000}")
    # SQLite refuses, without a wait, while another process writes to a new file.
    outage.repeat(lambda: connection.execute("PRAGMA journal_mode=WAL").fetchall())
    connection.execute("PRAGMA synchronous=FULL")


def _prepare_postgresql(connection: Any, patience: Patience | None) -> None:
    if patience:
        patience.watch(connection)
    # Not as a parameter of libpq, which poolers refuse.
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{LONGEST_PAUSE}s'")
    connection.commit()
