"""Ray's driver of one run: a process that starts workers on the nodes of a cluster, replaces them, and ends them.

`ray_placement` starts it, with its settings as JSON and the storage in an environment variable. SIGTERM lets the
workers end once their calls in flight are answered, and so does the end of the coordinator. No other module may import
Ray.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from agentopt.core.errors import AgentoptError, ConfigError
from agentopt.core.files import write_atomically
from agentopt.core.message_text import in_words
from agentopt.runs.workers.processes import MOST_CHARACTERS, MOST_STARTS, STORAGE_VARIABLE
from agentopt.runs.workers.ray_placement import FAILED, STARTED

ADDRESS_VARIABLE = "RAY_ADDRESS"
"""Ray's own variable for the address of a cluster."""
POLL_SECONDS = 0.2
"""Seconds between two looks whether the coordinator is alive."""
IDLE_SECONDS = 1.0
"""Seconds between two looks of a worker for a coordinator that is suspended: the driver stops it if the run is over."""
STORE_BYTES = 80 * 2**20
"""Size of the object store of a cluster that is started here: nothing goes through it, and Ray allows no less."""
QUIET: Mapping[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
ENOUGH = "set ray.num_cpus, ray.num_gpus and ray.resources to what a node has, or add nodes"
NEEDS_POSTGRESQL = "set storage to a PostgreSQL URL, or use a cluster of this host alone"

Nodes = Sequence[Mapping[str, Any]]
"""As `ray.nodes()` returns them."""


class Worker:
    """A worker in a process of the cluster: a Ray actor with one thread for `work` and one for `stop`.

    It has no async method, with which Ray would call both in one event loop.
    """

    def __init__(self) -> None:
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def ready(self) -> None:
        """Return once the process is there."""

    def work(self, place: str, run: str) -> str:
        """Work until the run is over, or until `stop`.

        Args:
            place: The storage. It is an argument of a method, because Ray keeps those of constructors.
            run: The run.

        Returns:
            Why it cannot work; empty if it could.
        """
        try:
            with asyncio.Runner() as runner:
                self._loop = runner.get_loop()
                runner.run(work_until(self._stopping, place, run))
        except AgentoptError as error:
            return f"a worker on {ray.util.get_node_ip_address()} cannot work: {error}"
        except Exception:  # noqa: BLE001 - a mistake of ours, which the coordinator reports
            return traceback.format_exc()
        return ""

    def stop(self) -> None:
        """Let it send nothing more, and end once its calls in flight are answered."""
        if self._loop is None:
            self._stopping.set()
            return
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._stopping.set)


async def work_until(stopping: asyncio.Event, place: str, run: str) -> None:
    """Work for a run until it is over, or until an event, after which calls in flight are still answered.

    Args:
        stopping: The event.
        place: The storage.
        run: The run.

    Raises:
        ConfigError: The storage is a file of another host, to whose cluster this one was added later.
    """
    from agentopt.models.session import journal_place  # late: the driver does not need it

    storage = journal_place(place)
    if isinstance(storage, Path) and not storage.exists():
        raise ConfigError("the storage is a file of another host", where=storage, remedy=NEEDS_POSTGRESQL)
    ending = asyncio.create_task(stopping.wait())
    working = asyncio.create_task(_work(storage, run))
    await asyncio.wait([ending, working], return_when=asyncio.FIRST_COMPLETED)
    ending.cancel()
    if not working.done():
        working.cancel()
    with suppress(asyncio.CancelledError):
        await working


async def _work(storage: Path | str, run: str) -> None:
    from agentopt.runs.workers.worker import work

    while True:
        await work(storage, run=run, log=print)
        await asyncio.sleep(IDLE_SECONDS)


