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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from platformdirs import user_data_path
from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from agentopt.core.budget import Usage
from agentopt.core.database import create_tables, open_engine
from agentopt.core.errors import ConfigError, UserError
from agentopt.core.yaml_models import as_error, did_you_mean, explain
from agentopt.jobs.jobfile import Job

WAITING, RUNNING, INTERRUPTED = "waiting", "running", "interrupted"
OPEN = (WAITING, RUNNING, INTERRUPTED)
"""The states of a run that has not ended: it is executed, or may be."""
_NO_RUN = ("skipped", "rolled back")
"""The states of entries in the history that are no runs."""

_tables = sa.MetaData()
_jobs = sa.Table(
    "jobs",
    _tables,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("folder", sa.Text, nullable=False),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("paused", sa.Boolean, nullable=False),
    sa.Column("last_due", sa.Double),
    sa.Column("world", sa.String(64), key="snapshot"),
    sa.Column("champion", sa.String(64)),
)
_runs = sa.Table(
    "runs",
    _tables,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("job", sa.String(64), nullable=False, index=True),
    sa.Column("due", sa.Double, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("owner", sa.String(32), nullable=False),
    sa.Column("lease", sa.Double, nullable=False),
    sa.Column("started", sa.Double, nullable=False),
    sa.Column("ended", sa.Double),
    sa.Column("folder", sa.Text),  # of each search, one a line
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("alarm", sa.Text),
    sa.Column("champion", sa.Integer),
    sa.Column("calls", sa.Integer, nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("usd", sa.Double, nullable=False),
    sa.UniqueConstraint("job", "due"),
)
_NOTHING = {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "usd": 0.0}


@dataclass(frozen=True, slots=True)
class KnownJob:
    """A stored job. Times are in seconds since the epoch.

    Attributes:
        job: The content of its file.
        folder: Where its relative paths start.
        since: When its schedule began.
        paused: Whether no due times are claimed.
        settled: Hash of the inputs and key of the champion for which the last outcome is final; None before.
        last_due: The last due time that was claimed.
    """

    job: Job
    folder: Path
    since: float
    paused: bool
    settled: tuple[str, str] | None
    last_due: float | None = None


@dataclass(frozen=True, slots=True)
class JobRun:
    """One entry of a job's history. Times are in seconds since the epoch.

    Attributes:
        id: Unique id.
        job: Name of the job.
        due: The time it was due.
        state: waiting, running, interrupted, promoted, kept, undecided, unchanged, refused, skipped, failed or rolled
            back.
        owner: Id of the process that executes it.
        lease: Until when it belongs to its owner.
        started: When it was claimed.
        ended: When it ended; None if it is open.
        folders: Run folders of its searches, the newest last.
        message: The reason of its state.
        alarm: Alarms of the champion; None without any.
        champion: Number of the champion after it.
        spent: Its spend.
    """

    id: str
    job: str
    due: float
    state: str
    owner: str
    lease: float
    started: float
    ended: float | None
    folders: tuple[Path, ...]
    message: str
    alarm: str | None
    champion: int | None
    spent: Usage

    @property
    def open(self) -> bool:
        return self.state in OPEN

    @property
    def folder(self) -> Path | None:
        """Run folder of its newest search."""
        return self.folders[-1] if self.folders else None


class JobStore:
    """The jobs and their runs in one database. Every method is one transaction; times are in seconds since the epoch.

    Args:
        url: SQLAlchemy URL. Missing tables are created.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = open_engine(url)
        create_tables(self._engine, _tables)

    def close(self) -> None:
        self._engine.dispose()

    # ---- jobs

    def put(self, job: Job, folder: Path, now: float) -> bool:
        """Add a job, or replace the file of the job with that name.

        A replaced job keeps its history and champion; a schedule that changed begins now.

        Returns:
            Whether the job is new.
        """
        values: dict[str, Any] = {"spec": job.model_dump_json(), "folder": str(folder.absolute())}
        with self._engine.begin() as connection:
            before = connection.execute(sa.select(_jobs.c.spec).where(_jobs.c.name == job.name)).scalar()
            if before is None:
                connection.execute(_jobs.insert().values(name=job.name, since=now, paused=False, **values))
                return True
            if json.loads(before)["schedule"] != job.schedule.model_dump(mode="json"):
                values["since"] = now
            connection.execute(_jobs.update().where(_jobs.c.name == job.name).values(**values))
            return False

    def jobs(self) -> list[KnownJob]:
        """Every job by name, except those that `unreadable` returns."""
        return [known for known in self._jobs().values() if isinstance(known, KnownJob)]

    def unreadable(self) -> dict[str, str]:
        """Jobs stored by an older version whose file no longer validates: name -> error."""
        return {name: str(known) for name, known in self._jobs().items() if isinstance(known, UserError)}

    def _jobs(self) -> dict[str, KnownJob | UserError]:
        with self._engine.connect() as connection:
            return {row.name: _read(row) for row in connection.execute(sa.select(_jobs).order_by(_jobs.c.name))}

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
            remedy = f"{did_you_mean(name, known)}; `agentopt jobs add FILE` adds one"
            raise UserError(f"there is no job named {name!r}", remedy=remedy)

    def pause(self, name: str, paused: bool, now: float) -> None:
        """Pause a job, or resume it from now; times missed during a pause are not made up for."""
        values = {"paused": paused} if paused else {"paused": paused, "since": now}
        with self._engine.begin() as connection:
            connection.execute(_jobs.update().where(_jobs.c.name == name, _jobs.c.paused != paused).values(**values))

    def remove(self, name: str) -> None:
        """Delete a job; its history is kept."""
        with self._engine.begin() as connection:
            connection.execute(_jobs.delete().where(_jobs.c.name == name))

    def settle(self, name: str, snapshot: str | None = None, champion: str | None = None) -> None:
        """Record the inputs and champion that the last outcome is final for. None keeps the recorded value."""
        given = {"snapshot": snapshot, "champion": champion}
        values = {column: value for column, value in given.items() if value is not None}
        with self._engine.begin() as connection:
            connection.execute(_jobs.update().where(_jobs.c.name == name).values(**values))

    # ---- runs

    def claim(self, name: str, due: float, now: float) -> JobRun | None:
        """Record a due time as a waiting run, or as a skipped one while another run of the job is open.

        Returns:
            The run; None if that or a later due time was claimed before, or the job is paused or deleted.
        """
        taken = _jobs.update().where(
            _jobs.c.name == name,
            _jobs.c.paused.is_(False),
            sa.or_(_jobs.c.last_due.is_(None), _jobs.c.last_due < due),
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
        """Record a run at a user's request, also of a paused job; it is skipped while another run is open."""
        with self._engine.begin() as connection:
            connection.execute(_jobs.update().where(_jobs.c.name == name).values(name=name))
            return self._enter(connection, name, now, now, {"state": RUNNING, "owner": owner, "lease": now + lease})

    def _enter(self, connection: sa.Connection, name: str, due: float, now: float, values: dict[str, Any]) -> JobRun:
        other = sa.select(_runs.c.started).where(_runs.c.job == name, _runs.c.state.in_(OPEN))
        busy = connection.execute(other).scalar()
        if busy is not None:
            values = {**values, "state": "skipped", "ended": now, "message": "the previous run has not ended"}
        row = {"id": uuid.uuid4().hex, "job": name, "due": due, "started": now, "message": "", **_NOTHING, **values}
        connection.execute(_runs.insert().values(**row))
        return _run(connection.execute(sa.select(_runs).where(_runs.c.id == row["id"])).one())

    def note(self, name: str, now: float, values: Mapping[str, Any]) -> None:
        """Record an entry of the history that is no run, such as a rollback."""
        row = {"id": uuid.uuid4().hex, "job": name, "due": now, "owner": "", "lease": now, "started": now, "ended": now}
        with self._engine.begin() as connection:
            connection.execute(_runs.insert().values(**row, **_NOTHING, **values))

    def renew(self, run: str, owner: str, until: float) -> bool:
        """Extend the lease. Returns False if the run has another owner or has ended."""
        return self._update(run, owner, {"lease": until})

    def holds(self, run: str, owner: str) -> bool:
        """Whether the run still belongs to the owner."""
        return self._update(run, owner, {"owner": owner})

    def note_folders(self, run: str, owner: str, folders: Sequence[Path]) -> None:
        """Record the run folders of the searches, so that a process that takes over can resume the last one."""
        self._update(run, owner, {"folder": "\n".join(map(str, folders))})

    def interrupt(self, run: str, owner: str, now: float, spent: Usage) -> None:
        """Release a run that has not ended; any process may take it over immediately."""
        self._update(run, owner, {"state": INTERRUPTED, "lease": now, **_spend(spent)})

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
        return self._update(run, owner, {"ended": now, **values, **_spend(spent)})

    def _update(self, run: str, owner: str, values: Mapping[str, Any]) -> bool:
        own = _runs.update().where(_runs.c.id == run, _runs.c.owner == owner, _runs.c.state == RUNNING)
        with self._engine.begin() as connection:
            return bool(connection.execute(own.values(**values)).rowcount)

    def open_runs(self, name: str | None = None) -> list[JobRun]:
        """Runs that have not ended, oldest first."""
        query = sa.select(_runs).where(_runs.c.state.in_(OPEN)).order_by(_runs.c.started)
        with self._engine.connect() as connection:
            return [_run(row) for row in connection.execute(query if name is None else query.where(_of(name)))]

    def take_over(self, run: JobRun, owner: str, now: float, lease: float) -> JobRun | None:
        """Change the owner of an open run.

        Returns:
            The run; None if its owner, state or lease has changed since `run` was read.
        """
        as_read = [getattr(_runs.c, name) == getattr(run, name) for name in ("id", "owner", "state", "lease")]
        values = {"owner": owner, "state": RUNNING, "lease": now + lease}
        with self._engine.begin() as connection:
            if connection.execute(_runs.update().where(*as_read).values(**values)).rowcount == 0:
                return None
            return _run(connection.execute(sa.select(_runs).where(_runs.c.id == run.id)).one())

    def run(self, run: str) -> JobRun:
        """The run of that id."""
        with self._engine.connect() as connection:
            return _run(connection.execute(sa.select(_runs).where(_runs.c.id == run)).one())

    def history(self, name: str, limit: int | None = None) -> list[JobRun]:
        """The runs of a job, newest first."""
        query = sa.select(_runs).where(_of(name)).order_by(_runs.c.started.desc(), _runs.c.due.desc()).limit(limit)
        with self._engine.connect() as connection:
            return [_run(row) for row in connection.execute(query)]

    def outcome_before(self, run: JobRun) -> JobRun | None:
        """The previous run of the same job that has ended."""
        others = (_of(run.job), _runs.c.id != run.id, _runs.c.state.not_in((*OPEN, *_NO_RUN)))
        query = sa.select(_runs).where(*others).order_by(_runs.c.started.desc(), _runs.c.due.desc()).limit(1)
        with self._engine.connect() as connection:
            return next(map(_run, connection.execute(query)), None)

    def spent_since(self, name: str, start: float, *, but: str = "") -> Usage:
        """Spend of the runs of a job that started at `start` or later, without the run with the id `but`."""
        sums = [sa.func.coalesce(sa.func.sum(_runs.c[column]), 0) for column in _NOTHING]
        with self._engine.connect() as connection:
            query = sa.select(*sums).where(_of(name), _runs.c.started >= start, _runs.c.id != but)
            return Usage(*connection.execute(query).one())


_ADD_AGAIN = "correct its file and `agentopt jobs add` it again, or `agentopt jobs remove` it"


def _of(name: str) -> sa.ColumnElement[bool]:
    return _runs.c.job == name


def _read(row: sa.Row[Any]) -> KnownJob | UserError:
    """The job of a row, or why it is not valid."""
    settled = (row.snapshot, row.champion) if row.snapshot and row.champion else None
    try:
        job = Job.model_validate_json(row.spec)
    except ValidationError as error:
        mistakes = [replace(m, remedy=_ADD_AGAIN) for m in explain(error, Job, json.loads(row.spec))]
        return as_error(mistakes, f"job {row.name}", ConfigError)
    return KnownJob(job, Path(row.folder), row.since, row.paused, settled, row.last_due)


def _run(row: sa.Row[Any]) -> JobRun:
    shared = {name: getattr(row, name) for name in JobRun.__dataclass_fields__ if name not in ("spent", "folders")}
    spent = Usage(*(getattr(row, name) for name in _NOTHING))
    return JobRun(**shared, folders=tuple(map(Path, (row.folder or "").splitlines())), spent=spent)


def _spend(spent: Usage) -> dict[str, float]:
    return {name: getattr(spent, name) for name in _NOTHING}


def data_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of jobs and champions: $AGENTOPT_DATA, or the user's data folder."""
    return Path(environ["AGENTOPT_DATA"]) if environ.get("AGENTOPT_DATA") else user_data_path("agentopt")


def open_store(url: str | None = None, environ: Mapping[str, str] = os.environ) -> JobStore:
    """Open the store.

    Args:
        url: SQLAlchemy URL; by default $AGENTOPT_JOBS_STORE, or `jobs.db` in the data folder.
        environ: The environment variables.

    Raises:
        ConfigError: The store cannot be opened.
    """
    place = url or environ.get("AGENTOPT_JOBS_STORE")
    try:
        if not place:
            file = data_folder(environ) / "jobs.db"
            file.parent.mkdir(parents=True, exist_ok=True)
            place = f"sqlite:///{file}"
        return JobStore(place)
    except (OSError, ImportError, SQLAlchemyError) as error:
        raise ConfigError(
            f"the jobs' store cannot be opened: {str(error).partition(chr(10))[0]}",
            remedy="name a file that can be written, or a SQLAlchemy URL whose driver is installed",
        ) from error
