"""`agentopt serve`."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import math
import secrets
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from agentopt.cli.output import print_plain
from agentopt.cli.run_names import CANDIDATE_FILE, run_path
from agentopt.core.errors import UserError
from agentopt.core.extras import install_command
from agentopt.core.message_text import in_words
from agentopt.deploy.deployment import Deployment, deploy, find_deployment
from agentopt.runs.config import BudgetConfig, load_config

if TYPE_CHECKING:
    from agentopt.deploy.serve.server import ServeSettings

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
    max_per_key: int | None = None
    """Maximum number of concurrent requests with one key."""
    max_connections: int = 1000
    """Maximum number of open connections."""
    head_timeout: float = 10.0
    """Seconds for the first byte of a request, and for its headers."""
    body_timeout: float = 60.0
    """Seconds for the body of a request."""
    drain: float = 300.0
    """Seconds for which requests in flight are completed after SIGTERM."""
    tls_cert: Path | None = None
    """PEM file with the certificate chain."""
    tls_key: Path | None = None
    """PEM file with its private key."""
    no_api_key: bool = False
    """Whether programs of this machine are answered without a key."""


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
    from agentopt.deploy.serve.server import serve

    _set_up_log()

    settings = _settings(options, watch=job is not None)

    def show_address(base_url: str) -> None:
        print_plain(console, f"serving {deployment.task.name}, candidate {deployment.candidate.key}, at {base_url}")
        if settings.key:
            print_plain(console, f"API key until this server ends: {settings.key} (lasting ones: --api-key-file)")

    asyncio.run(serve(deployment, settings, on_start=show_address))


def _set_up_log() -> None:
    from agentopt.deploy.serve.log_limit import LogLimit

    handler = logging.StreamHandler()
    handler.addFilter(LogLimit())
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", handlers=[handler])


def _settings(options: ServeOptions, *, watch: bool) -> ServeSettings:
    from agentopt.deploy.serve.limits import ServerLimits
    from agentopt.deploy.serve.server import ServeSettings

    limits = ServerLimits(
        body_bytes=options.max_body,
        in_flight=options.max_in_flight,
        seconds=options.timeout,
        per_key=options.max_per_key,
        connections=options.max_connections,
        first_byte_seconds=options.head_timeout,
        head_seconds=options.head_timeout,
        body_seconds=options.body_timeout,
        drain_seconds=options.drain,
    )
    tls = (options.tls_cert, options.tls_key) if options.tls_cert and options.tls_key else None
    # Without a key, other users of this machine could spend, and so could web pages that it serves.
    key = None if options.api_key_file or options.no_api_key else f"agentopt-{secrets.token_urlsafe(24)}"
    return ServeSettings(options.host, options.port, options.api_key_file, watch, options.cache, limits, tls, key)


def _deployment(source: Path | None, job: str | None, task: Path | None, config: Sequence[str]) -> Deployment:
    """Load what is served, and check the libraries. A missing run is reported before a missing library."""
    if job is not None:
        _check_installed("serve", "jobs")
        return deployment_of_job(job, config)
    deployment = find_deployment(run_path(_given(source), config, otherwise=CANDIDATE_FILE), task, config)
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
    for name in ("timeout", "head_timeout", "body_timeout", "drain"):
        if not math.isfinite(seconds := getattr(options, name)):
            option = f"--{name.replace('_', '-')}"
            rule = f"`{option}` must be a number of seconds, but got {seconds:g}"
            raise UserError(rule, remedy=f"write a large number, such as {option} 86400, for no limit in practice")
    if options.api_key_file and options.no_api_key:
        rule = "only one of --api-key-file and --no-api-key may be given, but got both"
        raise UserError(rule, remedy="leave one of the two out")
    if bool(options.tls_cert) != bool(options.tls_key):
        given, missing = ("cert", "key") if options.tls_cert else ("key", "cert")
        rule = f"HTTPS needs a certificate and its key, but got --tls-{given} alone"
        raise UserError(rule, remedy=f"add --tls-{missing}")


def _given(source: Path | None) -> Path:
    assert source is not None, "checked by run_server"
    return source
