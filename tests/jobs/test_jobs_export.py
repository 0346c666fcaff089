"""Tests of the export to other schedulers: a systemd unit, a crontab line, a CronJob."""

from __future__ import annotations

import configparser
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from agentopt.core.errors import ConfigError
from agentopt.jobs.export import cron_expression, crontab_line, kubernetes_cronjob, systemd_unit
from agentopt.jobs.jobfile import Job, Schedule
from agentopt.jobs.tables import KnownJob


def known(**schedule: str) -> KnownJob:
    job = Job.model_validate({"name": "nightly", "task": "task", "schedule": schedule})
    return KnownJob(job, Path("/srv/project"), 0.0, False, None)


@pytest.mark.parametrize(
    ("every", "expression"),
    [("5m", "*/5 * * * *"), ("60m", "0 */1 * * *"), ("6h", "0 */6 * * *"), ("1d", "0 0 * * *"), ("24h", "0 0 * * *")],
)
def test_an_interval_that_a_clock_shows_is_a_cron_expression(every: str, expression: str) -> None:
    assert cron_expression(Schedule(every=every)) == expression


@pytest.mark.parametrize("every", ["2s", "7m", "5h", "3d"])
def test_an_interval_that_no_clock_shows_is_refused_with_a_way_out(every: str) -> None:
    with pytest.raises(ConfigError, match=f"every {every}") as error:
        cron_expression(Schedule(every=every))
    assert "agentopt jobs start" in str(error.value)


def test_a_crontab_line_names_its_time_zone_its_data_and_its_job() -> None:
    text = crontab_line(
        known(cron="0 3 * * 1-5", time_zone="Europe/Berlin"), "/opt/my env/python", Path("/var/100% data"), {}
    )
    *notes, zone, line = text.splitlines()
    assert all(note.startswith("# ") for note in notes)
    assert notes[0].startswith("# cronie reads CRON_TZ")
    assert "holds for every line below" in notes[1]
    assert "Keys and the webhook's secret" in notes[2]
    assert zone == "CRON_TZ=Europe/Berlin"
    fields, command = line.split()[:5], line.split(maxsplit=5)[5]
    assert fields == ["0", "3", "*", "*", "1-5"]
    assert r"100\% data" in command, "a bare percent sign ends a line of crontab"
    words = shlex.split(command.replace(r"\%", "%"))
    assert words == [
        "AGENTOPT_DATA=/var/100% data",
        "/opt/my env/python",
        *["-m", "agentopt", "jobs", "run-now", "nightly"],
    ]


def test_a_cronjob_is_yaml_with_the_schedule_its_zone_and_no_overlap() -> None:
    text = kubernetes_cronjob(known(cron="0 3 * * 7", time_zone="Asia/Tokyo"))
    spec = yaml.safe_load(text)
    assert (spec["kind"], spec["metadata"]["name"]) == ("CronJob", "agentopt-nightly")
    assert (spec["spec"]["schedule"], spec["spec"]["timeZone"]) == ("0 3 * * sun", "Asia/Tokyo")
    assert spec["spec"]["concurrencyPolicy"] == "Forbid"
    pod = spec["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["command"] == ["agentopt", "jobs", "run-now", "nightly"]
    assert pod["restartPolicy"] == "Never"


def test_a_cronjob_is_not_root_and_writes_to_its_volumes_alone() -> None:
    text = kubernetes_cronjob(known(cron="0 3 * * *"))
    pod = yaml.safe_load(text)["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounted) == {"/data", "/tmp"}
    assert set(mounted.values()) == {volume["name"] for volume in pod["volumes"]}
    assert all(Path(variable["value"]).is_relative_to("/data") for variable in container["env"])


@pytest.mark.parametrize("name", ["1e6", "0x1f", "12e03", "no"])
def test_a_name_that_yaml_could_read_as_another_type_is_quoted_in_a_cronjob(name: str) -> None:
    """`yaml.safe_load` reads `1e6` as text, but other YAML readers take it for a number."""
    of = known(cron="0 3 * * *")
    text = kubernetes_cronjob(replace(of, job=of.job.model_copy(update={"name": name})))
    assert f"- '{name}'\n" in text


@pytest.mark.parametrize("length", [1, 43, 44, 52])
def test_a_cronjob_has_a_name_that_kubernetes_takes(length: int) -> None:
    of = known(cron="0 3 * * *")
    of = replace(of, job=of.job.model_copy(update={"name": "n" * length}))
    name = yaml.safe_load(kubernetes_cronjob(of))["metadata"]["name"]
    assert name.endswith("n" * length)
    assert len(name) <= 52


def test_a_unit_stops_the_daemon_gently_and_holds_no_secret() -> None:
    environ = {"AGENTOPT_CACHE": "/var/cache/a b", "AGENTOPT_JOBS_STORE": "postgresql://u:hunter2@h/db", "KEY": "sk-1"}
    text = systemd_unit("/opt/python", Path("/var/data"), environ)
    unit = configparser.RawConfigParser(strict=False)
    unit.read_string(text.split("\n", 1)[1])
    assert unit["Service"]["ExecStart"] == "/opt/python -m agentopt jobs start"
    assert unit["Service"]["Restart"] == "on-failure"
    assert int(unit["Service"]["TimeoutStopSec"]) >= 60
    assert 'Environment="AGENTOPT_CACHE=/var/cache/a b"' in text
    assert "hunter2" not in text
    assert "sk-1" not in text
