"""The job file: what it may say, and what is said about what it may not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agentopt.core.errors import ConfigError
from agentopt.jobs.jobfile import Job, Schedule, read_job, weekday_names
from agentopt.jobs.scheduler import next_time, trigger

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
    assert job.schedule.interval == timedelta(hours=6)
    assert Job.model_validate_json(job.model_dump_json()) == job


@pytest.mark.parametrize(
    ("changes", "key", "rule"),
    [
        ({"schedule": {"every": "2x"}}, "schedule.every", "s, m, h, d or w"),
        ({"schedule": {"every": "0s"}}, "schedule.every", "s, m, h, d or w"),
        ({"schedule": {"every": 60}}, "schedule.every", "write 60s"),
        ({"schedule": {"every": True}}, "schedule.every", "valid string"),
        ({"schedule": {"every": "999999w"}}, "schedule.every", "at most 520w"),
        ({"schedule": {"every": "3641d"}}, "schedule.every", "at most 520w"),
        ({"schedule": {"cron": "0-59/70 * * * *"}}, "schedule.cron", "a minute from 0 to 59"),
        ({"schedule": {"cron": "61 * * * *"}}, "schedule.cron", "a minute from 0 to 59"),
        ({"schedule": {"cron": "0 3 * * 8"}}, "schedule.cron", "a day of week from 0 to 7"),
        ({"schedule": {"cron": "0 3 * * 5-1"}}, "schedule.cron", "a day of week"),
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
def test_a_mistake_is_told_with_file_key_rule_and_remedy(
    tmp_path: Path, changes: dict[str, Any], key: str, rule: str
) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, **changes)
    told = str(error.value)
    assert "job.yaml" in told
    assert f" {key}:" in told
    assert rule in told
    assert "remedy:" in told


def test_a_weekday_means_the_day_that_crontab_means() -> None:
    """APScheduler counts from Monday, crontab from Sunday: 1 must be Monday for both."""
    schedule = Schedule(cron="0 3 * * 1")
    found = next_time(schedule, 0.0, datetime(2026, 3, 1, tzinfo=UTC))
    assert found is not None
    assert found.strftime("%A %H:%M") == "Monday 03:00"


@given(st.integers(0, 7), st.integers(0, 7), st.integers(1, 7))
def test_weekday_names_are_the_days_of_the_range_in_steps(first: int, last: int, step: int) -> None:
    low, high = sorted((first, last))
    names = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
    days = {names[day % 7] for day in range(low, high + 1, step)}
    assert set(weekday_names(f"{low}-{high}/{step}").split(",")) == days


def test_an_interval_counts_from_when_the_job_was_added_and_is_due_at_once() -> None:
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
def test_a_field_that_is_taken_is_one_that_the_calendar_takes(position: int, field: str) -> None:
    fields = ["*"] * 5
    fields[position] = field
    try:
        schedule = Schedule(cron=" ".join(fields))
    except ValueError:
        return
    assert next_time(schedule, 0.0, datetime(2026, 1, 1, tzinfo=UTC)) is not None


def test_a_range_of_month_names_keeps_its_step_and_its_end() -> None:
    """APScheduler drops both without a word."""
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
    [("30 2 * * *", ["00:30"]), ("0,30 2 * * *", ["00:00", "00:30"]), ("30 * * * *", ["00:30", "01:30", "02:30"])],
)
def test_a_time_of_day_comes_once_in_the_night_that_has_it_twice(cron: str, utc: list[str]) -> None:
    """25 October 2026, 03:00 in Berlin: the clocks go back to 02:00. What runs every hour runs every hour."""
    schedule, after = Schedule(cron=cron, time_zone="Europe/Berlin"), datetime(2026, 10, 25, 0, 0, tzinfo=UTC)
    found, timer = [], trigger(schedule, 0.0)
    due = next_time(schedule, 0.0, after)
    while due and due < after + timedelta(hours=3):
        found.append(due.astimezone(UTC).strftime("%H:%M"))
        due = timer.get_next_fire_time(due, due)
    assert found == utc
