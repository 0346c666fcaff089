"""`agentopt jobs`: what is added, what ran, and the daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agentopt.errors import ConfigError, UserError
from agentopt.jobs.champion import champions_of
from agentopt.jobs.daemon import Daemon
from agentopt.jobs.export import crontab_line, kubernetes_cronjob, systemd_unit
from agentopt.jobs.jobfile import Job, read_job
from agentopt.jobs.run import month_start
from agentopt.jobs.scheduler import next_time
from agentopt.jobs.store import JobRun, JobStore, KnownJob, data_folder, open_store
from agentopt.jobs.worker import as_owner
from agentopt.jobs.world import load_world
from agentopt.report.words import usage_cells

ALARM, FAILED = 3, 1
"""Exit codes of `jobs run-now`, beside 0."""


def add_job(file: Path, store: str | None, console: Console) -> None:
    """`agentopt jobs add`. Everything that can be checked without a model call is checked now."""
    job, folder = read_job(file), Path.cwd()
    now = datetime.now(UTC)
    if next_time(job.schedule, now.timestamp(), now) is None:
        raise ConfigError(
            f"the schedule must have a time, but {job.schedule.cron} never comes",
            where=f"{file}: schedule.cron",
            remedy="correct the day or the month",
        )
    load_world(job, folder, _runs_folder(job))
    with _opened(store) as jobs:
        new = jobs.put(job, folder, now.timestamp())
    console.print(f"job {job.name} {'added' if new else 'updated'}: {job.schedule}", markup=False, highlight=False)


def list_jobs(store: str | None, console: Console) -> None:
    """`agentopt jobs list`."""
    table = Table()
    for column in ("job", "schedule", "next time", "last run", "champion", "USD this month"):
        table.add_column(column)
    with _opened(store) as jobs:
        for known in jobs.jobs():
            table.add_row(*_row(known, jobs))
    console.print(table if table.row_count else "no jobs; `agentopt jobs add FILE` adds one")


def _row(known: KnownJob, jobs: JobStore) -> tuple[str, ...]:
    job, (last, *_) = known.job, (*jobs.history(known.job.name, 1), None)
    spent = jobs.spent_since(job.name, month_start(time.time(), job.schedule))
    champion = champions_of(job.name).current()
    ended = f"{last.state}{', ALARM' if last.alarm else ''}, {_shown(last.started, job)}" if last else "-"
    return (
        job.name,
        str(job.schedule),
        _next(known),
        ended,
        str(champion.number) if champion else "-",
        f"{spent.usd:.4f}",
    )


def _next(known: KnownJob) -> str:
    if known.paused:
        return "paused"
    found = next_time(known.job.schedule, known.since, datetime.now(UTC))
    return _shown(found.timestamp(), known.job) if found else "-"


def _shown(moment: float, job: Job) -> str:
    return datetime.fromtimestamp(moment, job.schedule.zone).strftime("%Y-%m-%d %H:%M:%S %Z")


def show_job(name: str, store: str | None, console: Console) -> None:
    """`agentopt jobs show`."""
    with _opened(store) as jobs:
        known = jobs.job(name)
        cells = _row(known, jobs)
    champions = champions_of(name)
    current = champions.current()
    for title, text in zip(("job", "schedule", "next time", "last run"), cells, strict=False):
        console.print(f"{title}: {text}", markup=False, highlight=False)
    console.print(f"task: {known.folder / known.job.task}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"champion: {champions.file}", markup=False, highlight=False, soft_wrap=True)
    table = Table("", "champion", "since", "why", "candidate")
    for number in champions.numbers():
        champion = champions.get(number)
        chosen = ", ".join(f"{s}: {c.model} x{c.num_samples}" for s, c in champion.candidate.items())
        mark = "->" if current and current.number == number else ""
        table.add_row(mark, str(number), champion.record.time, escape(champion.record.reason), escape(chosen))
    console.print(table if table.row_count else "no champion yet: the first run makes one")


def show_history(name: str, store: str | None, limit: int, console: Console) -> None:
    """`agentopt jobs history`."""
    table = Table()
    for column in ("started", "state", "champion", "calls", "prompt tokens", "completion tokens", "USD", "message"):
        table.add_column(column)
    with _opened(store) as jobs:
        runs = jobs.history(name, limit)
        job = next((known.job for known in jobs.jobs() if known.job.name == name), None)
        if not runs:
            jobs.job(name)
    for run in runs:
        table.add_row(*_history_cells(run, job))
    console.print(table if runs else f"job {name} has not run yet", markup=False)


def _history_cells(run: JobRun, job: Job | None) -> tuple[str, ...]:
    started = _shown(run.started, job) if job else datetime.fromtimestamp(run.started, UTC).isoformat(" ", "seconds")
    alarm = f"ALARM: {run.alarm}. " if run.alarm else ""
    champion = "-" if run.champion is None else str(run.champion)
    return started, run.state, champion, *usage_cells(run.spent), escape(alarm + run.message)


def run_now(name: str, store: str | None, console: Console) -> None:
    """`agentopt jobs run-now`: one run in the foreground, also of a paused job.

    Exits with 3 where the champion raised an alarm, with 1 where the run failed.
    """
    with _opened(store) as jobs, as_owner(jobs, data_folder(), time.time) as worker:
        jobs.job(name)
        try:
            run = asyncio.run(worker.work(worker.claim_now(name)))
        except KeyboardInterrupt:
            console.print(f"stopped; `agentopt jobs run-now {name}` goes on, and so does `agentopt jobs start`")
            sys.exit(130)
    console.print(f"{name}: {run.state}; {run.message}", markup=False, highlight=False, soft_wrap=True)
    if run.alarm:
        console.print(f"ALARM: {run.alarm}", markup=False, highlight=False, soft_wrap=True)
    if run.alarm or run.state == "failed":
        sys.exit(ALARM if run.alarm else FAILED)


def start_daemon(store: str | None, slots: int) -> None:
    """`agentopt jobs start`: in the foreground until SIGTERM or Ctrl-C; the log is JSON lines on stdout."""

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
    said = (
        "is paused; a run that is under way goes on" if paused else "is resumed; what the pause missed is not made up"
    )
    console.print(f"job {name} {said}")


def remove_job(name: str, store: str | None, console: Console) -> None:
    """`agentopt jobs remove`."""
    with _opened(store) as jobs:
        jobs.job(name)
        jobs.remove(name)
    kept = champions_of(name).folder
    console.print(f"job {name} removed; its history and champions are kept in {kept}", markup=False, soft_wrap=True)


def roll_back(name: str, number: int | None, store: str | None, console: Console) -> None:
    """`agentopt jobs rollback`. What was put back stays until data, prices, configuration or code change."""
    with _opened(store) as jobs:
        jobs.job(name)
        champion = champions_of(name).rollback(number)
        jobs.settle(name, None, champion.candidate.key)
        message = f"champion {champion.number} is in its place again"
        jobs.note(name, time.time(), {"state": "rolled back", "message": message, "champion": champion.number})
    console.print(f"{name}: {message}: {champions_of(name).file}", markup=False, highlight=False, soft_wrap=True)


def export_job(name: str | None, systemd: bool, cron: bool, kubernetes: bool, store: str | None) -> None:
    """`agentopt jobs export`: prints text, installs nothing."""
    if [systemd, cron, kubernetes].count(True) != 1:
        raise UserError("exactly one of --systemd, --cron and --kubernetes must be given", remedy="choose one")
    if systemd:
        sys.stdout.write(systemd_unit(sys.executable, data_folder().absolute(), os.environ))
        return
    if name is None:
        raise UserError("a job must be named: cron and Kubernetes run one job each", remedy="add its NAME")
    with _opened(store) as jobs:
        known = jobs.job(name)
    if cron:
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
