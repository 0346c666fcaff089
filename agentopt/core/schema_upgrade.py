"""Changes the tables of a database to those of the newest version, by the scripts in `core/migrations`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory

from agentopt.core.database import VERSIONS, lock_schema, unknown_version

FOLDER = Path(__file__).parent / "migrations"


@dataclass(frozen=True, slots=True)
class Step:
    """A change of the tables.

    Attributes:
        version: The version that it leads to.
        text: What it does, in one sentence.
    """

    version: str
    text: str


def version_of(connection: sa.Connection) -> str | None:
    """Return the version of the tables of a database; None if it has none, as those of agentopt 0.1.0."""
    return _context(connection).get_current_revision()


def steps_from(version: str | None, folder: Path = FOLDER) -> list[Step]:
    """Return the changes that lead from a version to the newest one, in order.

    Args:
        version: As `version_of` returned it.
        folder: The folder of the scripts.

    Raises:
        ConfigError: This version of agentopt does not know that version.
    """
    return [Step(script.revision, script.doc) for script in _scripts(version, folder)]


def upgrade(engine: sa.Engine, folder: Path = FOLDER) -> list[Step]:
    """Change the tables to those of the newest version, in one transaction.

    Args:
        engine: The database.
        folder: The folder of the scripts.

    Returns:
        The changes that were made.

    Raises:
        ConfigError: The tables are of a version that this version of agentopt does not know.
    """
    with engine.begin() as connection:
        lock_schema(connection)
        context = _context(connection)
        scripts = _scripts(context.get_current_revision(), folder)
        with Operations.context(context):
            for script in scripts:
                script.module.upgrade()
        if scripts:
            context.stamp(ScriptDirectory(folder), "head")
    return [Step(script.revision, script.doc) for script in scripts]


def _context(connection: sa.Connection) -> MigrationContext:
    return MigrationContext.configure(connection, opts={"version_table": VERSIONS.name})


def _scripts(version: str | None, folder: Path) -> list[Script]:
    directory = ScriptDirectory(folder)
    known = [script.revision for script in directory.walk_revisions()]
    if version is not None and version not in known:
        raise unknown_version(version)
    return [*directory.iterate_revisions("head", version or "base")][::-1]
