"""Each engine starts, replaces and ends workers alike."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml

from agentopt import api
from agentopt.core.database import open_engine
from agentopt.core.errors import CallsFailError
from agentopt.core.events import Event, ExampleDone
from agentopt.models.journal_tables import ledger
from agentopt.models.lease import members
from agentopt.runs.config import RaySettings, load_config
from agentopt.runs.result import load_result
from agentopt.runs.workers.evaluator import Placement
from agentopt.runs.workers.processes import ProcessPlacement
from agentopt.runs.workers.ray_placement import RayPlacement
from agentopt.testing.server_process import ServerProcess
from tests.runs.ray_cluster import API_KEY, RayCluster, joined, ray_cluster
from tests.runs.test_crash import QUALITY, command, lost_in_flight, places, request_counts
from tests.runs.test_stopped_workers import CANARY_CALLS, EACH, Held, until, write_narrow_task
from tests.runs.test_workers import coordinating, write_distinct_task

__all__ = ["joined", "ray_cluster"]

SEARCH = ("strategy=random", "prompts.when=never")


@pytest.fixture(params=["processes", "ray"])
def engine(request: pytest.FixtureRequest) -> str:
    """The engine of a test. A Ray cluster is there for that of Ray."""
    if request.param == "ray":
        request.getfixturevalue("joined")
    return str(request.param)


def placed(
    engine: str, folder: Path, workers: int, *, call_seconds: float = 0.0, end_seconds: float = 20.0
) -> Placement:
    """Workers for the run of `coordinating`."""
    place = folder / "journal.db"
    if engine == "ray":
        return RayPlacement(place, "run", workers, call_seconds, RaySettings(), end_seconds=end_seconds)
    return ProcessPlacement(place, "run", workers, call_seconds, end_seconds=end_seconds)


def workers_of(place: Path | str, coordinator: int) -> list[int]:
    """The process ids of the workers that use a storage."""
    database = open_engine(place)
    try:
        with database.connect() as connection:
            rows = connection.execute(sa.select(members.c.process)).scalars()
            found = {int(process.split("/")[-2]) for process in rows}
    except sa.exc.DatabaseError:  # there are no tables yet
        return []
    finally:
        database.dispose()
    return sorted(pid for pid in found - {coordinator} if is_alive(pid))


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def claimed_chunks(folder: Path) -> int:
    """The chunks that workers have. Those that are interrupted return them at once."""
    with closing(sqlite3.connect(folder / "journal.db", timeout=60)) as journal:
        return int(journal.execute("select count(*) from chunks where state = 'open' and member != ''").fetchone()[0])


async def start(task: Path, folder: Path, *settings: str) -> asyncio.subprocess.Process:
    arguments = command(task, folder, *SEARCH, "budget.trials=3", *settings)
    environ = {**os.environ, "AGENTOPT_CACHE": str(folder / "cache")}
    return await asyncio.create_subprocess_exec(*arguments, env=environ, stdout=DEVNULL, stderr=PIPE)


async def interrupt(process: asyncio.subprocess.Process) -> None:
    """Send Ctrl-C, and wait for the line that says that it was noticed."""
    process.send_signal(signal.SIGINT)
    assert process.stderr
    async with asyncio.timeout(300):
        async for line in process.stderr:
            if line.startswith(b"stopping"):
                assert b"waiting for 4 calls in flight; press Ctrl-C again to end now" in line
                return
    raise AssertionError("the run ended")


async def test_after_ctrl_c_no_worker_sends_a_call_and_those_in_flight_are_stored(tmp_path: Path, engine: str) -> None:
    async with Held() as server:
        task = write_narrow_task(tmp_path, server.base_url)
        process = await start(task, tmp_path, f"engine={engine}", "workers=2")
        await until(lambda: server.in_flight == 2 * EACH)
        await interrupt(process)
        await until(lambda: not claimed_chunks(tmp_path))
        server.release.set()
        _, err = await process.communicate()
        assert process.returncode == 130, err
        assert server.calls == CANARY_CALLS + 2 * EACH
    assert lost_in_flight(tmp_path) == 0


async def test_the_second_ctrl_c_ends_the_run_and_its_workers_at_once(tmp_path: Path, engine: str) -> None:
    async with Held() as server:
        task = write_narrow_task(tmp_path, server.base_url)
        process = await start(task, tmp_path, f"engine={engine}", "workers=2")
        await until(lambda: server.in_flight == 2 * EACH)
        workers = workers_of(tmp_path / "journal.db", process.pid)
        assert len(workers) == 2
        await interrupt(process)
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert process.returncode == 130, err
        assert b"Traceback" not in err
        if engine == "ray":  # which ends them once their driver is gone
            await until(lambda: not any(map(is_alive, workers)))
        assert not any(map(is_alive, workers))
    assert lost_in_flight(tmp_path) == 2 * EACH


async def test_interrupted_workers_end_while_their_run_has_a_coordinator(tmp_path: Path, engine: str) -> None:
    async with Held() as server:
        write_narrow_task(tmp_path, server.base_url)
        async with coordinating(tmp_path, server.base_url):
            placement = placed(engine, tmp_path, 2)
            try:
                await placement.started(lambda _: None)
                await until(lambda: len(workers_of(tmp_path / "journal.db", os.getpid())) == 2)
                for _ in range(2):
                    placement.interrupt()
                await placement.ended()
                await until(lambda: not workers_of(tmp_path / "journal.db", os.getpid()))
            finally:
                placement.kill()


async def test_a_worker_that_does_not_end_in_its_time_is_killed(tmp_path: Path, engine: str) -> None:
    async with Held() as server:
        write_narrow_task(tmp_path, server.base_url)
        async with coordinating(tmp_path, server.base_url):
            placement = placed(engine, tmp_path, 1, call_seconds=0.1, end_seconds=0.1)
            try:
                await until(lambda: workers_of(tmp_path / "journal.db", os.getpid()))
                (worker,) = workers_of(tmp_path / "journal.db", os.getpid())
                os.kill(worker, signal.SIGSTOP)
                await until(lambda: ") T " in Path(f"/proc/{worker}/stat").read_text())  # now it reads no other signal
                placement.interrupt()
                await asyncio.wait_for(placement.ended(), 60)
                assert is_alive(worker) or engine == "ray"
            finally:
                placement.kill()
            await until(lambda: not is_alive(worker))


async def test_a_worker_that_cannot_load_the_task_ends_the_run_with_its_message(tmp_path: Path, engine: str) -> None:
    async with Held() as server:
        task = write_narrow_task(tmp_path, server.base_url)
        async with coordinating(tmp_path, server.base_url):
            (task / "task.yaml").unlink()
            placement = placed(engine, tmp_path, 1)
            try:
                with pytest.raises(CallsFailError, match=r"a worker .*task\.yaml"):
                    await until(placement.check)
            finally:
                placement.kill()


@pytest.mark.parametrize("kills", [1, pytest.param(2, marks=pytest.mark.faults)])
@pytest.mark.parametrize("engine", ["processes", pytest.param("ray", marks=pytest.mark.faults)], indirect=True)
def test_a_killed_worker_costs_its_calls_in_flight_and_nothing_else(tmp_path: Path, kills: int, engine: str) -> None:
    rng = random.Random(kills)
    quiet = {**os.environ, "AGENTOPT_CACHE": str(tmp_path / "cache")}
    with ServerProcess(counter=tmp_path / "calm.jsonl", quality=QUALITY) as calm:
        task = write_distinct_task(tmp_path / "calm", calm.base_url)
        undisturbed = api.optimize(task, load_config([*places(tmp_path / "calm"), *SEARCH, "budget.trials=6"]))
    folder = tmp_path / "stormy"
    with ServerProcess(counter=tmp_path / "stormy.jsonl", quality=QUALITY, delay=0.1) as stormy:
        task = write_distinct_task(folder, stormy.base_url)
        settings = (*SEARCH, "budget.trials=6", f"engine={engine}", "workers=2")
        run = subprocess.Popen(command(task, folder, *settings), env=quiet, stdout=DEVNULL, stderr=PIPE)
        killed = 0
        for _ in range(kills):
            more = len(stormy.received()) + rng.randint(1, 12)
            while len(stormy.received()) < more and run.poll() is None:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.2))
            if workers := workers_of(folder / "journal.db", run.pid):
                os.kill(rng.choice(workers), signal.SIGKILL)
                killed += 1
        _, output = run.communicate(timeout=600)
        assert run.returncode == 0, output
        result = load_result(next((folder / "runs").iterdir()))
        again, lost = sum(times - 1 for times in request_counts(stormy).values()), lost_in_flight(folder)
        received = len(stormy.received())
    print(f"{killed} kills, {received} requests, {again} choices again, {lost} calls in flight at a kill")
    assert killed
    assert again <= lost * 8  # choices of a call
    assert result.best_candidate == undisturbed.best_candidate
    assert [t.candidate for t in result.trials] == [t.candidate for t in undisturbed.trials]
    assert received <= result.total.calls <= received + lost


GCS_TABLES = """
import sys
import ray
from ray._private.state import state
ray.init(log_to_driver=False, logging_level="ERROR")
tables = state._connect_and_get_accessor()
jobs, processes, nodes = tables.get_job_table(), tables.get_worker_table(), tables.get_node_table()
for row in (*jobs, *processes, *nodes, *tables.get_actor_table(None, None)):
    sys.stdout.buffer.write(row if isinstance(row, bytes) else repr(row).encode())
