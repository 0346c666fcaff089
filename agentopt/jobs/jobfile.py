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
from agentopt.jobs import cron

EventName = Literal["promoted", "alarm", "failed", "refused", "undecided"]
LONGEST_WEEKS = 520
"""The longest interval: ten years. Far beyond it the next time has no date."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
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
        try:
            return None if value is None else cron.normalized(value)
        except ConfigError as error:
            raise _mistake(error.message, error.remedy or "") from error

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
