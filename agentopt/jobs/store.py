"""The database of jobs and their runs: due times, owners, leases, outcomes and spending.

A due time is claimed in one transaction before anything else is done, so two daemons on one store never run a job
twice. A claimed run waits in the store, so it is not lost with a process, and any daemon may execute it. The owner of a
run renews its lease; a run whose owner is dead may be taken over by one other process.

Any SQLAlchemy URL is accepted; the default is SQLite in WAL mode in the user's data folder.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from platformdirs import user_data_path
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from agentopt.core.budget import Usage
from agentopt.core.database import check_names_file, create_tables, open_engine, sqlite_url
from agentopt.core.errors import ConfigError, UserError
from agentopt.core.files import private_folder
from agentopt.core.yaml_models import did_you_mean
from agentopt.jobs.evidence_store import EvidenceStore
from agentopt.jobs.jobfile import Job
from agentopt.jobs.tables import (
    INTERRUPTED,
    JOBS,
    NOTHING_SPENT,
    OPEN,
    RUNNING,
    RUNS,
    TABLES,
    WAITING,
    JobRun,
    KnownJob,
    read_job_row,
    read_run_row,
    spend_columns,
)

_NO_RUN = ("skipped", "rolled back")
"""The states of entries in the history that are no runs."""


class JobStore:
    """The jobs and their runs in one database. Every method is one transaction; times are in seconds since the epoch.

    Args:
        url: SQLAlchemy URL. Missing tables are created.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = open_engine(url)
        create_tables(self._engine, TABLES)
        self.evidence = EvidenceStore(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    # ---- jobs

    def put(self, job: Job, folder: Path, now: float) -> bool:
        """Add a job, or replace the file of the job with that name.

        A replaced job keeps its history and champion; a schedule that changed begins now.

        Args:
            job: The job.
            folder: Where its relative paths start.
            now: The time now.

        Returns:
            Whether the job is new.
        """
        values: dict[str, Any] = {"spec": job.model_dump_json(), "folder": str(folder.absolute())}
        with self._engine.begin() as connection:
            before = connection.execute(sa.select(JOBS.c.spec).where(JOBS.c.name == job.name)).scalar()
            if before is None:
                connection.execute(JOBS.insert().values(name=job.name, since=now, paused=False, **values))
                return True
            if json.loads(before)["schedule"] != job.schedule.model_dump(mode="json"):
                values["since"] = now
            connection.execute(JOBS.update().where(JOBS.c.name == job.name).values(**values))
            return False

    def jobs(self) -> list[KnownJob]:
        """Every job by name, except those that `unreadable` returns."""
        return [known for known in self._jobs().values() if isinstance(known, KnownJob)]

    def unreadable(self) -> dict[str, str]:
        """Jobs stored by an older version whose file no longer validates: name -> error."""
        return {name: str(known) for name, known in self._jobs().items() if isinstance(known, UserError)}

    def _jobs(self) -> dict[str, KnownJob | UserError]:
        with self._engine.connect() as connection:
            return {row.name: read_job_row(row) for row in connection.execute(sa.select(JOBS).order_by(JOBS.c.name))}

    def job(self, name: str) -> KnownJob:
        """The job of that name. Raises `UserError` if it is unknown or its stored file is not valid."""
        self.check_name(name)
        known = self._jobs()[name]
        if isinstance(known, UserError):
            raise known
        return known

    def check_name(self, name: str) -> None:
        """Raise `UserError` if there is no job of that name."""
        known = self._jobs()
        if name not in known:
            adding = "`agentopt jobs add FILE` adds one"
            remedy = f"{did_you_mean(name, known)}; {adding}" if known else adding
            raise UserError(f"there is no job named {name!r}", remedy=remedy)

    def pause(self, name: str, paused: bool, now: float) -> None:
        """Pause a job, or resume it from now; times missed during a pause are not made up for.

        Args:
            name: Name of the job.
            paused: Whether it is paused from now on.
            now: The time now.
        """
        values = {"paused": paused} if paused else {"paused": paused, "since": now}
        with self._engine.begin() as connection:
            connection.execute(JOBS.update().where(JOBS.c.name == name, JOBS.c.paused != paused).values(**values))

    def remove(self, name: str) -> None:
        """Delete a job; its history is kept."""
        with self._engine.begin() as connection:
            connection.execute(JOBS.delete().where(JOBS.c.name == name))

    def settle(self, name: str, snapshot: str | None = None, champion: str | None = None) -> None:
        """Record the inputs and champion that the last outcome is final for. None keeps the recorded value.

        Args:
            name: Name of the job.
            snapshot: Hash of the inputs.
            champion: Key of the champion.
        """
        given = {"snapshot": snapshot, "champion": champion}
        values = {column: value for column, value in given.items() if value is not None}
        with self._engine.begin() as connection:
            connection.execute(JOBS.update().where(JOBS.c.name == name).values(**values))

    # ---- runs

    def claim(self, name: str, due: float, now: float) -> JobRun | None:
        """Record a due time as a waiting run, or as a skipped one while another run of the job is open.

        Args:
            name: Name of the job.
            due: The due time.
            now: The time now.

        Returns:
            The run; None if that or a later due time was claimed before, or the job is paused or deleted.
        """
        taken = JOBS.update().where(
            JOBS.c.name == name,
            JOBS.c.paused.is_(False),
            sa.or_(JOBS.c.last_due.is_(None), JOBS.c.last_due < due),
        )
        try:
            with self._engine.begin() as connection:
                # The update comes first: it takes the lock on which other claims of this job wait.
                if connection.execute(taken.values(last_due=due)).rowcount == 0:
                    return None
                return self._enter(connection, name, due, now, {"state": WAITING, "owner": "", "lease": now})
        except IntegrityError:
            return None

    def claim_now(self, name: str, owner: str, now: float, lease: float) -> JobRun:
        """Record a run at a user's request, also of a paused job; it is skipped while another run is open.

        Args:
            name: Name of the job.
            owner: Id of the worker that executes the run.
            now: The time now.
            lease: Seconds until another worker may take the run over.
        """
        with self._engine.begin() as connection:
            connection.execute(JOBS.update().where(JOBS.c.name == name).values(name=name))
            return self._enter(connection, name, now, now, {"state": RUNNING, "owner": owner, "lease": now + lease})

    def _enter(self, connection: sa.Connection, name: str, due: float, now: float, values: dict[str, Any]) -> JobRun:
        other = sa.select(RUNS.c.started).where(RUNS.c.job == name, RUNS.c.state.in_(OPEN))
        busy = connection.execute(other).scalar()
        if busy is not None:
            values = {**values, "state": "skipped", "ended": now, "message": "the previous run has not ended"}
        row = {
            "id": uuid.uuid4().hex,
            "job": name,
            "due": due,
            "started": now,
            "message": "",
            **NOTHING_SPENT,
            **values,
        }
        connection.execute(RUNS.insert().values(**row))
        return read_run_row(connection.execute(sa.select(RUNS).where(RUNS.c.id == row["id"])).one())

    def note(self, name: str, now: float, values: Mapping[str, Any]) -> None:
        """Record an entry of the history that is no run, such as a rollback.

        Args:
            name: Name of the job.
            now: The time now.
            values: Column -> value of the entry.
        """
        row = {"id": uuid.uuid4().hex, "job": name, "due": now, "owner": "", "lease": now, "started": now, "ended": now}
        with self._engine.begin() as connection:
            connection.execute(RUNS.insert().values(**row, **NOTHING_SPENT, **values))

    def renew(self, run: str, owner: str, until: float) -> bool:
        """Extend the lease. Returns False if the run has another owner or has ended.

        Args:
            run: Id of the run.
            owner: Id of its worker.
            until: The new end of the lease.
        """
        return self._update(run, owner, {"lease": until})

    def holds(self, run: str, owner: str) -> bool:
        """Whether the run still belongs to the owner."""
        return self._update(run, owner, {"owner": owner})

    def note_folders(self, run: str, owner: str, folders: Sequence[Path]) -> None:
        """Record the run folders of the searches, so that a process that takes over can resume the last one.

        Args:
            run: Id of the run.
            owner: Id of its worker.
            folders: The run folders, oldest first.
        """
        self._update(run, owner, {"folder": "\n".join(map(str, folders))})

    def interrupt(self, run: str, owner: str, now: float, spent: Usage) -> None:
        """Release a run that has not ended; any process may take it over immediately.

        Args:
            run: Id of the run.
            owner: Id of its worker.
            now: The time now.
            spent: Usage of the run so far.
        """
        self._update(run, owner, {"state": INTERRUPTED, "lease": now, **spend_columns(spent)})

    def finish(self, run: str, owner: str, now: float, values: Mapping[str, Any], spent: Usage) -> bool:
        """Record the outcome of a run.

        Args:
            run: Its id.
            owner: Its owner.
            now: The time.
            values: Columns: state, message, alarm, champion.
            spent: Its spend.

        Returns:
            False if another process has taken it over.
        """
        return self._update(run, owner, {"ended": now, **values, **spend_columns(spent)})

    def _update(self, run: str, owner: str, values: Mapping[str, Any]) -> bool:
        own = RUNS.update().where(RUNS.c.id == run, RUNS.c.owner == owner, RUNS.c.state == RUNNING)
        with self._engine.begin() as connection:
            return bool(connection.execute(own.values(**values)).rowcount)

    def open_runs(self, name: str | None = None) -> list[JobRun]:
        """Runs that have not ended, oldest first."""
        query = sa.select(RUNS).where(RUNS.c.state.in_(OPEN)).order_by(RUNS.c.started)
        with self._engine.connect() as connection:
            return [read_run_row(row) for row in connection.execute(query if name is None else query.where(_of(name)))]

    def take_over(self, run: JobRun, owner: str, now: float, lease: float) -> JobRun | None:
        """Change the owner of an open run.

        Args:
            run: The run.
            owner: Id of the new worker.
            now: The time now.
            lease: Seconds until another worker may take the run over.

        Returns:
            The run; None if its owner, state or lease has changed since `run` was read.
        """
        as_read = [getattr(RUNS.c, name) == getattr(run, name) for name in ("id", "owner", "state", "lease")]
        values = {"owner": owner, "state": RUNNING, "lease": now + lease}
        with self._engine.begin() as connection:
            if connection.execute(RUNS.update().where(*as_read).values(**values)).rowcount == 0:
                return None
            return read_run_row(connection.execute(sa.select(RUNS).where(RUNS.c.id == run.id)).one())

    def run(self, run: str) -> JobRun:
        """The run of that id."""
        with self._engine.connect() as connection:
            return read_run_row(connection.execute(sa.select(RUNS).where(RUNS.c.id == run)).one())

    def history(self, name: str, limit: int | None = None) -> list[JobRun]:
        """The runs of a job, newest first."""
        query = sa.select(RUNS).where(_of(name)).order_by(RUNS.c.started.desc(), RUNS.c.due.desc()).limit(limit)
        with self._engine.connect() as connection:
            return [read_run_row(row) for row in connection.execute(query)]

    def outcome_before(self, run: JobRun) -> JobRun | None:
        """The previous run of the same job that has ended."""
        others = (_of(run.job), RUNS.c.id != run.id, RUNS.c.state.not_in((*OPEN, *_NO_RUN)))
        query = sa.select(RUNS).where(*others).order_by(RUNS.c.started.desc(), RUNS.c.due.desc()).limit(1)
        with self._engine.connect() as connection:
            return next(map(read_run_row, connection.execute(query)), None)

    def spent_since(self, name: str, start: float, *, but: str = "") -> Usage:
        """Spend of the runs of a job that started at `start` or later, without the run with the id `but`.

        Args:
            name: Name of the job.
            start: Start of the period.
            but: Id of a run that does not count.
        """
        sums = [sa.func.coalesce(sa.func.sum(RUNS.c[column]), 0) for column in NOTHING_SPENT]
        with self._engine.connect() as connection:
            query = sa.select(*sums).where(_of(name), RUNS.c.started >= start, RUNS.c.id != but)
            return Usage(*connection.execute(query).one())


def _of(name: str) -> sa.ColumnElement[bool]:
    return RUNS.c.job == name


def data_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of jobs and champions: $AGENTOPT_DATA, or the user's data folder."""
    return Path(environ["AGENTOPT_DATA"]) if environ.get("AGENTOPT_DATA") else user_data_path("agentopt")


def open_store(url: str | None = None, environ: Mapping[str, str] = os.environ) -> JobStore:
    """Open the store.

    Args:
        url: SQLAlchemy URL; by default the one in $AGENTOPT_JOBS_STORE, $AGENTOPT_STORAGE, which may be a file, too, or
            `jobs.db` in the data folder.
        environ: The environment variables.

    Raises:
        ConfigError: The store cannot be opened, or is an SQLite database in memory.
    """
    place = url or environ.get("AGENTOPT_JOBS_STORE")
    try:
        if not place:
            place = environ.get("AGENTOPT_STORAGE") or str(data_folder(environ) / "jobs.db")
            if "://" not in place:  # the storage may be a file, but what is named as a URL must be one
                file = Path(place).absolute()
                private_folder(file.parent)
                place = sqlite_url(file)
        check_names_file(place)
        return JobStore(place)
    except (OSError, ImportError, UnicodeDecodeError, SQLAlchemyError) as error:
        raise ConfigError(
            f"the jobs' store cannot be opened: {str(error).partition(chr(10))[0]}",
            remedy="name a file that can be written, or a SQLAlchemy URL whose driver is installed",
        ) from error
