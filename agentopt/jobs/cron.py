"""Cron expressions: validation, next and previous times, on cronsim.

Accepted are the five fields of crontab(5) without its ambiguities, so that an expression means the same to this
package, to cron and to Kubernetes: no `L` or `#`, a step only after `*` or a range, and either the day of month or the
day of week left as `*`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

from cronsim import CronSim, CronSimError

from agentopt.core.errors import ConfigError

_FIELDS = {
    "minute": (0, 59),
    "hour": (0, 23),
    "day of month": (1, 31),
    "month": (1, 12),
    "day of week": (0, 7),
}
_PART = re.compile(r"(?P<span>\*|(?:\d{1,2}|[a-z]{3})(?P<end>-(?:\d{1,2}|[a-z]{3}))?)(?:/(?P<step>[1-9]\d?))?")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_ANY_TIME = datetime(2000, 1, 1, tzinfo=UTC)


def normalized(expression: str) -> str:
    """The expression in lower case with single spaces. Raises `ConfigError` if it is not valid."""
    fields = expression.lower().split()
    if len(fields) != len(_FIELDS):
        raise ConfigError(f"must have five fields ({', '.join(_FIELDS)})", remedy='write it like "0 3 * * 1-5"')
    found = [
        ",".join(_normalized_part(part, field, name) for part in field.split(","))
        for name, field in zip(_FIELDS, fields, strict=True)
    ]
    if not fields[2].startswith("*") and not fields[4].startswith("*"):
        # crontab(5) runs if either matches, most other schedulers only if both match.
        raise ConfigError("must leave day of month or day of week open", remedy="make two jobs of it")
    return " ".join(found)


def _normalized_part(part: str, field: str, name: str) -> str:
    """One part of a field's list. A range of one value loses its step: cronsim would take the range as open."""
    low, high = _FIELDS[name]
    match = _PART.fullmatch(part)
    values = _values(match["span"], name) if match else set()
    step = int((match and match["step"]) or 1)
    if not match or not values or step > high - low or (match["step"] and part[0] != "*" and not match["end"]):
        remedy = 'write numbers within the bounds, ranges, lists and steps, such as "1-5", "1,15" or "*/2"'
        raise ConfigError(f"the {name} must be from {low} to {high}, but got {field}", remedy=remedy)
    return part if len(values) > 1 else match["span"]


def _values(field: str, name: str) -> set[int]:
    """The values of one field; empty if it is not valid."""
    position = list(_FIELDS).index(name)
    try:
        times = CronSim(" ".join([*["*"] * position, field, *["*"] * (4 - position)]), _ANY_TIME)
    except CronSimError:
        return set()
    found = (times.minutes, times.hours, times.days, times.months, times.weekdays)[position]
    return {value for value in found if isinstance(value, int)}


def first_time(expression: str, after: datetime, zone: tzinfo) -> datetime | None:
    """The first time at or after `after`, in UTC; None if the expression never matches, such as 30 February.

    As in Debian's cron, an expression with a fixed minute and hour matches once in the night that has the hour twice,
    and right after the change in the night that lacks it.

    Args:
        expression: A valid cron expression.
        after: The earliest time, with a time zone.
        zone: The zone in which the expression is read.
    """
    try:
        # cronsim starts after the given second.
        times = CronSim(expression, (after - timedelta(microseconds=1)).astimezone(zone))
        # In the second of two equal hours, cronsim begins with a time of the first.
        return next((time for time in (t.astimezone(UTC) for t in times) if time >= after), None)
    except CronSimError:
        return None


def last_time(expression: str, until: datetime, zone: tzinfo) -> datetime | None:
    """The last time at or before `until`, in UTC; None if the expression never matches.

    Args:
        expression: A valid cron expression.
        until: The latest time, with a time zone.
        zone: The zone in which the expression is read.
    """
    try:
        # cronsim starts before the given second. The second is added in UTC: local arithmetic ignores clock changes.
        start = until.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1)
        times = CronSim(expression, start.astimezone(zone), reverse=True)
        return next((time for time in (t.astimezone(UTC) for t in times) if time <= until), None)
    except CronSimError:
        return None


def weekday_names(field: str) -> str:
    """A day-of-week field as a list of names: `5-7` is `sun,fri,sat`. Not every scheduler accepts 7 for Sunday."""
    if field == "*":
        return field
    return ",".join(_WEEKDAYS[day] for day in sorted({day % 7 for day in _values(field, "day of week")}))
