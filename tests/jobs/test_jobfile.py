"""Tests of the job file: valid files, and the messages for mistakes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.errors import ConfigError
from agentopt.jobs.cron import normalized, weekday_names
from agentopt.jobs.due_times import due_time, next_time
from agentopt.jobs.jobfile import Job, Schedule, read_job
from agentopt.jobs.tables import KnownJob

SMALLEST = {"name": "nightly", "task": "tasks/quickstart", "schedule": {"every": "6h"}}
EXAMPLES = sorted(Path(__file__).parents[2].glob("configs/jobs/*.yaml"))


def read(tmp_path: Path, **changes: Any) -> Job:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump({**SMALLEST, **changes}))
    return read_job(file)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: str(file.name))
def test_the_job_files_that_are_shipped_can_be_read(file: Path) -> None:
    assert read_job(file).name == file.stem


def test_a_small_file_gets_the_default_rule_and_no_caps(tmp_path: Path) -> None:
    job = read(tmp_path)
    assert (job.promotion.confidence, job.promotion.cheaper_by) == (0.95, 0.1)
    assert (job.promotion.margin, job.promotion.max_cost_ratio, job.canary) == (0.01, 1.5, 0.1)
    assert job.schedule.interval == timedelta(hours=6)
    assert Job.model_validate_json(job.model_dump_json()) == job


@pytest.mark.parametrize(
    ("changes", "key", "rule"),
    [
        ({"canary": 20}, "canary", "write 0.1 for a tenth of them"),
        ({"canary": -0.1}, "canary", "a share of the test rows, from 0 to 1"),
        ({"canary": float("nan")}, "canary", "must be a finite number, but got nan"),
        ({"promotion": {"margin": 0}}, "promotion.margin", "greater than 0"),
        ({"promotion": {"max_cost_ratio": -1}}, "promotion.max_cost_ratio", "greater than 0"),
        ({"schedule": {"every": "2x"}}, "schedule.every", "s, m, h, d or w"),
        ({"schedule": {"every": "0s"}}, "schedule.every", "s, m, h, d or w"),
        ({"schedule": {"every": 60}}, "schedule.every", "write 60s"),
        ({"schedule": {"every": True}}, "schedule.every", "must be a string"),
        ({"schedule": {"every": "999999w"}}, "schedule.every", "at most 520w"),
        ({"schedule": {"every": "3641d"}}, "schedule.every", "at most 520w"),
        ({"schedule": {"cron": "0-59/70 * * * *"}}, "schedule.cron", "the minute must be from 0 to 59"),
        ({"schedule": {"cron": "61 * * * *"}}, "schedule.cron", "the minute must be from 0 to 59"),
        ({"schedule": {"cron": "0 3 * * 8"}}, "schedule.cron", "the day of week must be from 0 to 7"),
        ({"schedule": {"cron": "0 3 * * 5-1"}}, "schedule.cron", "the day of week must be from"),
        ({"schedule": {"cron": "0 3 L * *"}}, "schedule.cron", "the day of month must be from"),
        ({"schedule": {"cron": "0 3 LW * *"}}, "schedule.cron", "the day of month must be from"),
        ({"schedule": {"cron": "0 3 * * 5#2"}}, "schedule.cron", "the day of week must be from"),
        ({"schedule": {"cron": "0 3 * * 5L"}}, "schedule.cron", "the day of week must be from"),
        ({"schedule": {"cron": "5/10 3 * * *"}}, "schedule.cron", "the minute must be from"),
        ({"schedule": {"cron": "0 0 3 * * *"}}, "schedule.cron", "five fields"),
        ({"schedule": {"cron": "0 3 * *"}}, "schedule.cron", "five fields"),
        ({"schedule": {"cron": "0 3 1 * 1"}}, "schedule.cron", "day of month or day of week open"),
        ({"schedule": {"cron": "0 3 * * *", "every": "1h"}}, "schedule", "exactly one of cron and every"),
        ({"schedule": {}}, "schedule", "exactly one of cron and every"),
        (
            {"schedule": {"every": "1h", "time_zone": "Europe/Belin"}},
            "schedule.time_zone",
            "did you mean Europe/Berlin",
        ),
        ({"schedule": {"every": "1h", "time_zone": "Qqqqqqqq"}}, "schedule.time_zone", "write it like Europe/Berlin"),
        ({"schedule": {"every": "1h", "time_zone": "localtime"}}, "schedule.time_zone", "IANA database"),
        ({"schedule": {"every": "1h", "time_zone": "Factory"}}, "schedule.time_zone", "IANA database"),
        ({"schedule": {"every": "1h", "time_zone": "posixrules"}}, "schedule.time_zone", "IANA database"),
        ({"schedule": {"every": "1h", "time_zone": "posix/Europe/Berlin"}}, "schedule.time_zone", "IANA database"),
        ({"schedule": {"every": "1h", "time_zone": "right/UTC"}}, "schedule.time_zone", "IANA database"),
        ({"name": "No spaces"}, "name", "lower-case letters"),
        ({"webhook": {"url": "ftp://x", "secret_env": "S"}}, "webhook.url", "http(s) address"),
        ({"webhook": {"url": "https://x", "secret_env": "$S"}}, "webhook.secret_env", "name of an environment"),
        ({"webhook": {"url": "https://x", "secret_env": "S", "secret": "whsec_"}}, "webhook.secret", "known key"),
        ({"caps": {"per_month": {"seconds": 3}}}, "caps.per_month.seconds", "known key"),
        ({"promotion": {"confidence": 1.5}}, "promotion.confidence", "less than 1"),
    ],
)
def test_a_mistake_is_reported_with_file_key_rule_and_remedy(
    tmp_path: Path, changes: dict[str, Any], key: str, rule: str
) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, **changes)
    message = str(error.value)
    assert "job.yaml" in message
    assert f" {key}:" in message
    assert rule in message
    assert "remedy:" in message


def test_a_weekday_means_the_day_that_crontab_means() -> None:
    schedule = Schedule(cron="0 3 * * 1")
    found = next_time(schedule, 0.0, datetime(2026, 3, 1, tzinfo=UTC))
    assert found is not None
    assert found.strftime("%A %H:%M") == "Monday 03:00"


@given(st.integers(0, 7), st.integers(0, 7), st.integers(1, 7))
def test_weekday_names_are_the_days_of_the_range_in_steps(first: int, last: int, step: int) -> None:
    low, high = sorted((first, last))
    names = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
    days = {names[day % 7] for day in range(low, high + 1, step)}
    assert set(weekday_names(normalized(f"0 0 * * {low}-{high}/{step}").split()[-1]).split(",")) == days


@pytest.mark.parametrize(
    ("given", "written"),
    [("0 3 * * SUN-0/2", "0 3 * * sun-0"), ("5-5/3,7 3 * * *", "5-5,7 3 * * *"), ("0  3 1 jan-1/2 *", "0 3 1 jan-1 *")],
)
def test_a_range_of_one_value_needs_no_step(given: str, written: str) -> None:
    """cronsim reads `5-5/3` as 5, 8, 11 and on."""
    assert Schedule(cron=given).cron == written


def test_an_interval_counts_from_when_the_job_was_added_and_is_due_immediately() -> None:
    added = datetime(2026, 1, 1, tzinfo=UTC)
    schedule = Schedule(every="6h")
    assert next_time(schedule, added.timestamp(), added) == added
    later = next_time(schedule, added.timestamp(), added + timedelta(hours=7))
    assert later == added + timedelta(hours=12)


def test_a_cron_expression_is_meant_in_its_time_zone() -> None:
    schedule = Schedule(cron="0 3 * * *", time_zone="Asia/Tokyo")
    found = next_time(schedule, 0.0, datetime(2026, 1, 1, tzinfo=UTC))
    assert found is not None
    assert found.astimezone(UTC).hour == 18


def test_a_day_that_never_comes_has_no_next_time() -> None:
    assert next_time(Schedule(cron="0 3 30 2 *"), 0.0, datetime(2026, 1, 1, tzinfo=UTC)) is None


def test_the_longest_interval_has_a_next_time() -> None:
    schedule = Schedule(every="520w")
    assert next_time(schedule, 0.0, datetime(2026, 1, 1, tzinfo=UTC)) is not None


_NUMBERS = st.integers(0, 60).map(str)
_SPANS = st.one_of(
    st.just("*"), _NUMBERS, st.tuples(_NUMBERS, _NUMBERS).map("-".join), st.sampled_from(["jan-3", "mon"])
)
_PARTS = st.one_of(_SPANS, st.tuples(_SPANS, _NUMBERS).map("/".join))


@given(st.integers(0, 4), _PARTS)
def test_a_valid_field_has_a_next_time(position: int, field: str) -> None:
    fields = ["*"] * 5
    fields[position] = field
    try:
        schedule = Schedule(cron=" ".join(fields))
    except ConfigError:
        return
    assert next_time(schedule, 0.0, datetime(2026, 1, 1, tzinfo=UTC)) is not None


def test_a_range_of_month_names_keeps_its_step_and_its_end() -> None:
    for months in ("jan-may/2", "jan-5/2"):
        schedule, after = Schedule(cron=f"0 0 1 {months} *"), datetime(2026, 1, 1, tzinfo=UTC)
        found: list[int] = []
        while len(found) < 4:
            after = next_time(schedule, 0.0, after) or after
            found.append(after.month)
            after += timedelta(hours=1)
        assert found == [1, 3, 5, 1]


@pytest.mark.parametrize(
    ("cron", "utc"),
    [
        ("30 2 * * *", ["00:30"]),
        ("0,30 2 * * *", ["00:00", "00:30"]),
        ("30 * * * *", ["00:30", "01:30", "02:30"]),
        ("*/30 2 * * *", ["00:00", "00:30", "01:00", "01:30"]),
    ],
)
def test_a_time_of_day_comes_once_in_the_night_that_has_it_twice(cron: str, utc: list[str]) -> None:
    """25 October 2026, 03:00 in Berlin: the clocks go back to 02:00. An hourly job still runs every hour."""
    assert times_in_berlin(cron, datetime(2026, 10, 25, 0, 0, tzinfo=UTC)) == utc


@pytest.mark.parametrize(
    ("cron", "utc"),
    [("30 2 * * *", ["01:00"]), ("0,30 2 * * *", ["01:00"]), ("30 * * * *", ["00:30", "01:30", "02:30"])],
)
def test_a_time_of_day_comes_right_after_the_change_in_the_night_that_lacks_it(cron: str, utc: list[str]) -> None:
    """29 March 2026, 02:00 in Berlin: the clocks go forward to 03:00."""
    assert times_in_berlin(cron, datetime(2026, 3, 29, 0, 0, tzinfo=UTC)) == utc


def times_in_berlin(cron: str, start: datetime) -> list[str]:
    """The times of three hours from `start` on, in UTC."""
    schedule, found = Schedule(cron=cron, time_zone="Europe/Berlin"), list[datetime]()
    due = next_time(schedule, 0.0, start)
    while due and due < start + timedelta(hours=3):
        found.append(due)
        due = next_time(schedule, 0.0, due + timedelta(seconds=1))
    return [time.strftime("%H:%M") for time in found]


@pytest.mark.parametrize("cron", ["30 2 * * *", "30 * * * *", "*/7 2-4 * * *"])
@pytest.mark.parametrize("change", [datetime(2026, 10, 25, 1, tzinfo=UTC), datetime(2026, 3, 29, 1, tzinfo=UTC)])
def test_a_daemon_that_looks_every_minute_runs_each_time_once(cron: str, change: datetime) -> None:
    """Around a change of the clocks too: what is due is what the schedule has, in this order, and nothing twice."""
    start = change - timedelta(hours=3)
    job = Job.model_validate({**SMALLEST, "schedule": {"cron": cron, "time_zone": "Europe/Berlin"}})
    known = KnownJob(job, Path(), start.timestamp(), False, None)
    claimed, expected = list[float](), list[float]()
    for minute in range(6 * 60):
        if (due := due_time(known, (start + timedelta(minutes=minute)).timestamp())) is not None:
            claimed.append(due)
            known = replace(known, last_due=due)
    time = next_time(job.schedule, 0.0, start)
    while time and time < start + timedelta(hours=6):
        expected.append(time.timestamp())
        time = next_time(job.schedule, 0.0, time + timedelta(seconds=1))
    assert claimed == expected


@pytest.mark.parametrize("schedule", [{"cron": "*/5 * * * *"}, {"every": "5m"}])
def test_missed_times_are_coalesced_into_the_last(schedule: dict[str, str]) -> None:
    added = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    job = Job.model_validate({**SMALLEST, "schedule": schedule})
    known = KnownJob(job, Path(), added, False, None)
    now = added + 30 * 86400 + 299
    assert due_time(known, now) == added + 30 * 86400
    assert due_time(replace(known, last_due=added + 30 * 86400), now) is None
    assert due_time(replace(known, last_due=added + 30 * 86400 - 300), now) == added + 30 * 86400
    assert due_time(replace(known, paused=True), now) is None
    assert due_time(replace(known, since=now + 1), now) is None, "a job that was added later, or a clock put back"


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("postgresql://me:s3cret@db.example.org/runs", r"\?password_env=NAME"),
        ("postgresql+psycopg://me:s3cret@db.example.org/runs", r"\?password_env=NAME"),
        ("mysql://me:s3cret@db.example.org/runs", "remove it from the URL"),
        ("http://me:s3cret@track.example.org", "remove it from the URL"),
    ],
)
def test_a_password_in_a_setting_is_refused_with_a_remedy_that_its_database_has(
    tmp_path: Path, url: str, remedy: str
) -> None:
    with pytest.raises(ConfigError, match=f"`journal` must have no password[^$]*{remedy}") as caught:
        read(tmp_path, config=[f"journal={url}"])
    assert "s3cret" not in str(caught.value)
