"""Processes of a run that are killed or suspended at random moments: one result, and only calls in flight paid again.

The workers are processes of this machine, or in a Ray cluster of two nodes, one of which is removed.

The short form disturbs one run once in each way, and takes about four minutes. The long form does so N times in each:

    pytest -n0 -s -m faults tests/faults/test_killed_processes.py --runs 20
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from agentopt.models.lease import LEASE_SECONDS
from agentopt.runs.result import Result, load_result
from agentopt.testing.server_process import ServerProcess
from tests.runs.ray_cluster import RayCluster, joined, ray_cluster
from tests.runs.test_crash import QUALITY, command, request_counts
from tests.runs.test_placements import workers_of
from tests.runs.test_workers import children, write_distinct_task

__all__ = ["joined", "ray_cluster"]

pytestmark = pytest.mark.faults

SEARCH = ("strategy=random", "budget.trials=6", "prompts.when=never")
CHOICES = 8
"""Most choices of a call."""
PAST_THE_LEASE = LEASE_SECONDS + 2


def quiet(folder: Path) -> dict[str, str]:
    return {**os.environ, "AGENTOPT_CACHE": str(folder / "cache")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The result of the same run in one process."""
    folder = tmp_path_factory.mktemp("calm")
    with ServerProcess(counter=folder / "requests.jsonl", quality=QUALITY) as server:
        begun = command(write_distinct_task(folder, server.base_url), folder, *SEARCH)
        subprocess.run(begun, check=True, env=quiet(folder), stdout=subprocess.DEVNULL)
    return load_result(next((folder / "runs").iterdir()))


