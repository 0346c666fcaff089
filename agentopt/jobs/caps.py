"""The caps of a run: for each measure the tightest of those of the configuration, the job and the month."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from agentopt.core.budget import Caps, Usage
from agentopt.jobs.jobfile import JobCaps, Schedule

MEASURES = ("usd", "tokens", "calls")
"""Measures with a total in the store. Seconds and trials have caps too."""


@dataclass(frozen=True, slots=True)
class CapLeft:
    """What is left of one cap.

    Attributes:
        setting: Dotted key that sets it.
        cap: Its size, in units of the measure.
        spent: Spent before the run.
        period: The calendar month, for a cap per month; else empty.
    """

    setting: str
    cap: float
    spent: float = 0
    period: str = ""

    @property
    def left(self) -> float:
        return max(self.cap - self.spent, 0)

    def amount(self, more: float = 0) -> str:
        """The spent part as text; `more` is the spend of the run."""
        period = f" in {self.period}" if self.period else ""
        return f"{self.spent + more:.10g} of {self.cap:.10g} spent{period}"


JobCapsLeft = Mapping[str, CapLeft]
"""Measure (usd, tokens, calls, seconds, trials) -> the rest of its tightest cap."""


def caps_left(config: Caps, job: JobCaps, spent: Usage, month: str) -> JobCapsLeft:
    """The tightest cap of each measure.

    Args:
        config: Caps of the job's configuration.
        job: Caps of the job file.
        spent: Spend of the other runs of the month.
        month: Name of the month, for messages.
    """
    found = {}
    for name in Caps.__dataclass_fields__:
        given = [
            CapLeft(f"budget.{name}", getattr(config, name)),
            CapLeft(f"caps.per_run.{name}", getattr(job.per_run, name)),
        ]
        if name in MEASURES:
            given.append(
                CapLeft(f"caps.per_month.{name}", getattr(job.per_month, name), getattr(spent, name), period=month)
            )
        if given := [limit for limit in given if limit.cap is not None]:
            found[name] = min(given, key=lambda limit: limit.left)
    return found


def caps_of(limits: JobCapsLeft) -> Caps:
    """The remaining amounts as caps of a run."""
    return Caps(**{name: limit.left for name, limit in limits.items()})  # type: ignore[arg-type]  # whole where capped so


def less(caps: Caps, spent: Usage, seconds: float) -> Caps:
    """The caps that remain after spending `spent` and `seconds`.

    Args:
        caps: The caps.
        spent: Usage to subtract.
        seconds: Wall time to subtract.
    """
    left = {name: max(cap - getattr(spent, name), 0) for name in MEASURES if (cap := getattr(caps, name)) is not None}
    return replace(caps, **left, seconds=None if caps.seconds is None else max(caps.seconds - seconds, 0.0))


def month_start(time: float, schedule: Schedule) -> float:
    """When the calendar month of `time` began in the schedule's time zone, in seconds since the epoch."""
    local = datetime.fromtimestamp(time, schedule.zone)
    return local.replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()


def month_name(time: float, schedule: Schedule) -> str:
    """The name of the calendar month of `time`, such as `November 2026 (Asia/Kolkata)`."""
    return f"{datetime.fromtimestamp(time, schedule.zone):%B %Y} ({schedule.time_zone})"
