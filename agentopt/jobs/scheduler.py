"""The calendar: APScheduler with its SQLAlchemy job store. Says which job is due when, and runs nothing itself.

APScheduler 3 does not guard a store that two processes share: both may tell that the same time is due. That is
harmless here, because whoever is told claims the due time in `store` before doing anything about it. The calendar
itself is only a copy: `sync` brings it in line with the jobs that there are. Its timer must not die unheard: what it
meets is kept, and the next `sync` raises it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import sqlalchemy as sa
from apscheduler.executors.base import BaseExecutor
from apscheduler.job import Job as Entry
from apscheduler.jobstores.base import JobLookupError
from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger
from sqlalchemy.exc import SQLAlchemyError

from agentopt.core.database import open_engine
from agentopt.core.errors import AgentoptError
from agentopt.jobs.jobfile import Schedule, listed_fields
from agentopt.jobs.store import KnownJob

OnDue = Callable[[str, float], None]
"""(job, due time in seconds since the epoch). Must return at once."""

_NEVER_TOO_MANY = 1_000_000
"""Whether runs overlap is for the store to say, which also knows of other daemons."""


class CalendarError(AgentoptError):
    """The calendar stands still: it cannot tell when anything is due any more."""


class Calendar:
    """Tells `on_due` from the running event loop. A time that was missed, however often, is told once."""

    def __init__(self, url: str, on_due: OnDue) -> None:
        defaults = {"coalesce": True, "misfire_grace_time": None, "max_instances": _NEVER_TOO_MANY}
        self._scheduler = _Scheduler(
            jobstores={"default": _Store(engine=open_engine(url), tablename="calendar")},
            executors={"default": _Teller(on_due)},
            job_defaults=defaults,
            timezone=UTC,
        )

    def start(self, jobs: Sequence[KnownJob]) -> None:
        self._scheduler.start(paused=True)
        self.sync(jobs)
        self._scheduler.resume()

    def sync(self, jobs: Sequence[KnownJob]) -> None:
        """Enter the jobs that are new or whose schedule changed, drop those that are gone or paused, and look at once.

        The look matters: another process may have changed the store, of which APScheduler hears nothing. Raises
        `CalendarError` where the last look failed for another reason than the database.
        """
        if failure := self._scheduler.failure:
            raise CalendarError(f"the calendar stands still: {type(failure).__name__}: {failure}") from failure
        entered = {entry.id: entry for entry in self._scheduler.get_jobs()}
        wanted = {known.job.name: known for known in jobs if not known.paused}
        for name in entered.keys() - wanted.keys():
            _ignoring_loss(partial(self._scheduler.remove_job, name))
        for name, known in wanted.items():
            if name not in entered or tuple(entered[name].args) != _marks(known):
                self._enter(known)
        self._scheduler.wakeup()

    def close(self) -> None:
        self._scheduler.shutdown(wait=False)

    def _enter(self, known: KnownJob) -> None:
        first = next_time(known.job.schedule, known.since, datetime.fromtimestamp(known.since, UTC))
        self._scheduler.add_job(
            told,
            trigger(known.job.schedule, known.since),
            args=_marks(known),
            id=known.job.name,
            next_run_time=first,
            replace_existing=True,
        )


def told(*_: object) -> None:
    """What an entry of the calendar names, because it must name a function; it is never called (see `_Teller`)."""
    raise AssertionError("the calendar tells, it does not run")


def trigger(schedule: Schedule, since: float) -> BaseTrigger:
    """The APScheduler trigger of a schedule; an interval counts from `since`, the first time included."""
    if schedule.interval is not None:
        start = datetime.fromtimestamp(since, UTC)
        return IntervalTrigger(seconds=int(schedule.interval.total_seconds()), start_date=start, timezone=UTC)
    minute, hour, day, month, weekday = listed_fields(str(schedule.cron))
    often = any(field.startswith("*") for field in str(schedule.cron).split()[:2])
    kind = CronTrigger if often else _OncePerTime
    return kind(minute=minute, hour=hour, day=day, month=month, day_of_week=weekday, timezone=schedule.zone)


def next_time(schedule: Schedule, since: float, after: datetime) -> datetime | None:
    """The first due time at or after `after`; None where there is none, such as on 30 February."""
    found: datetime | None = trigger(schedule, since).get_next_fire_time(None, after.astimezone(schedule.zone))
    return found


def _marks(known: KnownJob) -> tuple[str, float]:
    """What tells that a job's schedule is the one that was entered."""
    return (known.job.schedule.model_dump_json(), known.since)


def _ignoring_loss(change: Callable[[], object]) -> None:
    """Another daemon on the same store may have dropped the entry first."""
    try:
        change()
    except JobLookupError:
        return


class _OncePerTime(CronTrigger):  # type: ignore[misc]  # APScheduler has no type hints
    """A time of day comes once, as crontab has it, also in the night that has the hour twice."""

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        found: datetime | None = super().get_next_fire_time(previous_fire_time, now)
        while found and found.fold:
            found = super().get_next_fire_time(found, found)
        return found


class _Scheduler(AsyncIOScheduler):  # type: ignore[misc]  # APScheduler has no type hints
    """APScheduler's timer is not set again where a look at the store raises; here the next `sync` looks again."""

    failure: Exception | None = None

    def _process_jobs(self) -> float | None:
        try:
            wait: float | None = super()._process_jobs()
        except SQLAlchemyError:  # a database that restarts
            return None
        except Exception as error:  # noqa: BLE001 - the event loop would only log it, and nothing would be due any more
            self.failure = error
            return None
        return wait


class _Store(SQLAlchemyJobStore):  # type: ignore[misc]  # APScheduler has no type hints
    """APScheduler's store, made fit for company: another daemon may create the table or drop an entry meanwhile, and
    APScheduler's timer does not survive such an error."""

    def start(self, scheduler: AsyncIOScheduler, alias: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.schema.CreateTable(self.jobs_t, if_not_exists=True))
            for index in self.jobs_t.indexes:
                connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))
        super().start(scheduler, alias)

    def update_job(self, job: Entry) -> None:
        _ignoring_loss(partial(super().update_job, job))


class _Teller(BaseExecutor):  # type: ignore[misc]  # APScheduler has no type hints
    """Hands on the job's name and its due time, which APScheduler's own executors keep from the function they call."""

    def __init__(self, on_due: OnDue) -> None:
        super().__init__()
        self._on_due = on_due

    def _do_submit_job(self, job: Entry, run_times: Sequence[Any]) -> None:
        self._on_due(job.id, run_times[-1].timestamp())
        # Nothing is under way here; without this APScheduler would count it as running.
        self._instances[job.id] -= 1
