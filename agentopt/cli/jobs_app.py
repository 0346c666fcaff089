"""The command line of `agentopt jobs`: parses arguments and calls `commands.jobs`."""

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from agentopt.cli.choices import JsonOption, choice_option
from agentopt.cli.help_pages import UncutGroup
from agentopt.cli.output import stdout_console
from agentopt.core.errors import UserError
from agentopt.core.extras import install_command

jobs_app = typer.Typer(
    cls=UncutGroup,
    no_args_is_help=True,
    help="Re-optimise on a schedule, and replace a job's champion only when the evidence favours another candidate.",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Job name.")]
Store = Annotated[
    str | None,
    typer.Option(
        help="SQLAlchemy URL of the job store. Default: $AGENTOPT_JOBS_STORE, $AGENTOPT_STORAGE, or a SQLite file in "
        "the data folder."
    ),
]
SchedulerFormat = Literal["systemd", "cron", "kubernetes"]
EXTRA = {"cronsim", "standardwebhooks"}
"""Packages that the extra `jobs` installs."""


@jobs_app.command("add")
def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Job file, such as configs/jobs/nightly.yaml.")],
    store: Store = None,
    replace: Annotated[bool, typer.Option("--replace", help="Allow changing the task of an existing job.")] = False,
) -> None:
    """Add the job in FILE, or update it. Paths in the file are relative to the current folder."""
    _jobs().add_job(file, store, replace, stdout_console())


@jobs_app.command("list")
def list_(store: Store = None, json: JsonOption = False) -> None:
    """List every job: its next run, the outcome of its last run, and its spend this month."""
    _jobs().list_jobs(store, stdout_console(), as_json=json)


@jobs_app.command("show")
def show(name: Name, store: Store = None, json: JsonOption = False) -> None:
    """Show one job and all its champions."""
    _jobs().show_job(name, store, stdout_console(), as_json=json)


@jobs_app.command("run-now")
def run_now(name: Name, store: Store = None, json: JsonOption = False) -> None:
    """Run NAME once, in the foreground. With --json, the log is on stderr.

    Exit codes: 1 the run failed, 3 the champion got worse, 4 a cap left the run undecided.
    """
    _jobs().run_now(name, store, stdout_console(), as_json=json)


@jobs_app.command("start")
def start(
    store: Store = None,
    slots: Annotated[int, typer.Option(min=1, help="Maximum number of jobs that run concurrently.")] = 1,
) -> None:
    """Run every job when it is due, until SIGTERM or Ctrl-C. Logs JSON lines; resumes interrupted runs."""
    _jobs().start_daemon(store, slots)


@jobs_app.command("history")
def history(
    name: Name,
    store: Store = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of rows; of runs with --json.")] = 20,
    json: JsonOption = False,
) -> None:
    """Show the last runs of NAME: outcome, reason and spend. Consecutive runs with nothing new share a row."""
    _jobs().show_history(name, store, limit, stdout_console(), as_json=json)


@jobs_app.command("pause")
def pause(name: Name, store: Store = None) -> None:
    """Pause the schedule of NAME. `run-now` still runs it."""
    _jobs().pause_job(name, True, store, stdout_console())


@jobs_app.command("resume")
def resume(name: Name, store: Store = None) -> None:
    """Resume the schedule of NAME from now on."""
    _jobs().pause_job(name, False, store, stdout_console())


@jobs_app.command("remove")
def remove(name: Name, store: Store = None) -> None:
    """Remove NAME. Its history and champions are kept."""
    _jobs().remove_job(name, store, stdout_console())


@jobs_app.command("rollback")
def rollback(
    name: Name,
    number: Annotated[
        int | None, typer.Argument(metavar="NUMBER", help="Champion number. Default: the previous one.")
    ] = None,
    store: Store = None,
) -> None:
    """Restore an earlier champion of NAME, byte for byte."""
    _jobs().roll_back(name, number, store, stdout_console())


def _refuse_flags(given: bool) -> None:
    if given:
        rule = "the scheduler is an option's value since version 0.2.0, but got a separate flag"
        raise UserError(rule, remedy="write --to systemd, --to cron or --to kubernetes")


@jobs_app.command("export")
def export(
    to: Annotated[
        SchedulerFormat,
        choice_option(
            "--to",
            get_args(SchedulerFormat),
            help="systemd: a user unit that runs `agentopt jobs start`; cron: a crontab line that runs the job; "
            "kubernetes: a CronJob that runs the job.",
        ),
    ],
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Job name. Not needed with --to systemd.")] = None,
    store: Store = None,
    old_flags: Annotated[
        bool, typer.Option("--systemd", "--cron", "--kubernetes", hidden=True, callback=_refuse_flags, is_eager=True)
    ] = False,
) -> None:
    """Print the configuration for running jobs from another scheduler. Nothing is installed."""
    _jobs().export_job(name, to, store)


def _jobs() -> Any:
    """Import the commands on first use, because they need the extra `jobs`."""
    try:
        return import_module("agentopt.cli.commands.jobs")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in EXTRA:
            rule = f"jobs needs {package}, which is not installed"
            raise UserError(rule, remedy=install_command("jobs")) from error
        raise
