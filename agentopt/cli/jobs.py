"""The command line of `agentopt jobs`: parses, and leaves the rest to `commands.jobs`."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentopt.core.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

jobs_app = typer.Typer(
    no_args_is_help=True, help="Optimise again on a calendar, and keep a champion that only evidence replaces."
)

Name = Annotated[str, typer.Argument(help="Name of the job.")]
Store = Annotated[
    str | None,
    typer.Option(
        help="SQLAlchemy URL of the jobs' store; $AGENTOPT_JOBS_STORE or a file in the data folder unless given."
    ),
]
EXTRA = {"cronsim", "standardwebhooks"}
"""What the extra `jobs` installs."""


@jobs_app.command("add")
def add(
    file: Annotated[Path, typer.Argument(help="Job file, such as configs/jobs/nightly.yaml.")],
    store: Store = None,
    replace: Annotated[bool, typer.Option("--replace", help="Give a job that is there another task.")] = False,
) -> None:
    """Add the job in FILE, or give a job that is there its new file. Paths in it start at the current folder."""
    _jobs().add_job(file, store, replace, _console())


@jobs_app.command("list")
def list_(store: Store = None) -> None:
    """Every job: when it runs next, how its last run ended, and what it spent this month."""
    _jobs().list_jobs(store, _console())


@jobs_app.command("show")
def show(name: Name, store: Store = None) -> None:
    """One job, and all champions it ever had."""
    _jobs().show_job(name, store, _console())


@jobs_app.command("run-now")
def run_now(name: Name, store: Store = None) -> None:
    """Run NAME once, in the foreground. Exit code 3: the champion got worse; 1: the run failed; 4: a cap
    left nothing decided."""
    _jobs().run_now(name, store, _console())


@jobs_app.command("start")
def start(
    store: Store = None,
    slots: Annotated[int, typer.Option(min=1, help="How many jobs may run at once.")] = 1,
) -> None:
    """Run every job when it is due, until SIGTERM or Ctrl-C. Logs JSON lines; goes on with what was interrupted."""
    _jobs().start_daemon(store, slots)


@jobs_app.command("history")
def history(
    name: Name,
    store: Store = None,
    limit: Annotated[int, typer.Option(min=1, help="Most rows to show.")] = 20,
) -> None:
    """The last runs of NAME: how each ended, why, and what it spent. Runs that found nothing new share a row."""
    _jobs().show_history(name, store, limit, _console())


@jobs_app.command("pause")
def pause(name: Name, store: Store = None) -> None:
    """Stop the calendar for NAME; `run-now` still runs it."""
    _jobs().pause_job(name, True, store, _console())


@jobs_app.command("resume")
def resume(name: Name, store: Store = None) -> None:
    """Start the calendar for NAME again, from now."""
    _jobs().pause_job(name, False, store, _console())


@jobs_app.command("remove")
def remove(name: Name, store: Store = None) -> None:
    """Forget NAME. Its history and its champions stay."""
    _jobs().remove_job(name, store, _console())


@jobs_app.command("rollback")
def rollback(
    name: Name,
    number: Annotated[int | None, typer.Argument(help="Number of the champion; the one before unless given.")] = None,
    store: Store = None,
) -> None:
    """Put an earlier champion of NAME back in its place, byte for byte."""
    _jobs().roll_back(name, number, store, _console())


@jobs_app.command("export")
def export(
    name: Annotated[str | None, typer.Argument(help="Name of the job; --systemd needs none.")] = None,
    systemd: Annotated[bool, typer.Option("--systemd", help="A user unit that runs `agentopt jobs start`.")] = False,
    cron: Annotated[bool, typer.Option("--cron", help="A crontab line that runs the job.")] = False,
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help="A CronJob that runs the job.")] = False,
    store: Store = None,
) -> None:
    """Print what another scheduler needs to run jobs."""
    _jobs().export_job(name, systemd, cron, kubernetes, store)


def _jobs() -> Any:
    """The commands' module; loaded when one is called, because it needs the extra `jobs`."""
    try:
        return import_module("agentopt.cli.commands.jobs")
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in EXTRA:
            raise UserError(f"jobs need the package {error.name}", remedy="pip install 'agentopt[jobs]'") from error
        raise


def _console() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)
