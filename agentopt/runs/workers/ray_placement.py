"""Workers in a Ray cluster, as the coordinator of a run sees them: a process that is Ray's driver places them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from importlib import metadata
from pathlib import Path

import sqlalchemy as sa

from agentopt.core.errors import CallsFailError, ConfigError
from agentopt.core.events import Note, Observer
from agentopt.core.extras import install_command
from agentopt.core.message_text import counted
from agentopt.runs.config import RaySettings
from agentopt.runs.workers.processes import END_SECONDS, LONGEST_POLL, ProcessPlacement

SHUTDOWN_SECONDS = 10.0
"""Seconds that the driver has to end, beyond those of its workers: it may have a cluster to stop."""
QUIET_SECONDS = 10.0
"""Seconds without a worker after which a message says that one is waited for."""
STARTED, FAILED = "started", "failed"
"""Files in which the driver writes that a worker has started, and why it ended."""


class RayPlacement(ProcessPlacement):
    """Workers in a Ray cluster.

    Ray's driver is a process of its own: it sets signal handlers, prints, blocks, and is ended if the cluster is lost.

    Args:
        place: The storage.
        run: The run.
        workers: Number of workers.
        call_seconds: The longest time-out of a call.
        settings: What each worker takes of the cluster.
        end_seconds: Seconds that a worker has to end, beyond that time-out, before it is killed.
    """

    def __init__(
        self,
        place: Path | str,
        run: str,
        workers: int,
        call_seconds: float,
        settings: RaySettings,
        *,
        end_seconds: float = END_SECONDS,
    ) -> None:
        self._driven = {
            **settings.model_dump(),
            "run": run,
            "workers": workers,
            "end_seconds": call_seconds + end_seconds,
            "needs_one_host": isinstance(place, Path) or sa.make_url(place).get_backend_name() == "sqlite",
            "coordinator": os.getpid(),
        }
        super().__init__(place, run, 1, call_seconds, end_seconds=end_seconds + SHUTDOWN_SECONDS)

    async def started(self, observe: Observer) -> None:
        """Wait until a worker has started.

        Args:
            observe: Receives a `Note` if that takes long, and one if there is no room for all workers.

        Raises:
            ConfigError: The cluster cannot be used.
        """
        file, begun, is_noted = self._file(STARTED), time.monotonic(), False
        while not file.exists():
            if self._file(FAILED).exists() or self._processes[0].poll() is not None:
                message, remedy = self._reason()
                raise ConfigError(message, where="engine ray", remedy=remedy)
            if not is_noted and time.monotonic() - begun > QUIET_SECONDS:
                is_noted = True
                observe(Note("waiting for the Ray cluster to start a worker"))
            await asyncio.sleep(LONGEST_POLL)
        room, workers = json.loads(file.read_text()), self._driven["workers"]
        if room < workers:
            found = f"the nodes of the Ray cluster have room for {room} of {counted(workers, 'worker')}"
            observe(Note(f"{found}, by ray.num_cpus, ray.num_gpus and ray.resources; the others wait for more"))

    def check(self) -> None:
        """Start the driver again if it was killed. It replaces the workers.

        Raises:
            CallsFailError: A worker cannot work, or the cluster is lost.
        """
        if self._file(FAILED).exists():  # the driver still waits for calls in flight
            raise self._failure(0, 0)
        super().check()

    def _command(self) -> list[str]:
        driver = "from agentopt.runs.workers.ray_driver import main; main()"
        return [sys.executable, "-c", driver, json.dumps({**self._driven, "folder": self._folder.name})]

    def _failure(self, i: int, code: int) -> CallsFailError:
        message, remedy = self._reason()
        return CallsFailError(message, remedy=remedy)

    def _reason(self) -> tuple[str, str]:
        """Why the driver ended, and the remedy."""
        if self._file(FAILED).exists():
            message, remedy = json.loads(self._file(FAILED).read_text())
            return message, remedy
        return f"the driver of Ray ended: {self._message(0)}", "check the Ray cluster, and start again"

    def _file(self, name: str) -> Path:
        return Path(self._folder.name) / name


def check_ray(library: str = "ray") -> None:
    """Check that Ray is installed.

    Args:
        library: Name of its distribution.

    Raises:
        ConfigError: It is not.
    """
    try:
        metadata.version(library)
    except metadata.PackageNotFoundError:
        raise ConfigError("engine ray needs Ray, which is not installed", remedy=install_command("ray")) from None
