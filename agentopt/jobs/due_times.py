"""When jobs are due, computed from their schedules and from the records of the store."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from agentopt.jobs import cron
from agentopt.jobs.jobfile import Schedule
from agentopt.jobs.tables import KnownJob

_STRICTLY_LATER = 1e-3
"""Seconds. Times of schedules are at least a second apart."""


def next_time(schedule: Schedule, since: float, after: datetime) -> datetime | None:
    """The first time of a schedule at or after `after`.

    Args:
        schedule: A cron expression or an interval.
        since: When the schedule began, in seconds since the epoch. Intervals count from here, this time included.
        after: Any aware time.

    Returns:
        The time in UTC, or None if there is none, such as on 30 February.
    """
    if schedule.interval is None:
        return cron.first_time(str(schedule.cron), after, schedule.zone)
    start = datetime.fromtimestamp(since, UTC)
    return start + max(0, math.ceil((after - start) / schedule.interval)) * schedule.interval


def next_due(known: KnownJob) -> datetime | None:
    """The first time of a job's schedule that has not been claimed yet, whether it is past or not."""
    after = max(known.since, (known.last_due or 0.0) + _STRICTLY_LATER)
    return next_time(known.job.schedule, known.since, datetime.fromtimestamp(after, UTC))


def due_time(known: KnownJob, now: float) -> float | None:
    """The time that a job is due for at `now`; None if it is paused or nothing is due.

    Times that were missed, such as while no daemon ran, are coalesced into the last of them. All times are in seconds
    since the epoch.
    """
    first, moment = next_due(known), datetime.fromtimestamp(now, UTC)
    if known.paused or first is None or first > moment:
        return None
    return max(first, _last_time(known, moment) or first).timestamp()


def _last_time(known: KnownJob, until: datetime) -> datetime | None:
    schedule, start = known.job.schedule, datetime.fromtimestamp(known.since, UTC)
    if schedule.interval is None:
        return cron.last_time(str(schedule.cron), until, schedule.zone)
    return start + (until - start) // schedule.interval * schedule.interval


def seconds_to_next(known: KnownJob, now: float) -> float:
    """How long until a job is due; infinite if it is paused or never due again."""
    due = None if known.paused else next_due(known)
    return math.inf if due is None else (due - datetime.fromtimestamp(now, UTC)) / timedelta(seconds=1)
