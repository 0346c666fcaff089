"""Two hosts that cannot reach each other for 30 seconds: the run completes, and only calls in flight are paid again.

The hosts are network namespaces (Linux, root, `ip` of iproute2). The first one has the database and the endpoint. From
the second one no packet arrives, nor does a refusal: the link-layer address of its neighbour is wrong.

    pytest -n0 -s -m faults tests/faults/test_partition.py
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import psycopg
import pytest

from agentopt.runs.result import Result, load_result
from agentopt.runs.run_store import open_store
from agentopt.testing.postgres import PostgresServer
from agentopt.testing.server_process import ServerProcess
from tests.faults.test_killed_processes import CHOICES, SEARCH, quiet, undisturbed
from tests.runs.test_crash import QUALITY, command, request_counts
from tests.runs.test_workers import children, write_distinct_task

__all__ = ["undisturbed"]

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(
        not sys.platform.startswith("linux") or os.geteuid() != 0 or not shutil.which("ip"),
        reason="network namespaces need Linux, root and `ip`",
    ),
]

PARTITION_SECONDS = 30
NOBODY = "02:00:00:00:00:01"
"""A link-layer address that no interface has."""


@contextmanager
def relay(address: str, port: int) -> Iterator[None]:
    """Make a port of 127.0.0.1 a port of another address of this host."""
    command = [sys.executable, "-m", "tests.faults.relay", address, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            process.kill()


class SecondHost:
    """A network namespace that is linked to this one.

    Attributes:
        first: The address of this host in the network of both.
    """

    def __init__(self) -> None:
        name = f"ao{secrets.token_hex(4)}"
        self._name, self._here, self._there, part = name, f"{name}a", f"{name}b", random.randrange(256)
        self.first, self._second = f"10.213.{part}.1", f"10.213.{part}.2"

    def __enter__(self) -> Self:
        ip("netns", "add", self._name)
        ip("link", "add", self._here, "type", "veth", "peer", "name", self._there, "netns", self._name)
        ip("addr", "add", f"{self.first}/24", "dev", self._here)
        ip("link", "set", self._here, "up")
        self._ip("addr", "add", f"{self._second}/24", "dev", self._there)
        self._ip("link", "set", self._there, "up")
        self._ip("link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        ip("netns", "del", self._name)

    def start(self, command: list[str], folder: Path) -> subprocess.Popen[bytes]:
        """Start a process there."""
        return started(["ip", "netns", "exec", self._name, *command], folder)

    @contextmanager
    def partition(self) -> Iterator[None]:
        """Between the two hosts no packet arrives."""
        ip("neigh", "replace", self._second, "lladdr", NOBODY, "nud", "permanent", "dev", self._here)
        self._ip("neigh", "replace", self.first, "lladdr", NOBODY, "nud", "permanent", "dev", self._there)
        yield
        ip("neigh", "del", self._second, "dev", self._here)
        self._ip("neigh", "del", self.first, "dev", self._there)

    def _ip(self, *arguments: str) -> None:
        ip("-n", self._name, *arguments)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


class Hosts:
    """A run whose coordinator is on one host, with a worker of its own; `agentopt worker` runs on the other.

    Args:
        folder: Of the run.
        second: The host of the worker by hand, or of the coordinator.
        server: The endpoint.
        place: The storage, as this host reaches it.
        worker_away: Whether the second host has the worker by hand.
    """

    def __init__(
        self, folder: Path, second: SecondHost, server: ServerProcess, place: str, *, worker_away: bool
    ) -> None:
        task = write_distinct_task(folder, server.base_url.replace("127.0.0.1", second.first))
        url, self._place = place.replace("127.0.0.1", second.first), place
        places = (f"storage={url}", f"journal={url}")
        begun = command(task, folder, *SEARCH, "engine=processes", "workers=1", *places)
        joined = [sys.executable, "-m", "agentopt", "worker", "--storage", url]
        other = folder / "other"
        other.mkdir()
        starts = (started, second.start) if worker_away else (second.start, started)
        self.coordinator, self.worker = starts[0](begun, folder), starts[1](joined, other)
        self._away = self.worker if worker_away else self.coordinator

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self.coordinator, self.worker):
            left = family(process.pid) - {process.pid}
            process.kill()
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.communicate()

    def calls_in_flight(self) -> int:
        """The calls of the processes on the second host that are not settled."""
        query = "SELECT COUNT(*) FROM ledger JOIN members ON session = members.id WHERE outcome = 'in flight'"
        owners = [f"%/{pid}/%" for pid in family(self._away.pid)]
        with psycopg.connect(self._place) as connection:
            found = connection.execute(f"{query} AND process LIKE ANY(%s)".encode(), (owners,)).fetchone()
        return int(found[0]) if found else 0

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 300
        while not condition():
            assert self.worker.poll() is None, self.worker.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)


def started(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=quiet(folder), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def family(pid: int) -> set[int]:
    """A process and its descendants."""
    return {pid}.union(*map(family, children(pid)))


@pytest.mark.parametrize("worker_away", [True, False], ids=["the worker", "the coordinator"])
def test_a_partition_repeats_only_the_calls_in_flight(
    tmp_path: Path, undisturbed: Result, postgres_server: PostgresServer, postgres_url: str, *, worker_away: bool
) -> None:
    with ExitStack() as stack:
        second = stack.enter_context(SecondHost())
        server = ServerProcess(counter=tmp_path / "requests.jsonl", quality=QUALITY, delay=0.5)
        stack.enter_context(server)
        for url in (server.base_url, postgres_url):
            port = int(url.partition("127.0.0.1:")[2].partition("/")[0])
            stack.enter_context(relay(second.first, port))
        hosts = stack.enter_context(Hosts(tmp_path, second, server, postgres_url, worker_away=worker_away))
        hosts.wait(lambda: len(server.received()) > 60 and hosts.calls_in_flight() > 0)
        with second.partition():
            in_flight, before = hosts.calls_in_flight(), len(server.received())
            time.sleep(PARTITION_SECONDS)
            meanwhile = len(server.received()) - before
        output = hosts.coordinator.communicate(timeout=600)[1].decode()
        assert (hosts.coordinator.returncode == 0) == worker_away, output
        with open_store(postgres_url) as (store, _):
            hosts.wait(lambda: bool(store.runs()[0].result) and not store.runs()[0].is_running)
        again = sum(times - 1 for times in request_counts(server).values())
        received = len(server.received())
    print(f"{in_flight} calls in flight, {meanwhile} requests meanwhile, {received} in all, {again} choices again")
    assert again <= in_flight * CHOICES
    if not worker_away:
        assert "another process has continued this run" in output
    (run,) = (tmp_path / ("runs" if worker_away else "other/runs")).iterdir()
    result = load_result(run)
    assert result.best_candidate == undisturbed.best_candidate
    assert [trial.candidate for trial in result.trials] == [trial.candidate for trial in undisturbed.trials]
    assert [trial.score for trial in result.trials] == [trial.score for trial in undisturbed.trials]
    assert received <= result.total.calls <= received + in_flight