@dataclass(frozen=True)
class Placed:
    """A worker, as the driver sees it.

    Attributes:
        actor: Handle of the actor.
        ready: Resolved once its process is there.
        outcome: What `work` returns.
        starts: How often a worker was started in its place.
    """

    actor: Any
    ready: Any
    outcome: Any
    starts: int

    @property
    def has_started(self) -> bool:
        """Whether its process is there."""
        with suppress(RayError):
            return is_resolved(self.ready) and ray.get(self.ready) is None
        return False

    @property
    def end(self) -> tuple[str, bool]:
        """Why it ended, once `outcome` is resolved, and whether another one may work in its place."""
        try:
            reason = ray.get(self.outcome)
        except RayTaskError as error:
            return str(error), False
        except RayError as error:  # its process or its node was killed, unless the node cannot load it
            return str(error), not getattr(error, "actor_init_failed", False)
        return reason, not reason


def is_resolved(reference: Any) -> bool:
    """Whether a result is there.

    Args:
        reference: Ray's reference to it.
    """
    return bool(ray.wait([reference], timeout=0)[0])


def connect(needs: Mapping[str, float], workers: int) -> bool:
    """Join the cluster of `RAY_ADDRESS` or of this machine; start one for this run if there is none.

    Args:
        needs: Resource -> what a worker takes of it.
        workers: Number of workers.

    Returns:
        Whether it was started here.

    Raises:
        ConfigError: The cluster cannot be used.
    """
    address = os.environ.get(ADDRESS_VARIABLE, "")
    if "://" in address:
        rule = f"Ray's client is not supported, but {ADDRESS_VARIABLE} is {address}"
        raise ConfigError(rule, remedy="start the run on a node with HOST:PORT as the address, or by `ray job submit`")
    room = {name: workers * amount for name, amount in needs.items() if name not in ("CPU", "GPU")}
    own: dict[str, Any] = {"num_cpus": max(1, math.ceil(workers * needs.get("CPU", 0))), "resources": room}
    try:
        try:
            ray.init(**own, object_store_memory=STORE_BYTES, include_dashboard=False, **QUIET)
        except ValueError:  # a cluster was found: its nodes have resources of their own
            ray.init(**QUIET)
            return False
    except (OSError, RuntimeError, ValueError, RayError) as error:
        rule = f"the Ray cluster {address or 'of this machine'} cannot be used: {error.__cause__ or error}"
        remedy = f"check `ray status` and {ADDRESS_VARIABLE}, or set {ADDRESS_VARIABLE}=local for one of this run alone"
        raise ConfigError(rule, remedy=remedy) from error
    return True


