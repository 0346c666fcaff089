"""The status of jobs as data: what `agentopt jobs list`, `show`, `history` and `run-now` print."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agentopt.core.budget import Usage
from agentopt.core.errors import UserError
from agentopt.jobs.caps import month_start
from agentopt.jobs.champion import Champion, Champions, champions_of
from agentopt.jobs.due_times import next_due
from agentopt.jobs.evidence_store import Challenger
from agentopt.jobs.promotion import spent, spent_in_all
from agentopt.jobs.store import JobStore
from agentopt.jobs.tables import JobRun, KnownJob


@dataclass(frozen=True, slots=True)
class PastRun:
    """One entry of a job's history. Times are in seconds since 1970.

    Attributes:
        id: Unique id.
        job: Name of the job.
        state: waiting, running, interrupted, promoted, kept, undecided, unchanged, refused, skipped, failed or rolled
            back.
        due: The time it was due.
        started: When it was claimed.
        ended: When it ended; None if it has not.
        message: The reason of its state.
        alarm: Alarms of the champion; None without any.
        champion: Number of the champion after it.
        folders: Run folders of its searches, the newest last.
        spent: Its spend.
    """

    id: str
    job: str
    state: str
    due: float
    started: float
    ended: float | None
    message: str
    alarm: str | None
    champion: int | None
    folders: tuple[str, ...]
    spent: Usage

    @classmethod
    def of(cls, run: JobRun) -> PastRun:
        """The entry without what only workers need."""
        same = {name: getattr(run, name) for name in cls.__dataclass_fields__ if name != "folders"}
        return cls(**same, folders=tuple(map(str, run.folders)))


@dataclass(frozen=True, slots=True)
class JobHistory:
    """The output of `agentopt jobs history --json`; the newest run first.

    Attributes:
        job: Name of the job.
        runs: Its runs, rollbacks included.
    """

    job: str
    runs: tuple[PastRun, ...]


@dataclass(frozen=True, slots=True)
class JobLine:
    """One job of `agentopt jobs list --json`. Times are in seconds since 1970.

    Attributes:
        name: Name of the job.
        schedule: Its cron expression, or `every` and its interval.
        time_zone: Time zone of the schedule, by its IANA name.
        paused: Whether its schedule is paused.
        next_time: When it runs next; a time in the past waits for a daemon. None if it is paused or never due again.
        last_run: The newest entry of its history.
        last_alarm: The newest run with an alarm, unless a later one measured everything again or changed the champion.
        champion: Number of its champion; None before the first.
        champion_error: Why the champion's file cannot be read; None if it can.
        usd_this_month: USD of the runs that started in this calendar month of the time zone.
    """

    name: str
    schedule: str
    time_zone: str
    paused: bool
    next_time: float | None
    last_run: PastRun | None
    last_alarm: PastRun | None
    champion: int | None
    champion_error: str | None
    usd_this_month: float

    @classmethod
    def of(cls, known: KnownJob, jobs: JobStore) -> JobLine:
        """The line of a stored job."""
        name, schedule = known.job.name, known.job.schedule
        runs, due = jobs.history(name), None if known.paused else next_due(known)
        alarm = last_alarm(runs)
        return cls(
            name,
            str(schedule),
            schedule.time_zone,
            known.paused,
            due.timestamp() if due else None,
            PastRun.of(runs[0]) if runs else None,
            PastRun.of(alarm) if alarm else None,
            *_current(champions_of(name)),
            jobs.spent_since(name, month_start(time.time(), schedule)).usd,
        )


@dataclass(frozen=True, slots=True)
class JobList:
    """The output of `agentopt jobs list --json`.

    Attributes:
        jobs: The jobs by name.
        unreadable: Name of a job whose stored file is not valid -> the error.
    """

    jobs: tuple[JobLine, ...]
    unreadable: dict[str, str]

    @classmethod
    def of(cls, jobs: JobStore) -> JobList:
        """All jobs of a store."""
        return cls(tuple(JobLine.of(known, jobs) for known in jobs.jobs()), jobs.unreadable())


@dataclass(frozen=True, slots=True)
class ChampionLine:
    """One champion of a job.

    Attributes:
        number: Its number, from 1.
        is_current: Whether it is in use.
        since: When it was last promoted or restored, in seconds since 1970; None for a file written by hand.
        reason: Why it was promoted.
        candidate: Subtask -> its model, number of samples and prompts, as in the champion's file.
        summary: The candidate in one line.
    """

    number: int
    is_current: bool
    since: float | None
    reason: str
    candidate: dict[str, dict[str, Any]]
    summary: str

    @classmethod
    def of(cls, champion: Champion, restored: float | None, *, is_current: bool) -> ChampionLine:
        """The line of an archived champion that was restored at a time, or never."""
        record, candidate = champion.record, champion.candidate
        times = [datetime.fromisoformat(record.time).timestamp()] if record.time else []
        since = max([*times, *([restored] if restored else [])], default=None)
        return cls(champion.number, is_current, since, record.reason, candidate.to_dict(), str(candidate))


@dataclass(frozen=True, slots=True)
class Drift:
    """What a job's canaries have measured on its champion.

    Attributes:
        rows: Rows drawn anew.
        runs: Runs that drew them.
        evidence: Evidence of drift (an e-value) after the last of them; None if it was not computed.
    """

    rows: int
    runs: int
    evidence: float | None

    @classmethod
    def of(cls, job: str, jobs: JobStore) -> Drift | None:
        """The evidence after the job's last canary; None before the first."""
        last = jobs.evidence.last_canary(job)
        if last is None:
            return None
        nights = jobs.evidence.of(job, last.subject, "canary")
        return cls(sum(len(night.scores) for night in nights), len(nights), last.evidence)


