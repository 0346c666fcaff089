"""`agentopt storage check` and `migrate`: the databases of the journal, of runs and of jobs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agentopt.cli.output import print_json, print_plain
from agentopt.cli.storage_places import Place, databases_of, opened, shown_place, tables_of
from agentopt.core.database import SCHEMA, check_version, create_tables, names_in
from agentopt.core.errors import ConfigError
from agentopt.core.message_text import counted, in_words
from agentopt.core.schema_upgrade import Step, steps_from, upgrade, version_of
from agentopt.models.journal_tables import details, rejections, requests, responses
from agentopt.models.lease import Lease, members

_NOUNS = {"stored_runs": "run", "jobs": "job", "trials": "trial", "responses": "response"}
"""Table -> what a row of it is; the other tables serve these."""


@dataclass(frozen=True, slots=True)
class TableRows:
    """A table and the number of its rows."""

    table: str
    rows: int


@dataclass(frozen=True, slots=True)
class DatabaseCheck:
    """A database of `agentopt storage check --json`.

    Attributes:
        place: Its path or URL, without a password.
        version: Version of its tables; None if it has none, as databases of agentopt 0.1.0 and those of Optuna.
        tables: Its tables, by name.
        missing: Tables and indexes that are created when the database is used, or by `storage migrate`.
        problems: What is wrong with it.
    """

    place: str
    version: str | None
    tables: tuple[TableRows, ...]
    missing: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StorageCheck:
    """The output of `agentopt storage check --json`."""

    databases: tuple[DatabaseCheck, ...]


@dataclass(frozen=True, slots=True)
class Migration:
    """The changes of a database.

    Attributes:
        place: Its path or URL, without a password.
        version: Version of its tables before; None if it had none.
        newest: Version of its tables afterwards.
        steps: The changes of tables that exist.
        created: The tables and indexes that are created.
    """

    place: str
    version: str | None
    newest: str
    steps: tuple[Step, ...]
    created: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Migrations:
    """The output of `agentopt storage migrate --json`.

    Attributes:
        is_dry_run: Whether nothing was changed.
        databases: The changes of each database.
    """

    is_dry_run: bool
    databases: tuple[Migration, ...]


def check_storage(argument: str, settings: Sequence[str], console: Console, *, as_json: bool = False) -> None:
    """`agentopt storage check`; exit code 1 if there is a problem."""
    checks = StorageCheck(tuple(map(_checked, databases_of(argument, settings))))
    if as_json:
        print_json(checks)
    else:
        for check in checks.databases:
            _show_check(check, console)
    if any(check.problems for check in checks.databases):
        sys.exit(1)


def migrate_storage(
    argument: str, settings: Sequence[str], console: Console, *, dry_run: bool = False, as_json: bool = False
) -> None:
    """`agentopt storage migrate`.

    Raises:
        ConfigError: A database is in use, or its tables are of a newer version.
    """
    made = Migrations(dry_run, tuple(_migrate(place, dry_run) for place in databases_of(argument, settings)))
    if as_json:
        print_json(made)
        return
    for migration in made.databases:
        _show_migration(migration, console, dry_run)


def _checked(place: Place) -> DatabaseCheck:
    """The check of a database. That a file cannot be read as one is its problem, not a mistake of the user's."""
    try:
        return _check(place)
    except ConfigError as error:
        if not isinstance(place, Path):
            raise
        return DatabaseCheck(shown_place(place), None, (), (), (error.message,))


def _check(place: Place) -> DatabaseCheck:
    with opened(place) as engine, engine.connect() as connection:
        return DatabaseCheck(
            shown_place(place),
            version_of(connection),
            tuple(TableRows(name, _count(connection, sa.table(name))) for name in sorted(_tables_in(connection))),
            _missing(connection),
            tuple(_problems(connection)),
        )


def _tables_in(connection: sa.Connection) -> list[str]:
    return sa.inspect(connection).get_table_names()


def _count(connection: sa.Connection, table: sa.FromClause, *where: sa.ColumnElement[bool]) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(table).where(*where)).scalar_one())


def _missing(connection: sa.Connection) -> tuple[str, ...]:
    """The tables and indexes of the groups of tables that the database has, as far as it does not have them."""
    wanted = [table for group in tables_of(connection) for table in group.sorted_tables]
    names = [name for table in wanted for name in (table.name, *sorted(str(i.name) for i in table.indexes))]
    present = names_in(connection)
    return tuple(name for name in names if name not in present)


def _problems(connection: sa.Connection) -> Iterator[str]:
    yield from _damage(connection)
    try:
        yield from (f"version {step.version} is missing: {step.text}" for step in _steps(connection))
    except ConfigError as error:
        yield str(error)
    yield from _faults(connection)


def _faults(connection: sa.Connection) -> Iterator[str]:
    yield from _missing_columns(connection)
    if {responses.name, requests.name} <= names_in(connection):
        yield from _unrelated_rows(connection)