def room_for(needs: Mapping[str, float], resources: Mapping[str, float]) -> float:
    """Return for how many workers a node has room if it has nothing else to do.

    Args:
        needs: Resource -> what a worker takes of it.
        resources: Resource -> what the node has of it.
    """
    return min((resources.get(name, 0.0) / amount + 1e-6) // 1 for name, amount in needs.items()) if needs else math.inf


def check_nodes(nodes: Nodes, here: str, needs: Mapping[str, float], *, needs_one_host: bool, is_own: bool) -> float:
    """Return for how many workers the cluster has room.

    Args:
        nodes: The nodes.
        here: Id of the node of this process.
        needs: Resource -> what a worker takes of it.
        needs_one_host: Whether the storage is a file.
        is_own: Whether no node will be added.

    Raises:
        ConfigError: The storage cannot be reached from a node, or no node has what a worker takes.
    """
    rooms = {node["NodeID"]: room_for(needs, node["Resources"]) for node in nodes if node["Alive"]}
    hosts = {node["NodeManagerAddress"] for node in nodes if rooms.get(node["NodeID"]) or node["NodeID"] == here}
    if needs_one_host and len(hosts) > 1:
        rule = f"the storage is a file of this host, but workers would be on {in_words(sorted(hosts))}"
        raise ConfigError(rule, remedy=NEEDS_POSTGRESQL)
    if is_own and not any(rooms.values()):
        raise ConfigError(f"this machine does not have what a worker takes: {shown(needs)}", remedy=ENOUGH)
    return sum(rooms.values())


def shown(resources: Mapping[str, float]) -> str:
    """Return resources as text.

    Args:
        resources: Name -> amount.
    """
    return ", ".join(f"{name} {amount:g}" for name, amount in resources.items()) or "nothing"


class Driver:
    """Places the workers of a run.

    Args:
        settings: As `ray_placement` passes them.
        place: The storage.
    """

    def __init__(self, settings: Mapping[str, Any], place: str) -> None:
        self._settings, self._place, self._folder = settings, place, Path(settings["folder"])
        amounts = {"CPU": settings["num_cpus"], "GPU": settings["num_gpus"], **settings["resources"]}
        self._needs = {name: amount for name, amount in amounts.items() if amount}
        self._interrupted = threading.Event()
        self._workers: list[Placed] = []

    def run(self) -> int:
        """Place the workers until the run is over. Returns the exit code."""
        code = 0
        try:
            self._run()
        except ConfigError as error:
            write_atomically(self._folder / FAILED, json.dumps([error.message, error.remedy]))
            code = 1
        self._end()
        return code

    def _run(self) -> None:
        workers = self._settings["workers"]
        is_own = connect(self._needs, workers)
        signal.signal(signal.SIGTERM, lambda *_: self._interrupted.set())  # in place of Ray's own handler
        here, one_host = ray.get_runtime_context().get_node_id(), self._settings["needs_one_host"]
        room = check_nodes(ray.nodes(), here, self._needs, needs_one_host=one_host, is_own=is_own)
        self._workers = [self._start() for _ in range(workers)]
        deadline, is_placed = time.monotonic() + self._settings["start_seconds"], False
        # Not `ray.wait`, during which no signal is noticed.
        while not self._interrupted.wait(POLL_SECONDS) and os.getppid() == self._settings["coordinator"]:
            self._workers = [self._checked(worker) for worker in self._workers]
            if not is_placed and any(worker.has_started for worker in self._workers):
                is_placed = True
                write_atomically(self._folder / STARTED, json.dumps(min(room, workers)))
            if not is_placed and time.monotonic() > deadline:
                waited = f"no worker has started on the Ray cluster in {self._settings['start_seconds']:g} s"
                raise ConfigError(f"{waited}: it takes {shown(self._needs)}", remedy=ENOUGH)

    def _start(self, starts: int = 1) -> Placed:
        amounts = {name: amount for name, amount in self._needs.items() if name not in ("CPU", "GPU")}
        options = {"num_cpus": self._settings["num_cpus"], "num_gpus": self._settings["num_gpus"], "resources": amounts}
        kind: Any = ray.remote(Worker)
        actor = kind.options(**options, max_concurrency=2, scheduling_strategy="SPREAD").remote()
        return Placed(actor, actor.ready.remote(), actor.work.remote(self._place, self._settings["run"]), starts)

    def _checked(self, worker: Placed) -> Placed:
        """The worker, or another one in its place if it was killed."""
        if not is_resolved(worker.outcome):
            return worker
        reason, may_be_replaced = worker.end
        if not may_be_replaced or worker.starts >= MOST_STARTS:
            reason = reason[-MOST_CHARACTERS:] or f"a worker ended {MOST_STARTS} times"
            raise ConfigError(reason, remedy="fix the cause and start again")
        return self._start(worker.starts + 1)

    def _end(self) -> None:
        """Let the workers end that have started."""
        for worker in self._workers:
            worker.actor.stop.remote()
        left, deadline = self._workers, time.monotonic() + self._settings["end_seconds"]
        while left and time.monotonic() < deadline:
            ray.wait([worker.outcome for worker in left], num_returns=len(left), timeout=POLL_SECONDS)
            left = [worker for worker in left if worker.has_started and not is_resolved(worker.outcome)]


def main() -> None:
    """Place the workers of the run that the first argument describes."""
    place = os.environ.pop(STORAGE_VARIABLE)  # nor do the processes of a cluster that is started here need it
    code = Driver(json.loads(sys.argv[1]), place).run()
    ray.shutdown()
    sys.exit(code)
