"""`agentopt serve`."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from agentopt.cli.output import print_plain
from agentopt.cli.run_names import run_path
from agentopt.core.errors import UserError
from agentopt.core.extras import install_command
from agentopt.core.phrases import in_words
from agentopt.deploy.deployment import Deployment, deploy, find_deployment
from agentopt.runs.config import BudgetConfig, load_config

LIBRARIES = {"serve": ("starlette", "uvicorn", "prometheus_client"), "jobs": ("cronsim",)}
"""Extra -> its libraries that the server needs."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Options of `agentopt serve`, as parsed from the command line."""

    host: str
    """Address to bind."""
    port: int
    """Port; 0 picks a free one."""
    api_key_file: Path | None
    """File with one accepted key per line."""
    cache: bool
    """Whether repeated requests are answered from the journal."""
    max_body: int
    """Maximum size of a request body in bytes."""
    max_in_flight: int
    """Maximum number of concurrent requests."""
    timeout: float
    """Maximum duration of a request in seconds."""


def run_server(
    source: Path | None,
    job: str | None,
    task: Path | None,
    options: ServeOptions,
    config: Sequence[str],
    console: Console,
) -> None:
    """`agentopt serve`: serves until SIGTERM or Ctrl-C, then finishes the requests in flight."""
    _check_arguments(source, job, task, options)
    deployment = _deployment(source, job, task, config)
    from agentopt.deploy.serve.app import ServerLimits
    from agentopt.deploy.serve.server import ServeSettings, serve

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")

    def show_address(base_url: str) -> None:
        print_plain(console, f"serving {deployment.task.name}, candidate {deployment.candidate.key}, at {base_url}")

    limits = ServerLimits(options.max_body, options.max_in_flight, options.timeout)
    key_file, watch = options.api_key_file, job is not None
    settings = ServeSettings(options.host, options.port, key_file, watch, options.cache, limits)
    asyncio.run(serve(deployment, settings, on_start=show_address))


def _deployment(source: Path | None, job: str | None, task: Path | None, config: Sequence[str]) -> Deployment:
    """Load what is served, and check the libraries. A missing run is reported before a missing library."""
    if job is not None:
        _check_installed("serve", "jobs")
        return deployment_of_job(job, config)
    deployment = find_deployment(run_path(_given(source), config), task, config)
    _check_installed("serve")
    return deployment


def deployment_of_job(name: str, config: Sequence[str]) -> Deployment:
    """Return the deployment of a job's champion.

    `config` overrides the job's configuration. The job's budget limits its runs, so it does not apply to the server.

    Raises:
        UserError: The job is unknown or has no champion yet.
    """
    from agentopt.jobs.champion import champions_of
    from agentopt.jobs.snapshot import job_config
    from agentopt.jobs.store import open_store

    with closing(open_store()) as store:
        known = store.job(name)
    champions = champions_of(name)
    if not champions.file.is_file():
        rule = f"the job {name!r} has no champion yet"
        raise UserError(rule, where=champions.file, remedy=f"agentopt jobs run-now {name}")
    base = job_config(known.job, known.folder, champions.folder / "runs")
    base = base.model_copy(update={"budget": BudgetConfig()})
    return deploy(champions.file, (known.folder / known.job.task).absolute(), load_config(config, base))


def _check_installed(*extras: str) -> None:
    """Raise `UserError` if a library of these extras that the server needs is missing."""
    missing = [name for extra in extras for name in LIBRARIES[extra] if not importlib.util.find_spec(name)]
    if missing:
        rule = f"serve needs {in_words(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed"
        raise UserError(rule, remedy=install_command(*extras))


def _check_arguments(source: Path | None, job: str | None, task: Path | None, options: ServeOptions) -> None:
    """Raise `UserError` for arguments that exclude each other, and for an infinite time-out."""
    if source is None and job is None:
        raise UserError(
            "a run, a candidate's file or --job must be given",
            remedy="see `agentopt runs list`",
        )
    if source is not None and job is not None:
        rule = f"only one of a run, a candidate's file and --job may be given, but got {source} and --job {job}"
        raise UserError(rule, remedy="leave one of the two out")
    if job is not None and task is not None:
        raise UserError(f"a job knows its task, but got --task {task}", remedy="leave --task out")
    if not math.isfinite(options.timeout):
        rule = f"`--timeout` must be a number of seconds, but got {options.timeout:g}"
        raise UserError(rule, remedy="write a large number, such as --timeout 86400, for no limit in practice")


def _given(source: Path | None) -> Path:
    assert source is not None, "checked by run_server"
    return source
