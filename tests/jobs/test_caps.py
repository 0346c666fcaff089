"""The caps of a run: the tightest one, the rest of it, and how it is reported."""

from __future__ import annotations

from agentopt.core.budget import Caps, Usage
from agentopt.jobs.caps import caps_left, caps_of, less, month_name
from agentopt.jobs.jobfile import JobCaps, Schedule

MONTH = "November 2026 (Asia/Kolkata)"
JOB = JobCaps.model_validate({"per_run": {"calls": 50, "usd": 3}, "per_month": {"calls": 100, "usd": 10}})


def test_the_tightest_cap_of_each_measure_counts_and_is_named_by_its_setting() -> None:
    limits = caps_left(Caps(calls=60, seconds=9.0), JOB, Usage(calls=70, usd=2.0), MONTH)
    assert caps_of(limits) == Caps(calls=30, usd=3, seconds=9.0)
    assert isinstance(caps_of(caps_left(Caps(trials=6), JOB, Usage(), MONTH)).trials, int)
    assert limits["calls"].setting == "caps.per_month.calls"
    assert limits["calls"].amount(10) == "80 of 100 spent in November 2026 (Asia/Kolkata)"
    assert (limits["usd"].setting, limits["usd"].amount()) == ("caps.per_run.usd", "0 of 3 spent")
    assert limits["seconds"].setting == "budget.seconds"


def test_the_remaining_budget_is_never_negative() -> None:
    assert caps_left(Caps(), JOB, Usage(usd=12.0), MONTH)["usd"].left == 0
    assert caps_left(Caps(), JobCaps(), Usage(calls=30), MONTH) == {}
    assert less(Caps(calls=5, seconds=1.0), Usage(calls=9), 2.0) == Caps(calls=0, seconds=0.0)


def test_a_month_is_that_of_the_schedules_zone() -> None:
    last_hour_of_october_in_utc = 1793487600.0
    assert month_name(last_hour_of_october_in_utc, Schedule(every="1h", time_zone="Asia/Kolkata")) == MONTH
