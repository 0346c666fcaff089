"""The job file: which task is optimised again, when, for how much, and when a challenger takes the champion's place."""

from __future__ import annotations

import difflib
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from agentopt.core.errors import ConfigError
from agentopt.core.yaml_models import Strict, load_yaml, validate

EventName = Literal["promoted", "alarm", "failed", "refused", "undecided"]
LONGEST_WEEKS = 520
"""The longest interval: ten years. Far beyond it the next time has no date."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FIELDS = ("minute", "hour", "day of month", "month", "day of week")
_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_MONTHS = ("", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


_NO_ZONES = {"localtime", "Factory", "posixrules"}


def _text(pattern: str, rule: str, remedy: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise _mistake(rule, remedy)
        return value

    return AfterValidator(check)


def _mistake(rule: str, remedy: str) -> PydanticCustomError:
    return PydanticCustomError("job_rule", "{rule}", {"rule": rule, "remedy": remedy})


class Schedule(Strict):
    """When a job runs: `cron` or `every`, in a time zone."""

    cron: str | None = None
    """Five fields as crontab(5) has them: minute, hour, day of month, month, day of week (0 and 7 are Sunday)."""
    every: str | None = None
    """An interval such as `6h`. It counts from when the job was added, and the first run is due at once."""
    time_zone: str = "UTC"
    """Name in the IANA database; the month of `caps.per_month` is a month there too."""

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, value: str | None) -> str | None:
        return value if value is None else " ".join(_checked_fields(value))

    @field_validator("every", mode="before")
    @classmethod
    def _is_interval(cls, value: Any) -> Any:
        rule = "must be a whole number with s, m, h, d or w behind it"
        if isinstance(value, int) and value > 0 and value is not True:
            raise _mistake(rule, f"write {value}s for seconds")
        if isinstance(value, str) and not re.fullmatch(r"[1-9][0-9]{0,8}[smhdw]", value):
            raise _mistake(rule, "write it like 90s, 15m, 6h or 1d")
        if isinstance(value, str) and _seconds(value) > LONGEST_WEEKS * _SECONDS["w"]:
            raise _mistake(f"must be at most {LONGEST_WEEKS}w", "write it like 90s, 15m, 6h or 1d")
        return value

    @field_validator("time_zone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        if not _is_in_the_database(value):
            close = difflib.get_close_matches(value, available_timezones() - _NO_ZONES, n=3)
            remedy = f"did you mean {' or '.join(close)}?" if close else "write it like Europe/Berlin, or UTC"
            raise _mistake("must be a time zone of the IANA database", remedy)
        return value

    @model_validator(mode="after")
    def _one_of_both(self) -> Schedule:
        if (self.cron is None) == (self.every is None):
            raise _mistake("takes exactly one of cron and every", "keep the one that says when the job runs")
        return self

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    @property
    def interval(self) -> timedelta | None:
        """`every` as a length of time."""
        return timedelta(seconds=_seconds(self.every)) if self.every else None

    def __str__(self) -> str:
        return f"every {self.every}" if self.every else f"{self.cron} ({self.time_zone})"


def _seconds(interval: str) -> int:
    return int(interval[:-1]) * _SECONDS[interval[-1]]


def _is_in_the_database(zone: str) -> bool:
    """Folders of zones may hold more: what the machine is set to, placeholders, and each zone again with leap seconds,
    which other machines do not have or take for another."""
    if zone in _NO_ZONES or zone.startswith(("posix/", "right/")):
        return False
    try:
        ZoneInfo(zone)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        return False
    return True


def _checked_fields(text: str) -> list[str]:
    """The five fields. Raises what pydantic tells for a field out of its bounds."""
    fields = text.lower().split()
    if len(fields) != len(_FIELDS):
        raise _mistake(f"must have five fields ({', '.join(_FIELDS)})", 'write it like "0 3 * * 1-5"')
    for field, name, (low, high) in zip(fields, _FIELDS, _BOUNDS, strict=True):
        if not all(_fits(part, low, high, _names_of(name)) for part in field.split(",")):
            remedy = 'write numbers within the bounds, ranges, lists and steps, such as "1-5", "1,15" or "*/2"'
            raise _mistake(f"must have a {name} from {low} to {high}, but it says {field}", remedy)
    if not fields[2].startswith("*") and not fields[4].startswith("*"):
        # crontab(5) runs on either, most schedulers on both: what is written once should mean one thing everywhere.
        raise _mistake("must leave day of month or day of week open", "make two jobs of it")
    return fields


def _names_of(field: str) -> tuple[str, ...]:
    return {"month": _MONTHS, "day of week": _WEEKDAYS}.get(field, ())


def _fits(part: str, low: int, high: int, names: tuple[str, ...]) -> bool:
    """Whether one part of a field is `*`, a value or a range, perhaps with a step."""
    span, _, step = part.partition("/")
    if "/" in part and not (step.isdigit() and 0 < int(step) <= high - low and (span == "*" or "-" in span)):
        return False
    if span == "*":
        return True
    ends = [_number(end, names) for end in span.split("-")]
    known = [end for end in ends if end is not None and low <= end <= high]
    return len(known) == len(ends) <= 2 and known == sorted(known)


def _number(text: str, names: tuple[str, ...]) -> int | None:
    if text.isdigit():
        return int(text)
    return names.index(text) if text and text in names else None


def weekday_names(field: str) -> str:
    """A crontab day of week as names, which mean the same to every scheduler: `1-5` is `mon,tue,wed,thu,fri`.

    APScheduler counts from Monday and crontab from Sunday, so a number would be a day off.
    """
    if field == "*":
        return field
    return ",".join(dict.fromkeys(_WEEKDAYS[day] for day in _values(field, 0, 6, _WEEKDAYS)))


def listed_fields(cron: str) -> list[str]:
    """The five fields of a checked expression as lists, which mean the same to every scheduler; `*` stays.

    APScheduler drops the step behind a range of names, and the end of one that mixes names and numbers.
    """
    *fields, weekday = cron.split()
    listed = [
        field if field == "*" else ",".join(str(value) for value in _values(field, low, high, _names_of(name)))
        for field, name, (low, high) in zip(fields, _FIELDS, _BOUNDS, strict=False)
    ]
    return [*listed, weekday_names(weekday)]


def _values(field: str, low: int, high: int, names: tuple[str, ...]) -> list[int]:
    found: list[int] = []
    for part in field.split(","):
        span, _, step = part.partition("/")
        ends = [low, high] if span == "*" else [_number(end, names) or 0 for end in span.split("-")]
        found += range(ends[0], ends[-1] + 1, int(step or 1))
    return found


class RunCaps(Strict):
    """The most that one run of the job may take, within the caps of its configuration."""

    usd: Annotated[float, Field(ge=0)] | None = None
    tokens: Annotated[int, Field(ge=0)] | None = None
    calls: Annotated[int, Field(ge=0)] | None = None
    seconds: Annotated[float, Field(ge=0)] | None = None
    trials: Annotated[int, Field(ge=1)] | None = None


class MonthCaps(Strict):
    """The most that all runs of a calendar month may take; a run counts to the month it started in."""

    usd: Annotated[float, Field(ge=0)] | None = None
    tokens: Annotated[int, Field(ge=0)] | None = None
    calls: Annotated[int, Field(ge=0)] | None = None


class JobCaps(Strict):
    """Caps per run and per month."""

    per_run: RunCaps = RunCaps()
    per_month: MonthCaps = MonthCaps()


class PromotionRule(Strict):
    """When a challenger takes the champion's place: better on the test split, or as good and cheaper."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of the paired comparison on the test split, in both directions."""
    cheaper_by: Annotated[float, Field(gt=0, lt=1)] | None = 0.1
    """The share by which a challenger that cannot be told apart must be cheaper; null never promotes for cost."""