"""


def shown_by_ray(cluster: RayCluster) -> bytes:
    """The logs of a cluster, and what its tables have of jobs, actors, processes and nodes."""
    logs = b"".join(file.read_bytes() for file in cluster.folder.rglob("*") if file.is_file())
    tables = subprocess.run([sys.executable, "-c", GCS_TABLES], check=True, stdout=PIPE).stdout
    assert b"Worker" in tables
    assert b"works for run" in logs
    return logs + tables


def shown_by_the_system() -> bytes:
    """The command lines of all processes."""
    found = b""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += file.read_bytes()
        except OSError:  # it has ended
            continue
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A storage of each dialect: a path, or a URL with a password."""
    return str(tmp_path / "journal.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.mark.parametrize(
    ("storage", "cap"),
    [("sqlite", "calls"), pytest.param("postgresql", "usd", marks=pytest.mark.faults)],
    indirect=["storage"],
)
def test_four_ray_workers_never_pass_a_cap_and_ray_shows_no_secret(
    tmp_path: Path, joined: RayCluster, monkeypatch: pytest.MonkeyPatch, storage: str, cap: str
) -> None:
    monkeypatch.setenv("RAY_TEST_KEY", API_KEY)
    most = {"calls": 150, "usd": 0.01}[cap]
    with ServerProcess(counter=tmp_path / "requests.jsonl", quality=QUALITY, delay=0.05) as server:
        task = write_distinct_task(tmp_path, server.base_url)
        catalog = yaml.safe_load((tmp_path / "models.yaml").read_text())
        for entry in catalog["models"].values():
            entry |= {"usd_per_1m_prompt": 5, "usd_per_1m_completion": 10, "api_key_env": "RAY_TEST_KEY"}
        (tmp_path / "models.yaml").write_text(yaml.safe_dump(catalog))
        limits = (f"budget.{cap}={most}", "budget.trials=20", "engine=ray", "workers=4", f"storage={storage}")
        where = (f"runs={tmp_path}/runs", f"models=[{tmp_path}/models.yaml]")
        seen = list[bytes]()

        def look(event: Event) -> None:
            if isinstance(event, ExampleDone) and len(seen) < 3:
                seen.append(shown_by_the_system())

        result = api.optimize(task, load_config([*where, *SEARCH, *limits]), callbacks=[look])
        received = len(server.received())
    database = open_engine(Path(storage) if cap == "calls" else storage)
    with database.connect() as connection:
        amounts = connection.execute(sa.select(sa.func.sum(ledger.c.calls), sa.func.sum(ledger.c.usd))).one()
    database.dispose()
    print(f"{received} requests; the ledger has {amounts[0]} calls, {amounts[1]:.4f} USD")
    assert received == amounts[0] == result.total.calls
    assert 0.5 * most < (received if cap == "calls" else amounts[1]) <= most, "the cap is what ended the run"
    assert result.ended.cap == cap
    secrets = [API_KEY] if cap == "calls" else [API_KEY, str(sa.make_url(storage).password)]
    shown = shown_by_ray(joined) + b"".join(seen)
    assert [secret for secret in secrets if secret.encode() in shown] == []
