"""The runs in a storage: who works on each, and the files of its folder, so that it can be used from elsewhere.

One process at a time works on a run, under a lease. Whoever finds the lease of a run over may continue it.
Trials and the state of the search are in tables of Optuna and LangGraph; `run_files` has what a folder has beside them.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from agentopt.core.database import (
    Condition,
    check_names_file,
    create_tables,
    insert,
    open_engine,
    transact,
    without_password,
)
from agentopt.core.errors import ConfigError, JournalError
from agentopt.core.files import private_folder, write_atomically
from agentopt.core.unicode_text import database_text
from agentopt.core.yaml_models import did_you_mean
from agentopt.core.yaml_text import load_yaml, parse_yaml, to_yaml
from agentopt.models.lease import Lease
from agentopt.models.session import journal_place
from agentopt.runs.folder import RunFolder

TABLES = sa.MetaData()
stored_runs = sa.Table(
    "stored_runs",
    TABLES,
    sa.Column("run", sa.String(32), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("member", sa.String(32), nullable=False),
)
"""The runs, who began each, and the process that works on it. A process that ends by itself leaves none."""
run_files = sa.Table(
    "run_files",
    TABLES,
    sa.Column("run", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("changed", sa.Double, nullable=False),
)
"""The files of the runs' folders. `changed` counts the changes by processes that worked on the run in this storage; in
databases that had a time there, from that number on."""

FILES = (
    "config.yaml",
    "prompt_phases.json",
    "demos.json",
    "record.jsonl",
    "result.json",
    "best.yaml",
    "recommended.yaml",
)
"""The files of a run's folder that its readers and its continuation need. The log stays where it was written."""
KNOWN = ".stored.json"
"""The file of a run's folder with the digest of each file that was equal in the storage. A file that has another digest
there now was changed by another process; no clock is read, because those of two hosts may differ."""
NOBODY = ""
"""The member of a run that no process works on."""


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run in a storage.

    Attributes:
        run: Its id.
        name: Name of its folder.
        owner: The user who began it.
        host: The machine that worked on it last.
        created: When it began, in seconds since 1970.
        is_running: Whether a process works on it.
        is_orphaned: Whether the process that worked on it died.
        result: The content of `result.json`; None if it is not finished.
    """

    run: str
    name: str
    owner: str
    host: str
    created: float
    is_running: bool
    is_orphaned: bool
    result: str | None


def held_by(run: str, member: str) -> sa.Select[tuple[str]]:
    """Return a query that has a row, and locks it, as long as a process works on a run.

    Args:
        run: Id of the run.
        member: The process.
    """
    c = stored_runs.c
    return sa.select(c.run).where(c.run == run, c.member == member).with_for_update()


class RunStore:
    """The runs in one database. Its methods block.

    Args:
        engine: The database.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        create_tables(engine, TABLES)

    def runs(self, owner: str | None = None) -> list[StoredRun]:
        """Return the runs of a user, or of all, oldest first.

        Args:
            owner: The user; None for all.
        """
        c, of_run = stored_runs.c, run_files.c
        result = sa.and_(of_run.run == c.run, of_run.name == "result.json")
        query = sa.select(stored_runs, of_run.content).select_from(stored_runs.outerjoin(run_files, result))
        query = query.order_by(c.created, c.run)
        with self._engine.connect() as connection:
            live = Lease(self._engine, NOBODY).live(connection)
            rows = connection.execute(query if owner is None else query.where(c.owner == owner)).all()
        return [
            StoredRun(
                *(row.run, row.name, row.owner, row.host, row.created),
                is_running=row.member in live,
                is_orphaned=row.member not in (NOBODY, *live),
                result=row.content,
            )
            for row in rows
        ]

    def orphans(self) -> dict[str, str]:
        """Return the runs whose process died: id -> name."""
        c = stored_runs.c
        with self._engine.connect() as connection:
            live = Lease(self._engine, NOBODY).live(connection)
            rows = connection.execute(sa.select(c.run, c.name, c.member).where(c.member != NOBODY)).all()
        return {row.run: row.name for row in rows if row.member not in live}

    def take(self, run: RunFolder, lease: Lease) -> None:
        """Become the process that works on a run.

        Args:
            run: The run.
            lease: The lease of this process.

        Raises:
            ConfigError: Another process works on it.
        """
        now, me = time.time(), {"member": lease.member, "host": socket.gethostname()}
        row = {"run": run.id, "name": run.path.name, "owner": user(), "created": now, **me, "member": NOBODY}
        of_run = stored_runs.c.run == run.id

        def work(connection: sa.Connection) -> None:
            connection.execute(insert(self._engine, stored_runs).values(row).on_conflict_do_nothing())
            connection.execute(stored_runs.update().where(of_run).values(run=run.id))  # locks it
            found = connection.execute(sa.select(stored_runs).where(of_run)).one()
            if found.member in lease.live(connection) - {lease.member}:
                raise ConfigError(
                    f"another process works on this run, on {found.host}",
                    where=f"run {found.name}",
                    remedy="wait for it, or stop it; once it was killed, its lease ends within 15 seconds",
                )
            connection.execute(stored_runs.update().where(of_run).values(me))

        transact(self._engine, work)

    def release(self, run: str, member: str) -> None:
        """Stop working on a run.

        Args:
            run: Its id.
            member: The process.
        """
        own = sa.and_(stored_runs.c.run == run, stored_runs.c.member == member)
        transact(self._engine, lambda c: c.execute(stored_runs.update().where(own).values(member=NOBODY)))

    def write(self, run: str, member: str, name: str, content: str, *, is_copy: bool = False) -> bool:
        """Store a file of a run. Returns False, and stores nothing, if another process works on the run now.

        Args:
            run: Id of the run.
            member: The process.
            name: Name of the file.
            content: Its content.
            is_copy: Whether it is copied from a run that is not in this storage, which is no change here.
        """
        text, c = database_text(content), run_files.c
        own = held_by(run, member)
        upsert = insert(self._engine, run_files).values(run=run, name=name, content=text, changed=0 if is_copy else 1)
        upsert = upsert.on_conflict_do_update(
            index_elements=["run", "name"],
            set_={"content": text, "changed": 0 if is_copy else c.changed + 1},
            where=c.content != text,
        )

        def work(connection: sa.Connection) -> bool:
            if connection.execute(own).first() is None:
                return False
            connection.execute(upsert)
            return True

        return transact(self._engine, work)

    def check(self, condition: Condition) -> None:
        """Raise the failure of a condition, such as that a process works on a run, unless it holds."""
        transact(self._engine, condition.check)

    def changes(self, run: str) -> dict[str, int]:
        """Return the name of each file of a run, and how often processes that worked on it here changed it."""
        c = run_files.c
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(c.name, c.changed).where(c.run == run))
            return {row.name: int(row.changed) for row in found}

    def find(self, name: str) -> str:
        """Return the id of the run with this name or id: of several with one name, the newest.

        Raises:
            ConfigError: There is none.
        """
        c = stored_runs.c
        query = sa.select(c.run).where(sa.or_(c.name == name, c.run == name)).order_by(c.created.desc())
        with self._engine.connect() as connection:
            found = connection.execute(query).scalars().first()
            names = connection.execute(sa.select(c.name)).scalars().all() if found is None else ()
        if found is None:
            remedy = did_you_mean(name, names, "see `agentopt runs list --storage URL --all`")
            raise ConfigError(f"the storage has no run {name!r}", remedy=remedy)
        return str(found)

    def fetch(self, run: str, runs: Path, storage: str) -> Path:
        """Write the files of a run into its folder in the folder of runs, as `pull` does.

        Args:
            run: Id of the run.
            runs: The folder of runs.
            storage: The storage, as it is given to the run's later commands.

        Returns:
            The run's folder.

        Raises:
            ConfigError: The folder cannot be written.
        """
        with self._engine.connect() as connection:
            name = connection.execute(sa.select(stored_runs.c.name).where(stored_runs.c.run == run)).scalar_one()
        folder = _folder_of(run, name, runs)
        self.pull(run, folder, storage)
        return folder

    def pull(self, run: str, folder: Path, storage: str) -> None:
        """Write the files of a run into a folder, except for those that only this folder's processes changed.

        Args:
            run: Id of the run.
            folder: The run's folder.
            storage: As for `fetch`.

        Raises:
            ConfigError: The folder cannot be written.
        """
        with self._engine.connect() as connection:
            files = connection.execute(sa.select(run_files).where(run_files.c.run == run)).all()
        try:
            private_folder(folder)
            known = _known(folder)
            for file in files:
                path = folder / file.name
                if file.name in FILES and not (path.exists() and known.get(file.name) == _digest(file.content)):
                    is_config = file.name == "config.yaml"
                    write_atomically(path, _located(file.content, storage) if is_config else file.content)
                    remember(folder, file.name, file.content)
        except OSError as error:
            remedy = "set runs to a folder that can be written"
            raise ConfigError(f"the run cannot be written here: {error}", where=folder, remedy=remedy) from error

    def remove(self, run: str) -> None:
        """Remove a run and its files."""
        for table in (stored_runs, run_files):
            transact(self._engine, partial(_execute, sa.delete(table).where(table.c.run == run)))


