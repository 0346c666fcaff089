"""The databases that an argument of `agentopt storage` means, and the tables that each may have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from agentopt.cli.run_names import run_path
from agentopt.core.database import check_names_file, names_in, open_engine, without_password
from agentopt.core.errors import ConfigError
from agentopt.core.extras import install_command
from agentopt.models import budget_store, journal_tables, lease, shared_rate
from agentopt.models.session import journal_place
from agentopt.runs import run_store
from agentopt.runs.folder import RunFolder
from agentopt.runs.workers import chunks

SQLITE = b"SQLite format 3\0"
"""How a database file begins."""
OF_JOBS = {"jobs", "runs"}
"""Tables that only the jobs' database has, since version 0.1.0."""

Place = Path | str


def databases_of(argument: str, settings: Sequence[str]) -> list[Place]:
    """Return the databases: the one that a URL or a path names, or those of a run.

    Args:
        argument: A SQLAlchemy URL, a database file, or the name or folder of a run.
        settings: `-c` options; they override the settings of a run.

    Raises:
        ConfigError: There is neither.
    """
    run = run_of(argument, settings)
    if run is None:
        return [place_of(argument)]
    places = dict.fromkeys((journal_place(run.config.journal), run.trials.database, run.checkpoints[0]))
    return [place for place in places if not isinstance(place, Path) or is_database(place)]


def place_of(argument: str) -> Place:
    """Return the database that a URL or a path names.

    Args:
        argument: A SQLAlchemy URL, or the path of a database file.

    Raises:
        ConfigError: The URL names no file, so that the database would be in memory and lost at the end.
    """
    check_names_file(argument)
    return argument if "://" in argument else Path(argument)


def is_database(path: Path) -> bool:
    """Whether a file is an SQLite database."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(len(SQLITE)) == SQLITE
    return False


def run_of(argument: str, settings: Sequence[str]) -> RunFolder | None:
    """Return the run with this name or folder; None if the argument is a URL or a database file.

    Args:
        argument: As for `databases_of`.
        settings: `-c` options.

    Raises:
        ConfigError: There is no such run.
    """
    if "://" in argument or is_database(Path(argument)):
        return None
    if Path(argument).is_file():
        remedy = "name a database file, a URL, or a run's name or folder"
        raise ConfigError("this file is not an SQLite database", where=argument, remedy=remedy)
    return RunFolder.open(run_path(Path(argument), settings, otherwise="give a URL, or the path of a database file"))


def shown_place(place: Place) -> str:
    """Return a database for messages, without a password."""
    return without_password(str(place))


@contextmanager
def opened(place: Place) -> Iterator[sa.Engine]:
    """Open a database; it is closed at the end of the block.

    Raises:
        ConfigError: It cannot be used.
    """
    try:
        engine = open_engine(place)
        try:
            yield engine
        finally:
            engine.dispose()
    except (SQLAlchemyError, OSError) as error:
        rule = f"the database cannot be used: {str(error).partition(chr(10))[0]}"
        raise ConfigError(rule, where=shown_place(place), remedy="check the URL, or name another database") from error


def tables_of(connection: sa.Connection) -> list[sa.MetaData]:
    """Return the groups of tables that a database has, or should have: those of which it has one."""
    modules = (journal_tables, lease, budget_store, shared_rate, chunks, run_store)
    groups = [module.TABLES for module in modules]
    present = names_in(connection)
    if present >= OF_JOBS:
        groups.append(_tables_of_jobs())
    return [group for group in groups if present & group.tables.keys()]


def _tables_of_jobs() -> sa.MetaData:
    try:
        from agentopt.jobs import tables
    except ModuleNotFoundError as error:
        rule = f"the database has jobs, which need {error.name}"
        raise ConfigError(rule, remedy=install_command("jobs")) from error
    return tables.TABLES
