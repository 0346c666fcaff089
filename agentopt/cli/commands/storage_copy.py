"""`agentopt storage copy`: everything of one database into another, without overwriting anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agentopt.cli.commands.storage import check_copyable, check_unused
from agentopt.cli.commands.storage_runs import CopiedRun, copy_run, copy_stored_runs
from agentopt.cli.output import print_json, print_plain
from agentopt.cli.storage_places import Place, databases_of, opened, place_of, run_of, shown_place, tables_of
from agentopt.core.database import create_tables, names_in
from agentopt.core.errors import ConfigError
from agentopt.core.message_text import counted
from agentopt.core.table_copy import Comparison, compare, copy_rows
from agentopt.models import budget_store, lease, shared_rate
from agentopt.models.journal_tables import flights
from agentopt.models.session import journal_place
from agentopt.runs.workers import chunks

PASSING = {
    *(
        table.name
        for group in (lease.TABLES, budget_store.TABLES, shared_rate.TABLES)
        for table in group.tables.values()
    ),
    *(flights.name, chunks.chunks.name, chunks.runs.name),
}
"""Tables whose rows belong to processes that run now, or are counted again from the ledger."""


@dataclass(frozen=True, slots=True)
class CopiedTable:
    """A table that was copied.

    Attributes:
        table: Its name.
        rows: Number of its rows in the source; the target has them, too.
        new: Number of those that it did not have before.
        sums: Column of numbers -> its sum over these rows, equal in both databases.
    """

    table: str
    rows: int
    new: int
    sums: dict[str, float]


@dataclass(frozen=True, slots=True)
class CopiedDatabase:
    """A database that was copied.

    Attributes:
        source: The database that was copied, without a password.
        target: The database that was written.
        tables: The tables that were copied.
    """

    source: str
    target: str
    tables: tuple[CopiedTable, ...]


@dataclass(frozen=True, slots=True)
class StorageCopy:
    """The output of `agentopt storage copy --json`.

    Attributes:
        databases: The databases whose tables were copied.
        runs: The runs that were copied.
    """

    databases: tuple[CopiedDatabase, ...]
    runs: tuple[CopiedRun, ...]


def copy_storage(source: str, target: str, settings: Sequence[str], console: Console, *, as_json: bool = False) -> None:
    """`agentopt storage copy`.

    Raises:
        ConfigError: The source has a problem that `storage check` reports, is in use, or has tables of another version;
            or the target has other values for a row.
    """
    to = place_of(target)
    run = run_of(source, settings)
    if run and run.storage:
        rule = f"the run is in the storage {shown_place(run.storage)}"
        raise ConfigError(rule, where=run.path, remedy="copy that storage")
    for found in databases_of(source, settings):
        with opened(found) as engine:  # before anything is written
            check_copyable(engine, found)
    place = journal_place(run.config.journal) if run else place_of(source)
    databases = () if run and isinstance(place, Path) and not place.exists() else (_copied(place, to),)
    copies = StorageCopy(databases, (copy_run(run, to),) if run else tuple(copy_stored_runs(place, to)))
    if as_json:
        print_json(copies)
        return
    for copied in copies.databases:
        _show(copied, console)
    for made in copies.runs:
        trials, states = counted(made.trials, "trial"), counted(made.checkpoints, "checkpoint")
        print_plain(console, f"run {made.run}: {trials}, {states}")


def _copied(source: Place, target: Place) -> CopiedDatabase:
    with opened(source) as engine:
        groups = _groups(engine, source)
        check_unused(engine)
    with opened(source) as engine, opened(target) as written:
        if _identity(engine) == _identity(written):
            raise ConfigError(
                "a database cannot be copied into itself", where=shown_place(source), remedy="name another"
            )
        tables = _created(groups, engine, written)
        before = [_checked(engine, written, table) for table in tables]
        for table, found in zip(tables, before, strict=True):
            if found.rows > found.found:
                copy_rows(engine, written, table)
        after = [_checked(engine, written, table) for table in tables]
        if incomplete := [found.table for found in after if not found.is_complete]:
            rule = f"{', '.join(incomplete)} changed while it was copied"
            raise ConfigError(rule, where=shown_place(source), remedy="end what uses it, then run the command again")
    pairs = zip(before, after, strict=True)
    copied = tuple(CopiedTable(new.table, new.rows, new.rows - old.found, new.sums) for old, new in pairs)
    return CopiedDatabase(shown_place(source), shown_place(target), copied)


def _groups(engine: sa.Engine, source: Place) -> list[sa.MetaData]:
    """The groups of tables of the source."""
    with engine.connect() as connection:
        groups = tables_of(connection)
    if not groups:
        rule = "the database has neither a journal nor jobs"
        remedy = "name another one as FROM; the trials of a run are copied with the run: give its name or folder"
        raise ConfigError(rule, where=shown_place(source), remedy=remedy)
    return groups


def _created(groups: Sequence[sa.MetaData], engine: sa.Engine, written: sa.Engine) -> list[sa.Table]:
    """Create the tables in the target, and return those to copy."""
    with engine.connect() as connection:
        present = names_in(connection)
    for group in groups:
        create_tables(written, group)
    return [t for group in groups for t in group.sorted_tables if t.name in present and t.name not in PASSING]


def _checked(engine: sa.Engine, written: sa.Engine, table: sa.Table) -> Comparison:
    found = compare(engine, written, table)
    if found.different:
        rule = f"the target has other values in {table.name} for {found.different}"
        remedy = "copy into an empty database, or `agentopt journal forget` one of the two"
        raise ConfigError(rule, where=shown_place(str(written.url)), remedy=remedy)
    return found


def _identity(engine: sa.Engine) -> tuple[object, ...]:
    url, file = engine.url, engine.url.database or ""
    if engine.dialect.name == "sqlite":
        return (str(Path(file).resolve()),)
    return url.host, url.port, url.database, *sorted(url.query.items())


def _show(copy: CopiedDatabase, console: Console) -> None:
    print_plain(console, f"{copy.source} -> {copy.target}")
    table = Table("table", "rows", "new")
    for found in copy.tables:
        table.add_row(escape(found.table), f"{found.rows:,}", f"{found.new:,}")
    console.print(table)
    print_plain(console, "the rows of both are equal")