class WebhookTarget(Strict):
    """Where events are sent, signed as Standard Webhooks (standardwebhooks.com) says."""

    url: Annotated[str, _text(r"https?://[^\s/]\S*", "must be an http(s) address", "write it with https://")]
    secret_env: Annotated[
        str,
        _text(r"[A-Za-z_][A-Za-z0-9_]*", "must be the name of an environment variable", "write the name, without a $"),
    ]
    """The environment variable that holds the signing secret (`whsec_...`). The secret itself is in no file."""
    events: tuple[EventName, ...] = get_args(EventName)


class Job(Strict):
    """One job file. Paths are relative to the folder that the job was added in."""

    name: Annotated[
        str,
        _text(
            r"[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?",
            "must be lower-case letters, digits and dashes, at most 52",
            "write it like nightly-support",
        ),
    ]
    """Lower-case letters, digits and dashes: it names a folder, a systemd unit and a Kubernetes object."""
    task: Path
    """Task folder; it must have a test split."""
    config: tuple[str, ...] = ()
    """Files and `key=value` settings, as `agentopt optimize -c` takes them."""
    schedule: Schedule
    caps: JobCaps = JobCaps()
    promotion: PromotionRule = PromotionRule()
    warm_start: Annotated[int, Field(ge=0)] = 5
    """How many candidates of earlier runs are tried again first, beside the champion; at most half of the trials."""
    webhook: WebhookTarget | None = None

    @field_validator("config", mode="before")
    @classmethod
    def _one_will_do(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


def read_job(path: Path) -> Job:
    """The job in a file. Raises `ConfigError` that names file, key, rule, value and remedy."""
    return validate(Job, load_yaml(path, ConfigError), path, ConfigError)
