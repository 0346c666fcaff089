"""The job file: the task, its schedule, its caps, and the settings of promotion and webhooks."""

from __future__ import annotations

import difflib
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from agentopt.core.database import without_password
from agentopt.core.errors import ConfigError
from agentopt.core.yaml_models import Strict, validate
from agentopt.core.yaml_text import load_yaml
from agentopt.jobs import cron
from agentopt.jobs.drift import CANARY_SHARE

EventName = Literal["promoted", "alarm", "failed", "refused", "undecided"]
LONGEST_WEEKS = 520
"""The longest interval: ten years. Dates far beyond it cannot be represented."""

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
    """An interval such as `6h`. It counts from when the job was added; the first run is due immediately."""
    time_zone: str = "UTC"
    """Name in the IANA database. Months of `caps.per_month` are calendar months in it too."""

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
        rule = "must be a whole number followed by s, m, h, d or w"
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
            raise _mistake("takes exactly one of cron and every", "keep one of them")
        return self

    @property
    def zone(self) -> ZoneInfo:
        """The time zone."""
        return ZoneInfo(self.time_zone)

    @property
    def interval(self) -> timedelta | None:
        """`every` as a duration; None for a cron expression."""
        return timedelta(seconds=_seconds(self.every)) if self.every else None

    def __str__(self) -> str:
        return f"every {self.every}" if self.every else f"{self.cron} ({self.time_zone})"


def _seconds(interval: str) -> int:
    return int(interval[:-1]) * _SECONDS[interval[-1]]


def _is_in_the_database(zone: str) -> bool:
    """Whether a zone is in the IANA database.

    Folders of zones also contain the machine's zone, placeholders and variants with leap seconds, which others lack.
    """
    if zone in _NO_ZONES or zone.startswith(("posix/", "right/")):
        return False
    try:
        ZoneInfo(zone)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        return False
    return True


class RunCaps(Strict):
    """Caps of one run, in addition to those of the configuration."""

    usd: Annotated[float, Field(ge=0)] | None = None
    """Most USD."""
    tokens: Annotated[int, Field(ge=0)] | None = None
    """Most tokens, of prompts and completions."""
    calls: Annotated[int, Field(ge=0)] | None = None
    """Most model calls."""
    seconds: Annotated[float, Field(ge=0)] | None = None
    """Most seconds."""
    trials: Annotated[int, Field(ge=1)] | None = None
    """Most trials."""


class MonthCaps(Strict):
    """Caps of all runs that start in a calendar month."""

    usd: Annotated[float, Field(ge=0)] | None = None
    """Most USD."""
    tokens: Annotated[int, Field(ge=0)] | None = None
    """Most tokens, of prompts and completions."""
    calls: Annotated[int, Field(ge=0)] | None = None
    """Most model calls."""


class JobCaps(Strict):
    """Caps per run and per month."""

    per_run: RunCaps = RunCaps()
    per_month: MonthCaps = MonthCaps()


class PromotionRule(Strict):
    """Settings of the promotions; see `evidence.PromotionRules`."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Probability that a job, over its whole life, never promotes falsely. Also the confidence of the alarms."""
    cheaper_by: Annotated[float, Field(gt=0, lt=1)] | None = 0.1
    """Share of the champion's cost that a challenger must save to be promoted for it; null never promotes for cost."""
    margin: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Score that a cheaper challenger may lose against the anchor."""
    max_cost_ratio: Annotated[float, Field(gt=0)] | None = 1.5
    """Most that a promoted challenger costs, relative to the job's first champion; null sets no limit."""


class WebhookTarget(Strict):
    """Receiver of events, which are signed according to Standard Webhooks (standardwebhooks.com)."""

    url: Annotated[str, _text(r"https?://[^\s/]\S*", "must be an http(s) address", "write it with https://")]
    """Its address, with http or https."""
    secret_env: Annotated[
        str,
        _text(r"[A-Za-z_][A-Za-z0-9_]*", "must be the name of an environment variable", "write the name, without a $"),
    ]
    """Environment variable of the signing secret (`whsec_...`). The secret itself is in no file."""
    events: tuple[EventName, ...] = get_args(EventName)
    """The events that are sent; all unless given."""


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
    """Lower-case letters, digits and dashes. It becomes the name of a folder and of a Kubernetes object."""
    task: Path
    """Task folder; it must have a test split."""
    config: tuple[str, ...] = ()
    """Files and `key=value` settings, as for `agentopt optimize -c`."""
    schedule: Schedule
    caps: JobCaps = JobCaps()
    promotion: PromotionRule = PromotionRule()
    canary: float = CANARY_SHARE
    """Share of the test rows, at least 20, that every run after a champion's first draws anew to see drift; 0: none."""
    warm_start: Annotated[int, Field(ge=0)] = 5
    """Number of candidates of earlier runs that are evaluated first, after the champion; at most half of the trials."""
    webhook: WebhookTarget | None = None

    @field_validator("canary")
    @classmethod
    def _is_share(cls, value: float) -> float:
        if not 0 <= value <= 1:
            raise _mistake("must be a share of the test rows, from 0 to 1", "write 0.1 for a tenth of them, 0 for none")
        return value

    @field_validator("config", mode="before")
    @classmethod
    def _list_of_one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


def read_job(path: Path) -> Job:
    """Read a job file. Raises `ConfigError` that names file, key, rule, value and remedy."""
    job = validate(Job, load_yaml(path, ConfigError), path, ConfigError)
    for setting in job.config:
        key, _, value = setting.partition("=")
        if "://" in value and without_password(value) != value:
            rule = f"`{key}` must have no password, which would be stored with the job"
            remedy = "remove it from the URL"
            if value.startswith("postgresql"):
                remedy = "name the environment variable that has it: ?password_env=NAME"
            raise ConfigError(rule, where=f"{path}: config", remedy=remedy)
    return job
