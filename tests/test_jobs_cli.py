"""The commands of `agentopt jobs`, called in this process: what they print, and their exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jobs_place import QUALITY, Place

from agentopt import cli
from agentopt.testing.server_process import ServerProcess

Call = Callable[..., str]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A job whose models are at an address where nothing answers, in the current folder."""
    place = Place(tmp_path, "http://127.0.0.1:9/v1", models=["small", "better"])
    for name in ("AGENTOPT_CACHE", "AGENTOPT_CONFIG", "AGENTOPT_DATA"):
        monkeypatch.setenv(name, place.environ[name])
    monkeypatch.delenv("AGENTOPT_JOBS_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    return place


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """`agentopt jobs ...`; what it printed, errors too."""
    handler = signal.getsignal(signal.SIGTERM)

    def call(*arguments: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["agentopt", "jobs", *arguments])
        capsys.readouterr()
        exited = 0
        try:
            cli.main()
        except SystemExit as stop:
            exited = int(stop.code or 0)
        said = capsys.readouterr()
        assert exited == code, (arguments, said)
        return said.out + said.err

    yield call
    signal.signal(signal.SIGTERM, handler)


def test_a_job_from_its_file_to_its_removal(place: Place, jobs: Call) -> None:
    with ServerProcess(counter=place.folder / "received.jsonl", quality=QUALITY) as server:
        place.base_url = server.base_url
        file = str(place.write(schedule={"every": "6h"}))
        assert "job nightly added: every 6h" in jobs("add", file)
        promoted = jobs("run-now", "nightly")
        assert "nightly: promoted; better on the test split" in promoted
        assert all(json.loads(line)["event"] for line in promoted.splitlines() if line.startswith("{"))

        assert "job nightly updated" in jobs("add", file)
        assert "unchanged" in jobs("run-now", "nightly")

        place.served_as = {"better": "broken"}
        place.write(schedule={"every": "6h"})
        assert "ALARM: the champion is worse than when it was promoted" in jobs("run-now", "nightly", code=3)
    told = jobs("history", "nightly")
    assert "ALARM" in told
    assert told.count("promoted") >= 1
    assert "answer: better" in jobs("show", "nightly")

    assert "champion 1 is in its place again" in jobs("rollback", "nightly", "1")
    assert place.champions.file.read_bytes() == (place.champions.folder / "champions/0001.yaml").read_bytes()
    assert "rolled back" in jobs("history", "nightly", "--limit", "1")
    assert "known: 1, 2" in jobs("rollback", "nightly", "9", code=2)

    jobs("remove", "nightly")
    assert "there is no job of the name 'nightly'" in jobs("show", "nightly", code=2)
    assert "rolled back" in jobs("history", "nightly"), "the history stays"
    assert place.champions.file.exists()


def test_a_job_that_cannot_run_is_refused_when_it_is_added(place: Place, jobs: Call) -> None:
    assert "never comes" in jobs("add", str(place.write(schedule={"cron": "0 3 30 2 *"})), code=2)
    assert "did you mean 'schedule'" in jobs("add", str(place.write(shedule={"every": "1h"})), code=2)
    assert "no task.yaml" in jobs("add", str(place.write(task="gone")), code=2)
    assert "cannot be read" in jobs("add", "gone.yaml", code=2)
    assert "no jobs" in jobs("list")


def test_a_run_that_fails_exits_with_1(place: Place, jobs: Call) -> None:
    jobs("add", str(place.write()))
    assert "nightly: failed" in jobs("run-now", "nightly", code=1)


def test_a_paused_job_is_shown_as_such_until_it_is_resumed(place: Place, jobs: Call) -> None:
    jobs("add", str(place.write()))
    jobs("pause", "nightly")
    assert "paused" in jobs("list")
    jobs("resume", "nightly")
    assert "paused" not in jobs("list")


def test_each_scheduler_gets_its_text_and_exactly_one_is_named(place: Place, jobs: Call) -> None:
    jobs("add", str(place.write(schedule={"every": "6h"})))
    assert "0 */6 * * * AGENTOPT_DATA=" in jobs("export", "nightly", "--cron")
    assert "kind: CronJob" in jobs("export", "nightly", "--kubernetes")
    assert "ExecStart=" in jobs("export", "--systemd")
    assert "exactly one of" in jobs("export", "nightly", code=2)
    assert "a job must be named" in jobs("export", "--cron", code=2)


def test_the_store_can_be_named(place: Place, jobs: Call) -> None:
    url = f"sqlite:///{place.folder}/own.db"
    jobs("add", str(place.write()), "--store", url)
    assert "nightly" in jobs("list", "--store", url)
    assert "no jobs" in jobs("list")


@pytest.mark.parametrize("missing", ["apscheduler", "standardwebhooks"])
def test_without_the_extra_the_command_says_how_to_get_it(missing: str) -> None:
    """In a process of its own, in which the package cannot be imported."""
    script = f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = ['jobs', 'list']; "
    done = subprocess.run(
        [sys.executable, "-c", script + "from agentopt.cli import main; main()"], capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert f"jobs need the package {missing}" in done.stderr
    assert "pip install 'agentopt[jobs]'" in done.stderr
