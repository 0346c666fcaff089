"""`agentopt jobs`: adds, lists, runs and exports jobs, and starts the daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from datetime import UTC, datetime
from itertools import groupby, islice
from pathlib import Path
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agentopt.cli.commands.job_status import Drift, JobDetails, JobHistory, JobLine, JobList, PastRun
from agentopt.cli.interrupts import INTERRUPTED, second_interrupt_ends
from agentopt.cli.output import ignore_interrupted_tasks, print_json, print_plain, stderr_console
from agentopt.core.budget import Usage
from agentopt.core.candidate import Candidate
from agentopt.core.errors import ConfigError, UserError
from agentopt.core.events import Stopping
from agentopt.core.message_text import counted
from agentopt.core.usd_text import format_usd
from agentopt.jobs.champion import champions_of
from agentopt.jobs.daemon import Daemon
from agentopt.jobs.drift import ALARM, CANARY_LEAST, canary_rows
from agentopt.jobs.due_times import next_time
from agentopt.jobs.export import crontab_line, kubernetes_cronjob, systemd_unit
from agentopt.jobs.jobfile import Job, read_job
from agentopt.jobs.run import NOT_SEEN
from agentopt.jobs.snapshot import load_snapshot
from agentopt.jobs.store import JobStore, data_folder, open_store
from agentopt.jobs.tables import JobRun
from agentopt.jobs.webhook import signer_of
from agentopt.jobs.worker import as_owner, log_lines
from agentopt.report.formatting import usage_cells

ALARM_RAISED, FAILED, UNDECIDED = 3, 1, 4
"""Exit codes of `jobs run-now` other than 0."""

ALIKE = ("unchanged", "skipped", "refused")
"""States whose consecutive identical runs share a row in `jobs history`."""


def add_job(file: Path, store: str | None, replace: bool, console: Console) -> None:
    """`agentopt jobs add`: checks everything that needs no model call, then stores the job.

    Args:
        file: The job file.
        store: SQLAlchemy URL of the job store; None for the default.
        replace: Whether an existing job of that name may get another task.
        console: Console for the result.

    Raises:
        UserError: The file or its inputs are invalid, or the job exists with another task.
    """
    job, folder = read_job(file), Path.cwd()
    now = datetime.now(UTC)
    if next_time(job.schedule, now.timestamp(), now) is None:
        raise ConfigError(
            f"the schedule must have a future time, but {job.schedule.cron} has none",
            where=f"{file}: schedule.cron",
            remedy="correct the day or the month",
        )
    rows = load_snapshot(job, folder, _runs_folder(job)).test_rows
    with _opened(store) as jobs:
        moved = _task_change(job, folder, jobs)
        if moved and not replace:
            raise UserError(
                f"the job {job.name} exists with another task: {moved}",
                where=file,
                remedy="rename this job, or add --replace; history and champion stay with the name",
            )
        new = jobs.put(job, folder, now.timestamp())
    change = f"{'added' if new else 'updated'}: {f'task {moved}, ' if moved else ''}{job.schedule}"
    print_plain(console, f"job {job.name} {change}")
    print_plain(console, _drawn_anew(job, rows))
    _warn_of_secret(job)


def _task_change(job: Job, folder: Path, jobs: JobStore) -> str:
    """Return `before -> after` if a job of that name exists with another task, otherwise an empty string."""
    for known in jobs.jobs():
        before, after = (known.folder / known.job.task).resolve(), (folder / job.task).resolve()
        if known.job.name == job.name and before != after:
            return f"{before} -> {after}"
    return ""


def _warn_of_secret(job: Job) -> None:
    """Warn, but accept the job: the secret may be set in the daemon's environment only."""
    try:
        if job.webhook:
            signer_of(job.webhook)
    except ConfigError as error:
        sys.stderr.write(f"agentopt: warning: {error}; the daemon needs it in its environment\n")


def list_jobs(store: str | None, console: Console, *, as_json: bool = False) -> None:
    """`agentopt jobs list`."""
    with _opened(store) as jobs:
        found = JobList.of(jobs)
    if as_json:
        print_json(found)
        return
    table = Table()
    for column in ("job", "schedule", "next time", "last run", "champion", "USD this month"):
        table.add_column(column)
    for line in found.jobs:
        champion = "damaged" if line.champion_error else str(line.champion or "-")
        table.add_row(*_cells(line), champion, format_usd(line.usd_this_month))
    if table.row_count or not found.unreadable:
        console.print(table if table.row_count else "no jobs; `agentopt jobs add FILE` adds one")
    for problem in found.unreadable.values():
        print_plain(console, f"cannot be read: {problem}")


def _cells(line: JobLine) -> tuple[str, str, str, str]:
    """Name, schedule, next time and last run."""
    last, alarm = line.last_run, line.last_alarm
    resumed = " (is resumed by the next daemon)" if last and last.state == "interrupted" else ""
    ended = f"{last.state}{resumed}, {_shown(last.started, line.time_zone)}" if last else "-"
    return (
        line.name,
        line.schedule,
        _next(line),
        f"{ended}; ALARM at {_shown(alarm.started, line.time_zone)}" if alarm else ended,
    )


