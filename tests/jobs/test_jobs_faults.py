"""`agentopt jobs start` as a process: daemons that are killed, two concurrent ones, and a job every 2 seconds."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from jobs_place import QUALITY, Place, request_counts

from agentopt.jobs.jobfile import read_job
from agentopt.jobs.store import JobStore
from agentopt.jobs.tables import JobRun
from agentopt.testing.server_process import ServerProcess

MANY = pytest.mark.faults


def call(place: Place, *arguments: str, code: int = 0) -> str:
    """Run one command and return its output, with stderr."""
    done = subprocess.run(
        place.command(*arguments), cwd=place.folder, env=place.environ, capture_output=True, text=True
    )
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def start(place: Place) -> subprocess.Popen[str]:
    with (place.folder / "log.jsonl").open("a") as log:
        return subprocess.Popen(
            place.command("start"), cwd=place.folder, env=place.environ, stdout=log, stderr=subprocess.PIPE, text=True
        )


def stop(daemon: subprocess.Popen[str]) -> None:
    """SIGTERM ends a daemon cleanly."""
    daemon.send_signal(signal.SIGTERM)
    _, output = daemon.communicate(timeout=60)
    assert (daemon.returncode, output) == (0, "")


def kill(daemon: subprocess.Popen[str]) -> None:
    daemon.kill()
    _, output = daemon.communicate()
    assert daemon.returncode == -signal.SIGKILL, output


def history(place: Place) -> list[JobRun]:
    """The job's runs, oldest first."""
    store = JobStore(f"sqlite:///{place.data}/jobs.db")
    runs = store.history("nightly")
    store.close()
    return runs[::-1]


def wait(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.05)


def over(place: Place, count: int) -> Callable[[], bool]:
    """Whether so many runs are over."""
    return lambda: len([run for run in history(place) if not run.open and run.state != "skipped"]) >= count


def received_more(server: ServerProcess, before: int, place: Place) -> Callable[[], bool]:
    """Whether the server has received more than `before` requests, or the run is over."""
    return lambda: len(server.received()) > before or over(place, 1)()


def log_of(place: Place) -> list[dict[str, str]]:
    return [json.loads(line) for line in (place.folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("kills", "delay"), [(1, 0.1), pytest.param(20, 0.15, marks=MANY)])
def test_a_daemon_stopped_or_killed_in_mid_run_resumes_at_its_next_start_and_pays_for_nothing_twice(
    tmp_path: Path, kills: int, delay: float
) -> None:
    rng = random.Random(kills)
    with ServerProcess(counter=tmp_path / "received.jsonl", quality=QUALITY, delay=delay) as server:
        place = Place(tmp_path, server.base_url, models=["small", "better"], max_choices=1)
        place.examples = 12 if kills == 1 else 40
        call(place, "add", str(place.write(schedule={"every": "1h"}, canary=0.1)))
        daemon = start(place)
        wait(server.received)
        stop(daemon)
        assert [run.state for run in history(place)] == ["interrupted"]
        assert max(request_counts(server).values()) == 1, "calls in flight were awaited"
        for _ in range(kills):
            before, daemon = len(server.received()), start(place)
            wait(received_more(server, before, place))
            time.sleep(rng.uniform(0, 2 * delay))
            kill(daemon)
        daemon = start(place)
        wait(over(place, 1))
        stop(daemon)
        again = sum(times - 1 for times in request_counts(server).values())
    (run,) = history(place)
    assert (run.state, run.champion) == ("promoted", 2)
    with sqlite3.connect(tmp_path / "journal.db") as journal:
        lost = journal.execute("select count(*) from ledger where outcome = 'in flight'").fetchone()[0]
    assert again <= lost, "only calls in flight at a kill may be requested again"
    assert len(server.received()) <= run.spent.calls <= len(server.received()) + lost
    took_over = [line["event"] for line in log_of(place)].count("run_taken_over")
    assert took_over >= 1
    print(f"{kills} kills, {len(server.received())} requests, {again} again, {lost} in flight, {took_over} take-overs")


@MANY
def test_twenty_runs_two_seconds_apart_spend_once_promote_once_and_do_not_flap(tmp_path: Path) -> None:
    with ServerProcess(counter=tmp_path / "received.jsonl", quality=QUALITY) as server:
        place = Place(tmp_path, server.base_url)
        call(place, "add", str(place.write()))
        daemon = start(place)
        wait(over(place, 6))
        assert [run.spent.calls > 0 for run in history(place)[:6]] == [True, *[False] * 5]

        place.models = ["small", "better", "twin"]
        place.write()
        wait(lambda: any(run.state == "promoted" for run in history(place)))
        count = len(history(place))
        wait(over(place, count + 2))
        for price in (200.0, 20.0, 200.0):
            place.prices["better"] = price
            place.write()
            count = len(history(place))
            wait(over(place, count + 3))
        wait(over(place, 20))
        stop(daemon)
        paid = len(server.received())

    runs = history(place)
    assert [run.state for run in runs].count("promoted") <= 2, "the better model, and once for its price"
    assert sum(run.spent.calls for run in runs) == paid
    held = [place.champions.get(number).candidate for number in place.champions.numbers()]
    assert len(held) == len(set(held)), "no champion comes back"
    first = (place.champions.folder / "champions" / "0001.yaml").read_bytes()
    call(place, "rollback", "nightly", "1")
    assert place.champions.file.read_bytes() == first
    print(Counter(run.state for run in runs), paid, "calls")


@MANY
def test_two_daemons_on_one_store_and_fifty_due_runs_run_each_once(tmp_path: Path) -> None:
    with ServerProcess(counter=tmp_path / "received.jsonl", quality=QUALITY) as server:
        place = Place(tmp_path, server.base_url, examples=2)
        names = [f"job{i}" for i in range(50)]
        store = JobStore(f"sqlite:///{tmp_path}/shared.db")
        for name in names:
            store.put(read_job(place.write(name=name, schedule={"every": "1d"})), tmp_path, time.time())
        environ = {**place.environ, "AGENTOPT_JOBS_STORE": store.url}
        logs = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
        daemons = []
        for log in logs:
            with log.open("w") as file:
                daemons.append(subprocess.Popen(place.command("start"), cwd=tmp_path, env=environ, stdout=file))
        wait(lambda: all(any(not run.open for run in store.history(name)) for name in names), 300)
        for daemon in daemons:
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(60) == 0
        runs = [run for name in names for run in store.history(name)]
        store.close()
    assert Counter(run.job for run in runs) == dict.fromkeys(names, 1)
    assert {run.state for run in runs} == {"kept"}
    ended = [json.loads(line)["run"] for log in logs for line in log.read_text().splitlines() if '"run_ended"' in line]
    assert sorted(ended) == sorted(run.id for run in runs)
    print(Counter(run.owner for run in runs))
