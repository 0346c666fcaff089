"""Jobs for other schedulers: a systemd unit for the daemon, and a crontab line or a Kubernetes CronJob for one job."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentopt import __version__
from agentopt.core.errors import ConfigError
from agentopt.core.yaml_text import to_yaml
from agentopt.jobs.cron import weekday_names
from agentopt.jobs.jobfile import Schedule
from agentopt.jobs.tables import KnownJob

STOP_SECONDS = 300
"""Most seconds that a stop may take: the daemon awaits calls in flight."""

LONGEST_NAME = 52
"""Most characters in the name of a CronJob; the name of a job has the same maximum."""

USER = 10001
"""User and group of the image of `configs/deploy/Dockerfile`."""

IMAGE_FOLDERS = {
    "AGENTOPT_DATA": "/data",
    "AGENTOPT_CACHE": "/data/cache",
    "AGENTOPT_CONFIG": "/data/config",
    "HOME": "/data",
}
"""The image's variables that locate folders: only these and /tmp are written."""


def systemd_unit(python: str, data: Path, environ: Mapping[str, str]) -> str:
    """A systemd user unit for `agentopt jobs start`.

    Keys and secrets are read from a file and are not in the unit.

    Args:
        python: Path of the interpreter.
        data: The data folder.
        environ: Environment variables, of which those that locate folders are copied.
    """
    variables = {"AGENTOPT_DATA": str(data), **_passed_on(environ)}
    lines = [
        "# ~/.config/systemd/user/agentopt-jobs.service; then: systemctl --user enable --now agentopt-jobs",
        "[Unit]",
        "Description=agentopt jobs",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={_systemd_quoted(python)} -m agentopt jobs start",
        *(f"Environment={_systemd_quoted(f'{name}={value}')}" for name, value in variables.items()),
        "# Keys of providers and secrets of webhooks, as NAME=value lines; keep the file to yourself (chmod 600).",
        "EnvironmentFile=-%h/.config/agentopt/secrets.env",
        "KillMode=mixed",
        f"TimeoutStopSec={STOP_SECONDS}",
        "Restart=on-failure",
        "RestartSec=5",
        "",
        "[Install]",
        "WantedBy=default.target",
    ]
    return "\n".join(lines) + "\n"


def crontab_line(known: KnownJob, python: str, data: Path, environ: Mapping[str, str]) -> str:
    """A line for `crontab -e` with its time zone, which not every cron reads; arguments as for `systemd_unit`.

    Args:
        known: The job.
        python: Path of the interpreter.
        data: The data folder.
        environ: Environment variables, of which those that locate folders are copied.

    Raises:
        ConfigError: Cron cannot express the schedule.
    """
    variables = {"AGENTOPT_DATA": str(data), **_passed_on(environ)}
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    command = f"{settings} {shlex.quote(python)} -m agentopt jobs run-now {known.job.name}"
    # A percent sign is a line's end to cron.
    line = f"{cron_expression(known.job.schedule)} {command}".replace("%", r"\%")
    zone = known.job.schedule.time_zone
    notes = (
        "# cronie reads CRON_TZ; where cron does not (Debian), the times are those of the machine's zone.",
        "# CRON_TZ holds for every line below it: put this at the end of the crontab, or set it again after it.",
        "# cron mails what a line prints; put `>> FILE 2>&1` behind it for a log. Keys and the webhook's secret must",
        "# be in its environment: put `. FILE;` in front of the command, where FILE exports them (chmod 600).",
    )
    return "\n".join([*notes, f"CRON_TZ={zone}", line]) + "\n"


def kubernetes_cronjob(known: KnownJob, image: str = f"agentopt:{__version__}") -> str:
    """A CronJob with its data on the volume claim `agentopt-data` and its keys in the secret `agentopt-keys`.

    Its container is not root and cannot write to its root file system.

    Args:
        known: The job.
        image: Name of the image, which `configs/deploy/Dockerfile` builds.

    Raises:
        ConfigError: A CronJob cannot express the schedule.
    """
    *others, weekday = cron_expression(known.job.schedule).split()
    container: dict[str, Any] = {
        "name": "agentopt",
        "image": image,
        "command": ["agentopt", "jobs", "run-now", known.job.name],
        "workingDir": "/data",
        "env": [{"name": name, "value": value} for name, value in IMAGE_FOLDERS.items()],
        "envFrom": [{"secretRef": {"name": "agentopt-keys", "optional": True}}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": STOP_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,  # may write to the volume
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "agentopt-data"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    spec: dict[str, Any] = {
        # Names, because not every cron takes 7 for Sunday.
        "schedule": " ".join([*others, weekday_names(weekday)]),
        "timeZone": known.job.schedule.time_zone,
        "concurrencyPolicy": "Forbid",
        "jobTemplate": {"spec": {"backoffLimit": 0, "template": {"spec": pod}}},
    }
    whole = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": _object_name(known.job.name)},
        "spec": spec,
    }
    head = f"# Once, in a pod with the same claim: agentopt jobs add FILE (of the job {known.job.name})\n"
    return head + to_yaml(whole)


def cron_expression(schedule: Schedule) -> str:
    """The schedule as a cron expression. Raises `ConfigError` for an interval that cron lacks, such as 7 minutes."""
    if schedule.cron is not None:
        return schedule.cron
    assert schedule.interval is not None, "a schedule has one of the two"
    minutes, rest = divmod(int(schedule.interval.total_seconds()), 60)
    if not rest and minutes < 60 and 60 % minutes == 0:
        return f"*/{minutes} * * * *"
    hours, rest = divmod(int(schedule.interval.total_seconds()), 3600)
    if not rest and hours < 24 and 24 % hours == 0:
        return f"0 */{hours} * * *"
    if not rest and hours == 24:
        return "0 0 * * *"
    raise ConfigError(
        f"cron has divisors of an hour or a day as intervals, but the job runs every {schedule.every}",
        remedy="use such an interval, give the job a cron expression, or let `agentopt jobs start` run it",
    )


def _object_name(job: str) -> str:
    name = f"agentopt-{job}"
    return name if len(name) <= LONGEST_NAME else job


def _passed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that locate folders. The store's URL is left out, because it may contain a password."""
    return {name: environ[name] for name in ("AGENTOPT_CACHE", "AGENTOPT_CONFIG") if environ.get(name)}


def _systemd_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if any(c in escaped for c in " \t\"'\\") else escaped