@dataclass(frozen=True, slots=True)
class JobDetails:
    """The output of `agentopt jobs show --json`.

    Attributes:
        job: The job.
        task: Its task folder.
        champion_file: The file that always has the current champion.
        canary: Share of the test rows that every run draws anew.
        drift: What the canaries have measured; None before the first.
        comparisons: Comparisons of a challenger with the champion that the job has opened.
        error: Probability that the job, over its whole life, promotes falsely.
        error_spent: The part of it that the comparisons have spent.
        evidence_needed: Evidence (an e-value) that the next comparison needs for a promotion.
        champions: All champions, the oldest first.
        challengers: The challengers of all champions by comparison, the oldest first.
    """

    job: JobLine
    task: str
    champion_file: str
    canary: float
    drift: Drift | None
    comparisons: int
    error: float
    error_spent: float
    evidence_needed: float
    champions: tuple[ChampionLine, ...]
    challengers: tuple[Challenger, ...]

    @classmethod
    def of(cls, known: KnownJob, jobs: JobStore) -> JobDetails:
        """The details of a stored job. Raises `CandidateError` if its champion's file is damaged."""
        name, champions = known.job.name, champions_of(known.job.name)
        opened, alpha = jobs.evidence.comparisons(name), 1 - known.job.promotion.confidence
        restored = {run.champion: run.started for run in jobs.history(name)[::-1] if run.state == "rolled back"}
        current = champions.current()
        return cls(
            JobLine.of(known, jobs),
            str(known.folder / known.job.task),
            str(champions.file),
            known.job.canary,
            Drift.of(name, jobs) if known.job.canary else None,
            opened,
            alpha,
            spent_in_all(opened, alpha),
            1 / spent(opened + 1, alpha),
            tuple(
                ChampionLine.of(
                    champions.get(number), restored.get(number), is_current=bool(current and current.number == number)
                )
                for number in champions.numbers()
            ),
            tuple(jobs.evidence.challengers(name)),
        )


def last_alarm(runs: Sequence[JobRun]) -> JobRun | None:
    """Return the newest run with an alarm, unless a later one measured everything again or changed the champion."""
    for run in runs:  # newest first
        if run.alarm or run.state in ("kept", "promoted", "rolled back"):
            return run if run.alarm else None
    return None


def _current(champions: Champions) -> tuple[int | None, str | None]:
    """Number of the current champion, and why its file cannot be read: the other jobs are listed nonetheless."""
    try:
        champion = champions.current()
    except UserError as error:
        return None, str(error)
    return (champion.number if champion else None), None