class Disturbed:
    """A run in a storage with two workers.

    Args:
        folder: Of the run.
        server: The endpoint.
        rng: Draws the moments.
        engine: What places the workers.
        cluster: The Ray cluster, which gets a second node; None for other engines.

    Attributes:
        raylet: Process whose children are the workers of that node.
        in_flight: Calls that were in flight on the processes that were disturbed.
    """

    def __init__(
        self, folder: Path, server: ServerProcess, rng: random.Random, engine: str, cluster: RayCluster | None
    ) -> None:
        self.folder, self.server, self.rng, self.in_flight = folder, server, rng, 0
        self.engine, self.cluster = engine, cluster
        self.raylet = cluster.add_node(2) if cluster else 0
        self.task = write_distinct_task(folder, server.base_url)
        self.storage, self.runs = folder / "journal.db", folder / "runs"
        self.process = self.start()

    def start(self, *resume: str) -> subprocess.Popen[bytes]:
        settings = (*SEARCH, f"engine={self.engine}", "workers=2", f"storage={self.storage}")
        begun = command(self.task, self.folder, *settings)
        if resume:
            options = [part for setting in (*settings, f"runs={self.runs}") for part in ("-c", setting)]
            begun = [sys.executable, "-m", "agentopt", "optimize", "--resume", *resume, *options]
        return subprocess.Popen(begun, env=quiet(self.folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def wait_for_requests(self) -> bool:
        """Wait for a random moment; False if the run ends before."""
        more = len(self.server.received()) + self.rng.randint(1, 24)
        while len(self.server.received()) < more:
            if self.process.poll() is not None:
                return False
            time.sleep(0.02)
        time.sleep(self.rng.uniform(0, 0.2))
        return self.process.poll() is None

    def suspend(self, pid: int) -> None:
        """Suspend a process, and count its calls in flight."""
        os.kill(pid, signal.SIGSTOP)
        sessions = "SELECT id FROM members WHERE process LIKE ?"
        query = f"SELECT COUNT(*) FROM ledger WHERE outcome = 'in flight' AND session IN ({sessions})"
        self.in_flight += self.read(query, f"%/{pid}/%")

    def read(self, query: str, *values: str) -> int:
        with closing(sqlite3.connect(self.storage, timeout=60)) as connection:
            return int(connection.execute(query, values).fetchone()[0])

    def worker(self) -> int | None:
        found = workers_of(self.storage, self.process.pid)
        return self.rng.choice(found) if found else None


def kill_a_worker(run: Disturbed) -> bool:
    if (worker := run.worker()) is None:
        return False
    run.suspend(worker)
    os.kill(worker, signal.SIGKILL)
    return True


def kill_the_coordinator(run: Disturbed) -> bool:
    run.suspend(run.process.pid)
    run.process.kill()
    run.process.communicate()
    run.process = run.start()
    return True


def suspend_a_worker(run: Disturbed) -> bool:
    if (worker := run.worker()) is None:
        return False
    run.suspend(worker)
    time.sleep(PAST_THE_LEASE)
    os.kill(worker, signal.SIGCONT)
    return True


def remove_a_node(run: Disturbed) -> bool:
    """The node's processes end with it. Another one takes its place."""
    assert run.cluster
    lost = set(children(run.raylet)).intersection(workers_of(run.storage, run.process.pid))
    if not lost:
        return False
    for worker in lost:
        run.suspend(worker)
    run.cluster.remove_node()
    for worker in lost:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
    run.raylet = run.cluster.add_node(2)
    return True


def kill_the_driver(run: Disturbed) -> bool:
    """With which Ray kills all workers. The coordinator starts another one."""
    commands = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children(run.process.pid)}
    drivers = [child for child, command in commands.items() if b"ray_driver" in command]
    workers = workers_of(run.storage, run.process.pid)
    if not drivers or not workers:
        return False
    for pid in (*drivers, *workers):
        run.suspend(pid)
    os.kill(drivers[0], signal.SIGKILL)
    return True


def suspend_the_coordinator(run: Disturbed) -> bool:
    """Another process continues the run in a folder of its own, and the first one wakes up after that."""
    suspended, name = run.process, next(run.runs.iterdir()).name
    run.suspend(suspended.pid)
    time.sleep(PAST_THE_LEASE)
    of_suspended = "SELECT COUNT(*) FROM stored_runs, members WHERE member = id AND process LIKE ?"
    assert run.read(of_suspended, f"%/{suspended.pid}/%") == 1
    run.runs = run.runs.with_name(f"{run.runs.name}-later")
    run.process = run.start(name)
    deadline = time.monotonic() + 120
    while run.read(of_suspended, f"%/{suspended.pid}/%"):
        assert run.process.poll() is None
        assert time.monotonic() < deadline, "the run is not continued"
        time.sleep(0.05)
    time.sleep(run.rng.uniform(0, 3))
    suspended.send_signal(signal.SIGCONT)
    _, output = suspended.communicate(timeout=300)
    assert suspended.returncode != 0
    assert b"another process has continued this run" in output, output
    return True


DISTURBANCES = (kill_a_worker, kill_the_coordinator, suspend_a_worker, suspend_the_coordinator)
BY_ENGINE = {"processes": DISTURBANCES, "ray": (*DISTURBANCES, remove_a_node, kill_the_driver)}


@pytest.mark.parametrize(("engine", "disturb"), [(engine, one) for engine in BY_ENGINE for one in BY_ENGINE[engine]])
def test_only_calls_in_flight_on_a_disturbed_process_are_paid_again(
    tmp_path: Path,
    undisturbed: Result,
    request: pytest.FixtureRequest,
    engine: str,
    disturb: Callable[[Disturbed], bool],
) -> None:
    cluster = request.getfixturevalue("joined") if engine == "ray" else None
    wanted, rng, done = request.config.getoption("--runs") or 1, random.Random(disturb.__name__), 0
    while done < wanted:
        folder = tmp_path / f"after-{done}"
        folder.mkdir()
        with ServerProcess(counter=folder / "requests.jsonl", quality=QUALITY, delay=0.1) as server:
            run, here = Disturbed(folder, server, rng, engine, cluster), 0
            while done + here < wanted and run.wait_for_requests():
                here += disturb(run)
            _, output = run.process.communicate(timeout=600)
            assert run.process.returncode == 0, output
            again = sum(times - 1 for times in request_counts(server).values())
            received, result = len(server.received()), load_result(next(run.runs.iterdir()))
        if cluster:
            cluster.remove_node()
        done += here
        summary = f"{engine}, {disturb.__name__}: {here} times, {received} requests, {again} choices again"
        print(f"{summary}, {run.in_flight} calls in flight on what was disturbed")
        assert again <= run.in_flight * CHOICES
        assert result.best_candidate == undisturbed.best_candidate
        assert [trial.candidate for trial in result.trials] == [trial.candidate for trial in undisturbed.trials]
        assert [trial.score for trial in result.trials] == [trial.score for trial in undisturbed.trials]
        assert received <= result.total.calls <= received + run.in_flight
