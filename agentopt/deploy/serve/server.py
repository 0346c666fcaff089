"""Runs the server: its socket, its session with budget and journal, and a graceful shutdown.

The caps of the configuration apply to the server's lifetime. On SIGTERM or SIGINT it accepts no more connections,
completes the calls in flight and closes its session.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentopt.core.candidate import Candidate, load_candidate
from agentopt.core.errors import UserError
from agentopt.core.files import other_than_file
from agentopt.core.outages import Patience
from agentopt.deploy.deployment import Deployment
from agentopt.deploy.serve.access import Access, is_loopback
from agentopt.deploy.serve.app import Application
from agentopt.deploy.serve.handler import SEEDS, ChatHandler, fresh_seeds
from agentopt.deploy.serve.hot_reload import Watched
from agentopt.deploy.serve.limits import DEFAULT_LIMITS, ServerLimits, check_limits
from agentopt.deploy.serve.metrics import Metrics
from agentopt.deploy.serve.web_server import WebServer
from agentopt.evaluation.candidate_check import checked_candidate
from agentopt.models.base import ChatModel
from agentopt.models.router import ModelRouter
from agentopt.models.session import open_session


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Settings of a server.

    Attributes:
        host: Name or address to listen at.
        port: TCP port; 0 for a free one.
        key_file: File of API keys; None allows programs on this machine only.
        watch: Whether the candidate's file is reloaded when it is replaced.
        cache: Whether responses may come from the journal.
        limits: Limits of connections and requests.
        tls: Files of the certificate chain and of its private key; None for plain HTTP.
        key: The API key that programs on this machine need if there is no file of keys; None for none.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    key_file: Path | None = None
    watch: bool = False
    cache: bool = False
    limits: ServerLimits = DEFAULT_LIMITS
    tls: tuple[Path, Path] | None = None
    key: str | None = None


async def serve(
    deployment: Deployment,
    settings: ServeSettings,
    *,
    on_start: Callable[[str], None] = lambda _: None,
    stop: asyncio.Event | None = None,
    provider: ChatModel | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, or until `stop` is set.

    Args:
        deployment: The candidate and its task.
        settings: Settings of the server.
        on_start: Called with the base URL when the server listens.
        stop: Ends the server.
        provider: Makes the model calls in place of the catalogue's transports.

    Raises:
        UserError: The host is reachable by others but there are no API keys, the port is in use, the key of a
            provider is missing, or the certificate cannot be used.
    """
    if settings.key_file is None and not is_loopback(settings.host):
        raise UserError(
            f"a server that others can reach needs API keys, but got --host {settings.host} alone",
            remedy="add --api-key-file, or omit --host",
        )
    check_limits(settings.limits)
    access, tls = Access.by_file(settings.key_file, settings.key), _tls(settings.tls)
    stopping = asyncio.Event()
    patience = Patience(stopping.is_set)
    with _listening(settings.host, settings.port) as listener, _losses_logged(patience):
        async with _application(deployment, settings, access, provider) as application:

            def drain() -> None:
                stopping.set()
                application.is_draining = True

            server = WebServer(
                application.asgi(), settings.limits, tls, on_drain=drain, on_deadline=application.in_flight.end
            )
            on_start(_base_url(settings, listener))
            await _run(server, listener, stop)


@contextmanager
def _losses_logged(patience: Patience) -> Iterator[None]:
    """Use the patience in the block, and log what could not be stored for an outage of the journal's database."""
    with patience.applied():
        yield
    if losses := patience.losses:
        logging.getLogger(__name__).warning("%s", losses)


@asynccontextmanager
async def _application(
    deployment: Deployment, settings: ServeSettings, access: Access, provider: ChatModel | None
) -> AsyncIterator[Application]:
    task, config = deployment.task, deployment.config
    # A later candidate may use any model of the task; a missing key is reported now.
    names = {*(task.models if settings.watch else deployment.models())}
    names.update(*(deployment.models(one.candidate) for one in deployment.front))
    specs = {name: deployment.specs[name] for name in sorted(names)}

    def load(file: Path) -> Candidate:
        return checked_candidate(load_candidate(file), task)

    watched = Watched(deployment.file, load) if settings.watch else None
    run = f"serve {task.name} {uuid.uuid4().hex}"
    provider = provider or ModelRouter(specs)
    async with open_session(
        specs,
        run,
        caps=config.budget.caps(),
        journal=config.journal,
        provider=provider,
        observer=lambda event: logging.getLogger(__name__).warning("%s", event.message),
        refused=deployment.refused,
    ) as session:
        if isinstance(provider, ModelRouter):
            await provider.load()  # the first request would wait for it, for seconds
        metrics = Metrics(lambda: session.budget.spent.usd)
        seeds = None if settings.cache else fresh_seeds(random.randrange(SEEDS))
        handler = ChatHandler(
            task,
            watched or (lambda: deployment.candidate),
            session.model,
            specs,
            seed=config.response_seed,
            seeds=seeds,
            on_answer=metrics.answered,
            front=deployment.front,
        )
        problem = (lambda: watched.problem) if watched else (lambda: "")
        yield Application(handler, access, metrics, settings.limits, problem)


async def _run(server: WebServer, listener: socket.socket, stop: asyncio.Event | None) -> None:
    async def end() -> None:
        await (stop or asyncio.Event()).wait()
        server.should_exit = True

    ending = asyncio.create_task(end())
    try:
        await server.serve(sockets=[listener])
    finally:
        ending.cancel()


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket. Raises `UserError` if it cannot be opened."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        rule = f"cannot listen at {host}, port {port}: {reason}"
        raise UserError(rule, remedy="choose another --port or --host") from error
    with listener:
        yield listener


def _tls(files: tuple[Path, Path] | None) -> dict[str, Any]:
    """uvicorn's settings of TLS. Raises `UserError` if the files are no certificate with its key."""
    if files is None:
        return {}
    certificate, key = files
    for file in files:
        if kind := other_than_file(file):
            raise UserError(
                f"a certificate and its key must be files, but this is {kind}", where=file, remedy="name a file"
            )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:  # an `ssl.SSLError` is an OSError
        rule = f"the certificate {certificate} with the key {key} cannot be used: {error.args[-1]}"
        remedy = "give a PEM file with the certificate chain and one with its key, which has no password"
        raise UserError(rule, remedy=remedy) from error
    return {"ssl_certfile": str(certificate), "ssl_keyfile": str(key)}


def _base_url(settings: ServeSettings, listener: socket.socket) -> str:
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if settings.tls else 'http'}://{shown}:{listener.getsockname()[1]}/v1"
