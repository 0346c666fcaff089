"""The tables of the jobs' database, and the records that are read from them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.dialects.mysql import MEDIUMTEXT

from agentopt.core.budget import Usage
from agentopt.core.errors import ConfigError, UserError
from agentopt.core.yaml_models import as_error, explain
from agentopt.jobs.jobfile import Job

WAITING, RUNNING, INTERRUPTED = "waiting", "running", "interrupted"
OPEN = (WAITING, RUNNING, INTERRUPTED)
"""The states of a run that has not ended: it is executed, or may be."""

TABLES = sa.MetaData()
JOBS = sa.Table(
    "jobs",
    TABLES,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("folder", sa.Text, nullable=False),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("paused", sa.Boolean, nullable=False),
    sa.Column("last_due", sa.Double),
    sa.Column("world", sa.String(64), key="snapshot"),
    sa.Column("champion", sa.String(64)),
)
RUNS = sa.Table(
    "runs",
    TABLES,
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
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("completion_tokens", sa.BigInteger, nullable=False),
    sa.Column("usd", sa.Double, nullable=False),
    sa.UniqueConstraint("job", "due"),
)
SCORES = sa.Table(
    "scores",
    TABLES,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("job", sa.String(64), nullable=False, index=True),
    sa.Column("subject", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("slot", sa.String(32), nullable=False),
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("evidence", sa.Double),
    sa.Column("scores", sa.Text().with_variant(MEDIUMTEXT(), "mysql"), nullable=False),
    sa.UniqueConstraint("job", "subject", "kind", "slot"),
)
"""Measurements: row key -> score as JSON. The tables of version 0.1.0 are the two above."""
COMPARISONS = sa.Table(
    "comparisons",
    TABLES,
    sa.Column("job", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("challenger", sa.String(64), nullable=False),
    sa.Column("champion", sa.String(64), nullable=False),
    sa.Column("time", sa.Double, nullable=False),
    sa.UniqueConstraint("job", "challenger", "champion"),
)
"""Every comparison that a job has opened, by number; each has its part of the error that the job may make."""
CHALLENGERS = sa.Table(
    "challengers",
    TABLES,
    sa.Column("job", sa.String(64), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("champion", sa.Integer, nullable=False),
    sa.Column("time", sa.Double, nullable=False),
    sa.Column("candidate", sa.Text().with_variant(MEDIUMTEXT(), "mysql"), nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("mean", sa.Double, nullable=False),
    sa.Column("better", sa.Double, nullable=False),
    sa.Column("non_inferior", sa.Double, nullable=False),
    sa.Column("needed", sa.Double, nullable=False),
    sa.Column("finding", sa.Text, nullable=False),
)
"""The challenger of each comparison, with what was found when it was last compared."""
NOTHING_SPENT = {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "usd": 0.0}


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


_ADD_AGAIN = "correct its file and `agentopt jobs add` it again, or `agentopt jobs remove` it"


def read_job_row(row: sa.Row[Any]) -> KnownJob | UserError:
    """The job of a row, or why it is not valid."""
    settled = (row.snapshot, row.champion) if row.snapshot and row.champion else None
    try:
        job = Job.model_validate_json(row.spec)
    except ValidationError as error:
        mistakes = [replace(m, remedy=_ADD_AGAIN) for m in explain(error, Job, json.loads(row.spec))]
        return as_error(mistakes, f"job {row.name}", ConfigError)
    return KnownJob(job, Path(row.folder), row.since, row.paused, settled, row.last_due)


def read_run_row(row: sa.Row[Any]) -> JobRun:
    shared = {name: getattr(row, name) for name in JobRun.__dataclass_fields__ if name not in ("spent", "folders")}
    spent = Usage(*(getattr(row, name) for name in NOTHING_SPENT))
    folders = tuple(Path(folder) for folder in (row.folder or "").split("\n") if folder)
    return JobRun(**shared, folders=folders, spent=spent)


def spend_columns(spent: Usage) -> dict[str, float]:
    return {name: getattr(spent, name) for name in NOTHING_SPENT}