def _next(line: JobLine) -> str:
    if line.paused:
        return "paused"
    if line.next_time is not None and line.next_time <= time.time():
        return "now (waiting for a daemon)"
    return _shown(line.next_time, line.time_zone)


def _shown(moment: float | None, zone: str) -> str:
    return "-" if moment is None else datetime.fromtimestamp(moment, ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M:%S %Z")


def show_job(name: str, store: str | None, console: Console, *, as_json: bool = False) -> None:
    """`agentopt jobs show`."""
    with _opened(store) as jobs:
        known = jobs.job(name)
        found = JobDetails.of(known, jobs)
    if as_json:
        print_json(found)
        return
    for title, text in zip(("job", "schedule", "next time", "last run"), _cells(found.job), strict=True):
        print_plain(console, f"{title}: {text}")
    for line in (f"task: {found.task}", f"champion: {found.champion_file}", _canary_line(known.job, found.drift)):
        print_plain(console, line)
    print_plain(console, _error_line(found))
    if alarm := found.job.last_alarm:
        print_plain(console, f"last alarm: {_shown(alarm.started, found.job.time_zone)}, {alarm.alarm}")
    table = Table("", "champion", "since", "why", "candidate")
    for champion in found.champions:
        mark, since = "->" if champion.is_current else "", _shown(champion.since, found.job.time_zone)
        table.add_row(mark, str(champion.number), since, escape(champion.reason), escape(champion.summary))
    console.print(table if table.row_count else "no champion yet: the first run makes one")
    _show_challengers(found, console)


def _show_challengers(found: JobDetails, console: Console) -> None:
    """Print the challengers of the current champion."""
    current = next((champion.number for champion in found.champions if champion.is_current), None)
    table = Table("comparison", "last compared", "challenger", "finding", title=f"Challengers of champion {current}")
    for one in found.challengers:
        if one.champion == current:
            shown = str(Candidate.from_dict(one.candidate))
            cells = (str(one.number), _shown(one.time, found.job.time_zone), escape(shown), escape(one.finding))
            table.add_row(*cells)
    if table.row_count:
        console.print(table)


def _canary_line(job: Job, drift: Drift | None) -> str:
    """Return the evidence of drift after the job's last canary."""
    if not job.canary:
        return f"canary: off; {NOT_SEEN}"
    if drift is None:
        return f"canary: {_drawn_anew(job)}; none requested yet"
    drawn = f"{counted(drift.rows, 'row')} of the champion drawn anew in {counted(drift.runs, 'run')}"
    return f"canary: {drawn}; evidence of drift {drift.evidence:.3g}, an alarm at {ALARM:g}"


def _drawn_anew(job: Job, rows: Sequence[str] = ()) -> str:
    """Return what the job's canary draws, with numbers if the ids of the test rows are given."""
    if not job.canary:
        return NOT_SEEN
    count = len(canary_rows(rows, 0, share=job.canary))
    drawn = f"{count} of {len(rows)} test rows" if rows else "test rows"
    share = f"{job.canary:.0%}, at least {CANARY_LEAST}"
    text = f"every run after a champion's first requests its answers to {drawn} anew ({share})"
    if not rows or count < len(rows):
        return text
    return f"{text}; with `canary: 0` no answer is requested, and a changed model is not noticed"


def _error_line(found: JobDetails) -> str:
    """Return how much of the error that the job may make its comparisons have spent."""
    spent = f"{found.error_spent:.3g} of the error budget of {found.error:.3g} is spent"
    needed = f"the next comparison must reach an e-value of {found.evidence_needed:.3g}"
    return f"promotions: {counted(found.comparisons, 'comparison')}; {spent}; {needed}"


def show_history(name: str, store: str | None, limit: int, console: Console, *, as_json: bool = False) -> None:
    """`agentopt jobs history`."""
    with _opened(store) as jobs:
        runs = jobs.history(name)
        zone = next((known.job.schedule.time_zone for known in jobs.jobs() if known.job.name == name), "UTC")
        if not runs:
            jobs.check_name(name)
    if as_json:
        print_json(JobHistory(name, tuple(map(PastRun.of, runs[:limit]))))
        return
    table = Table()
    for column in ("started", "state", "champion", "calls", "prompt tokens", "completion tokens", "USD", "message"):
        table.add_column(column)
    for alike in islice(_folded(runs), limit):
        table.add_row(*_history_cells(alike, zone))
    console.print(table if runs else f"job {name} has not run yet", markup=False)


def _folded(runs: Sequence[JobRun]) -> Iterator[list[JobRun]]:
    """Group the runs, newest first: consecutive runs in a state of `ALIKE` that differ in time and spend are one."""

    def outcome(run: JobRun) -> tuple[object, ...]:
        return (run.state, run.message, run.alarm, run.champion, "" if run.state in ALIKE else run.id)

    return (list(alike) for _, alike in groupby(runs, outcome))


def _history_cells(alike: Sequence[JobRun], zone: str) -> tuple[str, ...]:
    run, times = alike[0], len(alike)
    started = _shown(run.started, zone)
    if times > 1:
        started = f"{_shown(alike[-1].started, zone)} to {started}"
    alarm = f"ALARM: {run.alarm}. " if run.alarm else ""
    champion = "-" if run.champion is None else str(run.champion)
    state = f"{run.state} x{times}" if times > 1 else run.state
    usage = sum((one.spent for one in alike), Usage())
    return started, state, champion, *usage_cells(usage), escape(alarm + run.message)


def run_now(name: str, store: str | None, console: Console, *, as_json: bool = False) -> None:
    """`agentopt jobs run-now`: one run in the foreground, also of a paused job.

    Exits with 3 if the champion raised an alarm, with 1 if the run failed, with 4 if it was undecided.
    """

    def log(event: str, **fields: object) -> None:
        log_lines(event, **fields)
        if event == Stopping.kind:
            print_plain(stderr_console(), str(fields["message"]))

    # The log, and what a task's functions print, are not part of the document.
    printed = redirect_stdout(sys.stderr) if as_json else nullcontext()
    with printed, _opened(store) as jobs, as_owner(jobs, data_folder(), time.time, log=log) as worker:
        jobs.job(name)
        ignore_interrupted_tasks()
        stopped = f"stopped; `agentopt jobs run-now {name}` resumes it, and so does `agentopt jobs start`"
        try:
            with second_interrupt_ends(lambda: stopped):
                run = asyncio.run(worker.work(worker.claim_now(name)))
        except KeyboardInterrupt:
            print_plain(console, stopped)
            sys.exit(INTERRUPTED)
    _show_outcome(run, console, as_json)
    if run.alarm or run.state in ("failed", "undecided"):
        sys.exit(ALARM_RAISED if run.alarm else FAILED if run.state == "failed" else UNDECIDED)


def _show_outcome(run: JobRun, console: Console, as_json: bool) -> None:
    if as_json:
        print_json(PastRun.of(run))
        return
    print_plain(console, f"{run.job}: {run.state}; {run.message}")
    if run.alarm:
        print_plain(console, f"ALARM: {run.alarm}")


def start_daemon(store: str | None, slots: int) -> None:
    """`agentopt jobs start`: runs in the foreground until SIGTERM or Ctrl-C; logs JSON lines on stdout."""

    async def serve(jobs: JobStore) -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop.set)
        with as_owner(jobs, data_folder(), time.time) as worker:
            await Daemon(worker, slots=slots).run(stop)

    with _opened(store) as jobs:
        asyncio.run(serve(jobs))