def remember(folder: Path, name: str, content: str) -> None:
    """Note that a file of a run's folder and of its storage have the same content.

    Args:
        folder: The run's folder.
        name: Name of the file.
        content: Its content.
    """
    write_atomically(folder / KNOWN, json.dumps({**_known(folder), name: _digest(content)}))


def _known(folder: Path) -> dict[str, object]:
    """The digests in a folder; none if there are none, or if they are damaged: then the storage's files count."""
    try:
        found = json.loads((folder / KNOWN).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(content: str) -> str:
    return hashlib.sha256(database_text(content).encode()).hexdigest()


def _execute(statement: sa.Executable, connection: sa.Connection) -> None:
    connection.execute(statement)


def _folder_of(run: str, name: str, runs: Path) -> Path:
    """The folder of a run: of that name, unless that is another run's."""
    folder = runs / Path(name).name
    request = folder / "config.yaml"
    content = load_yaml(request, ConfigError) if request.is_file() else {"run": run}
    is_own = isinstance(content, dict) and content.get("run") == run
    return folder if is_own else folder.with_name(f"{folder.name}-{run[:8]}")


def _located(config: str, storage: str) -> str:
    """The content of a `config.yaml` with the URL by which the storage is reached from here."""
    request = parse_yaml(config, "config.yaml", ConfigError)
    place, settings = without_password(storage), request["config"]
    if settings.get("journal") == settings.get("storage"):
        settings["journal"] = place
    settings["storage"] = place
    return to_yaml(request)


def user() -> str:
    """Return the name of the user of this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container
        return str(os.getuid()) if hasattr(os, "getuid") else ""


@contextmanager
def open_store(storage: str) -> Iterator[tuple[RunStore, sa.Engine]]:
    """Open the runs of a storage, and its database; closed at the end of the block.

    Args:
        storage: A path or a SQLAlchemy URL.

    Raises:
        ConfigError: It cannot be opened, or is an SQLite database in memory.
        JournalError: It failed inside of the block.
    """
    check_names_file(storage)
    try:
        engine = open_engine(journal_place(storage))
        store = RunStore(engine)
    except (SQLAlchemyError, OSError) as error:
        rule = f"the storage cannot be used: {str(error).partition(chr(10))[0]}"
        remedy = "name a file that can be written, or a URL with a way to its password; a run's folder keeps none"
        raise ConfigError(rule, where=without_password(storage), remedy=remedy) from error
    try:
        yield store, engine
    except SQLAlchemyError as error:
        rule = f"the storage {without_password(storage)} failed: {str(error).partition(chr(10))[0]}"
        remedy = "see that it can be reached, and repeat the command; a run continues with `optimize --resume`"
        raise JournalError(f"{rule}\n  remedy: {remedy}") from error
    finally:
        engine.dispose()
