"""The commands of `agentopt jobs`, called in this process: what they print, and their exit codes."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from shutil import copytree

import pytest
from jobs_place import QUALITY, Place

from agentopt.cli.commands.job_status import last_alarm
from agentopt.core.budget import Usage
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.extras import install_command
from agentopt.jobs.store import open_store
from agentopt.jobs.tables import JobRun
from agentopt.testing.server_process import ServerProcess

Call = Callable[..., str]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A job whose models are at an unreachable address, in the current folder."""
    place = Place(tmp_path, "http://127.0.0.1:9/v1", models=["small", "better"])
    for name in ("AGENTOPT_CACHE", "AGENTOPT_CONFIG", "AGENTOPT_DATA"):
        monkeypatch.setenv(name, place.environ[name])
    monkeypatch.delenv("AGENTOPT_JOBS_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    return place


@pytest.fixture
def jobs(console_script: Callable[..., tuple[int, str, str]]) -> Call:
    """Run `agentopt jobs ...` and return its output, with stderr."""

    def call(*arguments: str, code: int = 0) -> str:
        exited, out, err = console_script("jobs", *arguments)
        assert exited == code, (arguments, out, err)
        return out + err

    return call


def test_a_job_from_its_file_to_its_removal(place: Place, jobs: Call) -> None:
    with ServerProcess(counter=place.folder / "received.jsonl", quality=QUALITY) as server:
        place.base_url = server.base_url
        file = str(place.write(schedule={"every": "6h"}))
        assert "job nightly added: every 6h" in jobs("add", file)
        promoted = jobs("run-now", "nightly")
        assert "nightly: promoted; better than the champion (+0.917 on 12 rows" in promoted
        assert all(json.loads(line)["event"] for line in promoted.splitlines() if line.startswith("{"))

        assert "job nightly updated" in jobs("add", file)
        assert "unchanged" in jobs("run-now", "nightly")

        place.served_as = {"better": "broken"}
        place.write(schedule={"every": "6h"})
        assert "ALARM: the champion is worse than when it was promoted" in jobs("run-now", "nightly", code=3)
        assert "ALARM at 20" in jobs("list")
        assert "last alarm: 20" in jobs("show", "nightly")
    told = jobs("history", "nightly")
    assert "ALARM" in told
    assert told.count("promoted") >= 1
    assert "answer: better" in jobs("show", "nightly")

    assert "champion 1 is restored" in jobs("rollback", "nightly", "1")
    assert "last alarm" not in jobs("show", "nightly"), "the champion has changed"
    assert place.champions.file.read_bytes() == (place.champions.folder / "champions/0001.yaml").read_bytes()
    assert "rolled back" in jobs("history", "nightly", "--limit", "1")
    assert "known: 1, 2" in jobs("rollback", "nightly", "9", code=2)

    jobs("remove", "nightly")
    assert "there is no job named 'nightly'" in jobs("show", "nightly", code=2)
    assert "rolled back" in jobs("history", "nightly"), "the history stays"
    assert place.champions.file.exists()


def test_challengers_are_named_with_their_evidence(place: Place, jobs: Call) -> None:
    with ServerProcess(counter=place.folder / "received.jsonl", quality={"small": 0.3, "better": 0.5}) as server:
        place.base_url = server.base_url
        jobs("add", str(place.write(schedule={"every": "6h"})))
        assert "Challengers of" not in jobs("show", "nightly")
        out = jobs("run-now", "nightly")
        shown, data = "".join(jobs("show", "nightly").split()), json.loads(jobs("show", "nightly", "--json"))
        history = json.loads(jobs("history", "nightly", "--json"))["runs"]
    log = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    decisions = [line["message"] for line in log if line["event"] == "decision"]
    first, found = decisions[0], data["challengers"][0]
    assert first.startswith("challenger (answer: better x")
    assert "nightly: kept; challenger (answer: better x" in out
    assert history[0]["message"] == first
    assert first.endswith(found["finding"])
    assert found["finding"].startswith("not enough evidence yet (")
    assert "it costs 2 times as much as the champion, and promotion.cheaper_by is 0.1" in found["finding"]
    assert (found["number"], found["champion"], found["rows"], found["needed"]) == (1, 1, 12, pytest.approx(40))
    assert found["candidate"]["answer"]["model"] == "better"
    assert 0 < found["better"] < found["needed"]
    assert "Challengersofchampion1" in shown
    assert "answer:betterx" in shown
    assert "notenoughevidenceyet" in shown


def test_show_prints_the_evidence_of_drift_and_the_error_spent(place: Place, jobs: Call) -> None:
    with ServerProcess(counter=place.folder / "received.jsonl", quality=QUALITY) as server:
        place.base_url = server.base_url
        assert "every run after a champion's first requests its answers to 12 of 12 test rows anew" in jobs(
            "add", str(place.write(canary=0.5))
        )
        draws = "test rows anew (50%, at least 20)"
        added = jobs("add", str(place.write(canary=0.5)))
        assert f"answers to 12 of 12 {draws}; with `canary: 0` no answer is requested, and " in added
        assert (
            f"canary: every run after a champion's first requests its answers to {draws}; none requested yet"
            in jobs("show", "nightly")
        )
        jobs("run-now", "nightly")  # draws what later runs are compared with
        shown = jobs("show", "nightly")
        assert "after a champion's first requests its answers" in shown
        assert (
            "promotions: 1 comparison; 0.025 of the error budget of 0.05 is spent; the next comparison must reach "
            in shown
        )
        assert "unchanged" in jobs("run-now", "nightly")
        shown = jobs("show", "nightly")
    assert "canary: 12 rows of the champion drawn anew in 1 run; evidence of drift 0." in shown
    assert "an alarm at 10" in shown
    assert "canary is 0, so no row is drawn anew" in jobs("add", str(place.write()))
    assert "canary: off; canary is 0, so no row is drawn anew" in jobs("show", "nightly")


def run_of_job(state: str, alarm: str | None = None) -> JobRun:
    return JobRun("id", "nightly", 0, state, "", 0, 0, 1, (), "", alarm, 1, Usage())


@pytest.mark.parametrize("later", ["unchanged", "failed", "refused", "undecided", "skipped", "interrupted", "running"])
def test_an_alarm_is_shown_until_a_later_run_measures_everything_or_changes_the_champion(later: str) -> None:
    first = [run_of_job("kept", "older"), run_of_job("kept")]
    alarm = run_of_job("kept", "drift")
    assert last_alarm([alarm, *first]) is alarm
    assert last_alarm([run_of_job(later), run_of_job(later), alarm, *first]) is alarm
    for ends in ("kept", "promoted", "rolled back"):
        assert last_alarm([run_of_job(later), run_of_job(ends), alarm, *first]) is None
    assert last_alarm([run_of_job(later)]) is None
    assert last_alarm([]) is None


def test_the_list_states_what_continues_an_interrupted_run(place: Place, jobs: Call) -> None:
    jobs("add", str(place.write(schedule={"every": "6h"})))
    with closing(open_store(f"sqlite:///{place.data / 'jobs.db'}")) as store:
        run = store.claim_now("nightly", "gone", 0, 60)
        store.interrupt(run.id, "gone", 1, Usage())
    assert "last run: interrupted (is resumed by the next daemon), 1970" in jobs("show", "nightly")
    assert "resumedbythenextdaemon" in re.sub(r"[^a-z]", "", jobs("list").replace("nightly", ""))


def test_a_job_that_cannot_run_is_refused_when_it_is_added(place: Place, jobs: Call) -> None:
    assert "must have a future time" in jobs("add", str(place.write(schedule={"cron": "0 3 30 2 *"})), code=2)
    assert "did you mean 'schedule'" in jobs("add", str(place.write(shedule={"every": "1h"})), code=2)
    assert "no task.yaml" in jobs("add", str(place.write(task="gone")), code=2)
    assert "cannot be read" in jobs("add", "gone.yaml", code=2)
    assert "no jobs" in jobs("list")


def spoil(place: Place, name: str) -> None:
    """Give a stored job what only an earlier version took."""
    with closing(sqlite3.connect(place.data / "jobs.db")) as database, database:
        database.execute("update jobs set spec = replace(spec, '\"6h\"', '\"999999w\"') where name = ?", (name,))


def test_a_stored_job_that_cannot_be_read_costs_only_itself(place: Place, jobs: Call) -> None:
    jobs("add", str(place.write(schedule={"every": "6h"})))
    jobs("add", str(place.write(name="other")))
    spoil(place, "nightly")
    told = jobs("list")
    assert "other" in told
    assert "job nightly: schedule.every: must be at most 520w" in told
    assert "`agentopt jobs remove` it" in jobs("show", "nightly", code=2)
    jobs("add", str(place.write(schedule={"every": "7h"})))
    assert "every 7h" in jobs("list")
    jobs("remove", "nightly")
    assert "nightly" not in jobs("list")


def test_the_first_time_of_an_interval_waits_for_a_daemon(place: Place, jobs: Call) -> None:
    jobs("add", str(place.write(schedule={"every": "6h"})))
    assert "now (waiting for a daemon)" in jobs("list")
    assert "next time: now (waiting for a daemon)" in jobs("show", "nightly")
    store = open_store(f"sqlite:///{place.data}/jobs.db")
    assert store.claim("nightly", time.time(), time.time())
    store.close()
    assert "waiting for a daemon" not in jobs("list")


def test_a_name_gets_another_task_only_on_request(place: Place, jobs: Call) -> None:
    file = str(place.write(schedule={"every": "6h"}))
    jobs("add", file)
    copytree(place.folder / "task", place.folder / "task2")
    place.write(schedule={"every": "6h"}, task="task2")
    moved = f"{place.folder / 'task'} -> {place.folder / 'task2'}"
    refused = jobs("add", file, code=2)
    assert moved in refused
    assert "--replace" in refused
    assert f"job nightly updated: task {moved}, every 6h" in jobs("add", file, "--replace")
    assert "job nightly updated: every 6h" in jobs("add", file)


def test_a_secret_that_is_not_set_is_warned_of_when_the_job_is_added(place: Place, jobs: Call) -> None:
    hook = {"url": "http://127.0.0.1:9/", "secret_env": "NOT_SET_HERE"}
    told = jobs("add", str(place.write(webhook=hook)))
    assert "job nightly added" in told
    assert "warning: environment variable NOT_SET_HERE: the webhook's secret must be set" in told


def test_a_damaged_champion_costs_the_list_nothing_and_show_names_the_rollback(place: Place, jobs: Call) -> None:
    jobs("add", str(place.write()))
    candidate = Candidate.of({"answer": SubtaskChoice("small", 1, "")})
    place.champions.promote(candidate, time="2026-01-01T00:00:00+00:00", run="r", reason="first")
    place.champions.file.write_bytes(b"answer: [")
    assert "damaged" in jobs("list")
    assert "`agentopt jobs rollback nightly 1`" in jobs("show", "nightly", code=2)


def test_since_is_when_the_champion_last_came_to_its_place(place: Place, jobs: Call) -> None:
    jobs("add", str(place.write(schedule={"every": "6h", "time_zone": "Asia/Tokyo"})))
    for samples in (1, 2):
        candidate = Candidate.of({"answer": SubtaskChoice("small", samples, "")})
        place.champions.promote(candidate, time="2026-01-01T00:00:00+00:00", run=f"r{samples}", reason="first")
    assert jobs("show", "nightly").count("2026-01-01 09:00:00 JST") == 2
    jobs("rollback", "nightly")
    assert jobs("show", "nightly").count("2026-01-01 09:00:00 JST") == 1


def test_runs_that_found_nothing_new_share_a_row_of_the_history(place: Place, jobs: Call) -> None:
    jobs("add", str(place.write()))
    store = open_store(f"sqlite:///{place.data}/jobs.db")
    for at, state in enumerate(["kept", "kept", "unchanged", "unchanged", "unchanged", "failed"]):
        store.note("nightly", float(at), {"state": state, "message": "as said"})
    store.close()
    told = jobs("history", "nightly", "--limit", "3")
    assert "unchanged x3" in told
    assert "1970-01-01 00:00:02 UTC to 1970-01-01 00:00:04 UTC" in told
    assert told.count("kept") == 1, "rows are counted, not runs"
    assert jobs("history", "nightly").count("kept") == 2


def test_a_run_that_could_decide_nothing_exits_with_4(place: Place, jobs: Call) -> None:
    with ServerProcess(counter=place.folder / "received.jsonl", quality=QUALITY) as server:
        place.base_url = server.base_url
        jobs("add", str(place.write(caps={"per_run": {"calls": 5}})))
        assert "nightly: undecided" in jobs("run-now", "nightly", code=4)


def test_a_run_that_fails_exits_with_1(place: Place, jobs: Call) -> None:
    jobs("add", str(place.write()))
    assert "nightly: failed" in jobs("run-now", "nightly", code=1)


def test_a_run_as_json_has_its_log_on_stderr_and_the_exit_code_of_its_outcome(
    place: Place, jobs: Call, console_script: Callable[..., tuple[int, str, str]]
) -> None:
    jobs("add", str(place.write()))
    exited, out, err = console_script("jobs", "run-now", "nightly", "--json")
    found = json.loads(out)
    assert (exited, found["state"], found["job"]) == (1, "failed", "nightly")
    assert "run_ended" in [json.loads(line)["event"] for line in err.splitlines() if line.startswith("{")]
    (listed,) = json.loads(console_script("jobs", "list", "--json")[1])["jobs"]
    assert listed["last_run"] == found
    assert json.loads(console_script("jobs", "history", "nightly", "--json")[1])["runs"] == [found]


def test_a_paused_job_is_shown_as_such_until_it_is_resumed(place: Place, jobs: Call) -> None:
    jobs("add", str(place.write()))
    jobs("pause", "nightly")
    assert "paused" in jobs("list")
    jobs("resume", "nightly")
    assert "paused" not in jobs("list")


def test_each_scheduler_has_its_export_and_flags_of_version_0_1_are_refused(place: Place, jobs: Call) -> None:
    jobs("add", str(place.write(schedule={"every": "6h"})))
    assert "0 */6 * * * AGENTOPT_DATA=" in jobs("export", "nightly", "--to", "cron")
    assert "kind: CronJob" in jobs("export", "nightly", "--to", "kubernetes")
    assert "ExecStart=" in jobs("export", "--to", "systemd")
    assert "Missing option '--to'" in jobs("export", "nightly", code=2)
    assert "a job must be named" in jobs("export", "--to", "cron", code=2)
    for old in ("--systemd", "--cron", "--kubernetes"):
        assert "write --to systemd" in jobs("export", "nightly", old, code=2)


def test_the_store_can_be_named(place: Place, jobs: Call) -> None:
    url = f"sqlite:///{place.folder}/own.db"
    jobs("add", str(place.write()), "--store", url)
    assert "nightly" in jobs("list", "--store", url)
    assert "no jobs" in jobs("list")


@pytest.mark.parametrize("missing", ["cronsim", "standardwebhooks"])
def test_without_the_extra_the_command_names_the_remedy(missing: str) -> None:
    """In a separate process, in which the package cannot be imported."""
    script = f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = ['jobs', 'list']; "
    done = subprocess.run(
        [sys.executable, "-c", script + "from agentopt.cli.main import main; main()"], capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert f"jobs needs {missing}, which is not installed" in done.stderr
    assert f"remedy: {install_command('jobs')}\n" in done.stderr