def pause_job(name: str, paused: bool, store: str | None, console: Console) -> None:
    """`agentopt jobs pause` and `agentopt jobs resume`."""
    with _opened(store) as jobs:
        jobs.job(name)
        jobs.pause(name, paused, time.time())
    effect = "paused; a run in progress continues" if paused else "resumed; runs missed during the pause are skipped"
    console.print(f"job {name} is {effect}")


def remove_job(name: str, store: str | None, console: Console) -> None:
    """`agentopt jobs remove`."""
    with _opened(store) as jobs:
        jobs.check_name(name)
        jobs.remove(name)
    kept = champions_of(name).folder
    left = f"; its champions are kept in {kept}" if kept.is_dir() else ""
    print_plain(console, f"job {name} removed{left}")


def roll_back(name: str, number: int | None, store: str | None, console: Console) -> None:
    """`agentopt jobs rollback`: the restored champion stays until data, prices, configuration or code change."""
    with _opened(store) as jobs:
        jobs.job(name)
        champion = champions_of(name).rollback(number)
        jobs.settle(name, None, champion.candidate.key)
        message = f"champion {champion.number} is restored"
        jobs.note(name, time.time(), {"state": "rolled back", "message": message, "champion": champion.number})
    print_plain(console, f"{name}: {message}: {champions_of(name).file}")


def export_job(name: str | None, to: str, store: str | None) -> None:
    """`agentopt jobs export`: prints text, installs nothing."""
    if to == "systemd":
        sys.stdout.write(systemd_unit(sys.executable, data_folder().absolute(), os.environ))
        return
    if name is None:
        raise UserError("a job must be named: cron and Kubernetes run one job each", remedy="add its NAME")
    with _opened(store) as jobs:
        known = jobs.job(name)
    if to == "cron":
        sys.stdout.write(crontab_line(known, sys.executable, data_folder().absolute(), os.environ))
    else:
        sys.stdout.write(kubernetes_cronjob(known))


@contextmanager
def _opened(url: str | None) -> Iterator[JobStore]:
    jobs = open_store(url)
    try:
        yield jobs
    finally:
        jobs.close()


def _runs_folder(job: Job) -> Path:
    return champions_of(job.name).folder / "runs"