def _damage(connection: sa.Connection) -> list[str]:
    if connection.dialect.name != "sqlite":
        return []
    found = connection.exec_driver_sql("PRAGMA quick_check").scalars().all()
    return [f"the file is damaged: {line}" for line in found if line != "ok"]


def check_whole(engine: sa.Engine, place: Place) -> None:
    """Raise `ConfigError` if a database file is damaged.

    Args:
        engine: The database.
        place: Where it is.
    """
    with engine.connect() as connection:
        found = _damage(connection)
    if found:
        remedy = "restore it from a copy, or save what can be read: sqlite3 FILE .recover | sqlite3 NEW"
        raise ConfigError(found[0].partition("\n")[0], where=shown_place(place), remedy=remedy)


def check_copyable(engine: sa.Engine, place: Place) -> None:
    """Raise `ConfigError` if a copy of a database would have a problem that `storage check` reports.

    Args:
        engine: The database.
        place: Where it is.
    """
    check_whole(engine, place)
    with engine.connect() as connection:
        for group in tables_of(connection):
            check_version(connection, group)
        found = list(_faults(connection))
    if found:
        check = shlex.join(["agentopt", "storage", "check", shown_place(place)])
        remedy = f"restore it from a copy; `{check}` lists what it has"
        raise ConfigError(in_words(found), where=shown_place(place), remedy=remedy)


def _missing_columns(connection: sa.Connection) -> Iterator[str]:
    inspector = sa.inspect(connection)
    for table in (table for group in tables_of(connection) for table in group.sorted_tables):
        if inspector.has_table(table.name):
            there = {column["name"] for column in inspector.get_columns(table.name)}
            yield from (f"{table.name} has no column {c.name}" for c in table.columns if c.name not in there)


def _unrelated_rows(connection: sa.Connection) -> Iterator[str]:
    """Rows of the journal that belong to no other row."""
    present, of_key = names_in(connection), responses.c.key
    orphans = _count(connection, responses, ~sa.exists().where(requests.c.key == of_key))
    if orphans:
        yield f"{counted(orphans, 'response')} without a request"
    for table in (details, rejections):
        if table.name in present:
            has_response = sa.exists().where(of_key == table.c.key, responses.c.repeat == table.c.repeat)
            if orphans := _count(connection, table, ~has_response):
                yield f"{counted(orphans, 'row')} of {table.name} without a response"


def _steps(connection: sa.Connection) -> list[Step]:
    """The changes that the database needs. The first version changes nothing, so its absence is no lack."""
    return [step for step in steps_from(version_of(connection) or "0001") if tables_of(connection)]


def _migrate(place: Place, dry_run: bool) -> Migration:
    with opened(place) as engine:
        check_whole(engine, place)
        with engine.connect() as connection:
            groups, version, missing = tables_of(connection), version_of(connection), _missing(connection)
            steps = _steps(connection)
        if steps:
            check_unused(engine)
        if groups and not dry_run:
            upgrade(engine)
            for group in groups:
                create_tables(engine, group)
    return Migration(shown_place(place), version, SCHEMA if groups else "", tuple(steps), missing)


def check_unused(engine: sa.Engine) -> None:
    """Raise `ConfigError` if a run or a worker uses the database."""
    with engine.connect() as connection:
        has_members = members.name in names_in(connection)
        live = Lease(engine, "").live(connection) if has_members else set()
    if live:
        rule = f"the database is in use, by {counted(len(live), 'session')}"
        raise ConfigError(rule, remedy="end its runs and workers, then run the command again")


def _show_check(check: DatabaseCheck, console: Console) -> None:
    none = "no version number, like every database of Optuna and of agentopt 0.1.0"
    version = none if check.version is None else f"version {check.version}"
    print_plain(console, f"{check.place}: {version if check.tables else 'no tables could be read'}")
    for problem in check.problems:
        print_plain(console, f"Problem: {problem}")
    if not check.problems:
        print_plain(console, "no problem found")
    rows = {found.table: found.rows for found in check.tables}
    named = [counted(rows[table], noun) for table, noun in _NOUNS.items() if table in rows]
    if named:
        print_plain(console, f"it has {in_words(named)}")
    if check.missing:
        print_plain(console, f"created when it is used next: {', '.join(check.missing)}")
    table = Table("table", "rows")
    for name, count in rows.items():
        if count:
            table.add_row(escape(name), f"{count:,}")
    if table.row_count:
        console.print(table)
    if empty := sum(not count for count in rows.values()):
        print_plain(console, f"and {counted(empty, 'empty table')}")


def _show_migration(migration: Migration, console: Console, dry_run: bool) -> None:
    if not migration.steps and not migration.created:
        print_plain(console, f"{migration.place}: nothing to change")
        return
    print_plain(console, f"{migration.place}: version {migration.version or 'none'} -> {migration.newest}")
    for step in migration.steps:
        print_plain(console, f"  {step.version}: {step.text}")
    if migration.created:
        print_plain(console, f"  {'would create' if dry_run else 'created'} {', '.join(migration.created)}")
