"""Runs of a job: what they spend, whom they promote, when they raise an alarm."""

from __future__ import annotations

import asyncio
import base64
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from jobs_place import QUALITY, Job, Log, Place, claimed, interrupted, resumed, until
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import ConnectArgsType
from standardwebhooks.webhooks import Webhook
from test_webhook import Receiver

from agentopt.core.errors import ConfigError
from agentopt.jobs.jobfile import read_job
from agentopt.jobs.outcome import RunOutcome
from agentopt.jobs.run import RunOfJob
from agentopt.jobs.snapshot import load_snapshot
from agentopt.jobs.worker import as_owner
from agentopt.runs.result import load_result
from agentopt.testing.faults import Faults
from agentopt.testing.servers import OpenAIServer, planted_answer
from tests.models.free_server import Answer, FreeServer, completion

pytestmark = pytest.mark.usefixtures("only_its_folders")

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()


@pytest.fixture
async def server() -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer(planted_answer(QUALITY)) as server:
        yield server


async def test_twenty_runs_spend_once_promote_once_and_do_not_flap(tmp_path: Path, server: OpenAIServer) -> None:
    """The issue's story: nothing new costs nothing, a better model is found, prices go up and down."""
    job = Job(Place(tmp_path, server.base_url))
    runs = [await job.run()]
    paid = server.calls
    assert paid > 0
    runs += [await job.run() for _ in range(4)]
    assert server.calls == paid, "nothing changed, so nothing is spent"

    job.place.models = ["small", "better"]
    job.change()
    runs += [await job.run() for _ in range(4)]
    assert job.champion == "better"
    paid = server.calls

    job.place.models = ["small", "better", "twin"]
    job.change()
    runs += [await job.run() for _ in range(3)]
    assert job.champion == "better", "as good, but not cheaper by a tenth"

    for price in (200.0, 20.0, 200.0, 20.0):
        job.place.prices["better"] = price
        job.change()
        runs += [await job.run() for _ in range(2)]
        assert job.champion == "twin", "one change for the worse is answered once"

    assert len(runs) == 20
    assert [run.state for run in runs].count("promoted") == 2
    assert [run.state for run in runs[1::2]].count("failed") == 0
    spent = [run.spent.calls for run in runs]
    assert [i for i, calls in enumerate(spent) if calls] == [0, 5, 9]
    assert sum(spent) == server.calls

    first = (job.place.champions.folder / "champions" / "0001.yaml").read_bytes()
    job.place.champions.rollback(1)
    assert job.place.champions.file.read_bytes() == first


async def test_a_promotion_has_its_reason_and_a_rollback_holds_until_something_changes(
    tmp_path: Path, server: OpenAIServer
) -> None:
    job = Job(Place(tmp_path, server.base_url, models=["small", "better"]))
    run = await job.run()
    current = job.place.champions.current()
    assert current is not None
    assert (run.state, run.champion, current.number) == ("promoted", 2, 2)
    assert "better than the champion" in current.record.reason
    assert set(current.record.scores) == {f"test{i}" for i in range(12)}
    assert job.log.events()[:4] == ["run_due", "run_claimed", "champion", "run_started"]
    assert job.log[-1]["event"] == "run_ended"

    put_back = job.place.champions.rollback(1)
    job.store.settle("nightly", None, put_back.candidate.key)
    assert (await job.run()).state == "unchanged"
    assert job.champion == "small"

    paid, already_logged = server.calls, len(job.log)
    job.place.prices["small"] = 11.0
    job.change()
    assert (await job.run()).state == "promoted"
    trials = [line["message"] for line in job.log[already_logged:] if line["event"] == "trial_done"]
    assert "by archive" in trials[1], "the search starts from what earlier ones found"
    assert server.calls == paid, "another price asks no new question"


async def test_a_champion_that_got_worse_raises_an_alarm(tmp_path: Path, server: OpenAIServer) -> None:
    """The name in the catalogue was pointed at another model, which is bad."""
    job = Job(Place(tmp_path, server.base_url, models=["small", "better"]))
    await job.run()
    job.place.served_as = {"better": "broken"}
    job.change()
    run = await job.run()
    assert run.alarm is not None
    assert "worse than when it was promoted" in run.alarm
    assert "alarm" in job.log.events()


async def test_events_are_sent_to_the_webhook_signed_and_once(
    tmp_path: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", SECRET)
    receiver = Receiver()
    async with receiver.listening() as target:
        job = Job(Place(tmp_path, server.base_url, models=["small", "better"]), webhook=target.model_dump(mode="json"))
        run = await job.run()
        await job.run()
    ((headers, body),) = receiver.got
    told = Webhook(SECRET).verify(body, headers)
    assert told["type"] == "agentopt.job.promoted"
    assert (told["data"]["job"], told["data"]["run"], told["data"]["champion"]) == ("nightly", run.id, 2)
    assert job.log.events().count("webhook_sent") == 1


async def test_an_unreachable_webhook_does_not_affect_the_run(tmp_path: Path, server: OpenAIServer) -> None:
    hook = {"url": "http://127.0.0.1:9/", "secret_env": "NOT_SET"}
    job = Job(Place(tmp_path, server.base_url, models=["small", "better"]), webhook=hook)
    assert (await job.run()).state == "promoted"
    assert "webhook_failed" in job.log.events()


async def test_a_champion_that_does_not_fit_the_task_is_replaced_and_reported(
    tmp_path: Path, server: OpenAIServer
) -> None:
    job = Job(Place(tmp_path, server.base_url, models=["small", "better"]))
    await job.run()
    job.place.models = ["small"]
    job.change()
    run = await job.run()
    assert job.champion == "small"
    assert run.alarm is not None
    assert "no longer fits the task" in run.alarm


async def test_a_run_keeps_within_its_own_caps_and_those_of_its_month(tmp_path: Path, server: OpenAIServer) -> None:
    place = Place(tmp_path, server.base_url, models=["small", "better"])
    job = Job(place, caps={"per_run": {"calls": 40}, "per_month": {"calls": 60}})
    first = await job.run()
    assert first.spent.calls == server.calls <= 40
    place.examples = 30
    job.change()
    second = await job.run()
    assert first.spent.calls + second.spent.calls == server.calls <= 60


async def test_a_month_whose_cap_is_spent_refuses_and_the_next_one_does_not(
    tmp_path: Path, server: OpenAIServer
) -> None:
    job = Job(Place(tmp_path, server.base_url), caps={"per_month": {"calls": 20}})
    await job.run()
    await job.run()
    paid = server.calls
    job.place.prices["small"] = 99.0
    job.place.examples = 20
    job.change()
    refused = await job.run()
    assert (refused.state, server.calls) == ("refused", paid)
    assert "caps.per_month.calls is spent: 20 of 20 spent in January 2027 (UTC)" in refused.message
    job.clock.time += 32 * 86400
    assert (await job.run()).spent.calls > 0


async def test_a_run_cut_short_by_its_month_is_no_answer_for_the_next(tmp_path: Path, server: OpenAIServer) -> None:
    place = Place(tmp_path, server.base_url, models=["small", "better"])
    job = Job(place, caps={"per_month": {"calls": 45}})
    cut = await job.run()
    assert "cut short by caps.per_month.calls (" in cut.message
    assert " of 45 spent in January 2027 (UTC))" in cut.message
    assert cut.message.endswith("a run of next month continues")
    job.clock.time += 32 * 86400
    assert (await job.run()).state != "unchanged"


async def test_a_cap_too_small_for_the_champion_leaves_the_run_undecided_and_is_reported(
    tmp_path: Path, server: OpenAIServer
) -> None:
    job = Job(Place(tmp_path, server.base_url, models=["small", "better"]), caps={"per_run": {"calls": 5}})
    first = await job.run()
    assert (first.state, first.champion, server.calls) == ("undecided", None, 5)
    assert "cut short by caps.per_run.calls (5 of 5 spent) before anything could be decided" in first.message
    assert "measuring the champion costs more than that" in first.message
    assert (await job.run()).state == "undecided"
    assert server.calls == 10, "the next run continues"


async def test_a_search_that_no_calls_are_left_for_leaves_nothing_decided(tmp_path: Path, server: OpenAIServer) -> None:
    job = Job(Place(tmp_path, server.base_url, models=["small", "better"]), caps={"per_run": {"calls": 13}})
    run = await job.run()
    assert (run.state, run.champion) == ("undecided", 1)
    assert "caps.per_run.calls" in run.message
    assert "measuring the champion" not in run.message


async def test_a_search_stopped_by_its_cap_in_mid_trial_is_reported_and_resumes(
    tmp_path: Path, server: OpenAIServer
) -> None:
    job = Job(Place(tmp_path, server.base_url, models=["small", "twin"]), caps={"per_run": {"calls": 45}})
    run = await job.run()
    assert "the search was cut short by caps.per_run.calls (" in run.message
    assert run.message.endswith("the next run continues")
    assert (await job.run()).state != "unchanged"


async def test_only_a_change_of_state_is_sent_to_the_webhook(
    tmp_path: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", SECRET)
    receiver = Receiver()
    async with receiver.listening() as target:
        hook = target.model_dump(mode="json")
        job = Job(Place(tmp_path, server.base_url), caps={"per_month": {"calls": 0}}, webhook=hook)
        states = [(await job.run()).state for _ in range(3)]
        job.place.models = ["no-such-model"]
        job.change()
        states += [(await job.run()).state for _ in range(2)]
        job.place.models = ["small"]
        job.change()
        states += [(await job.run()).state]
    assert states == ["refused"] * 3 + ["failed"] * 2 + ["refused"]
    told = [json.loads(body)["type"] for _, body in receiver.got]
    assert told == ["agentopt.job.refused", "agentopt.job.failed", "agentopt.job.refused"]


async def test_a_provider_that_fails_fails_the_run_and_the_next_one_tries_again(tmp_path: Path) -> None:
    async with OpenAIServer(planted_answer(QUALITY), faults=Faults(rates={500: 1.0})) as dead:
        job = Job(Place(tmp_path, dead.base_url))
        assert (await job.run()).state == "failed"
    async with OpenAIServer(planted_answer(QUALITY)) as server:
        job.place.base_url = server.base_url
        job.change()
        assert (await job.run()).state == "kept"


async def test_a_scorer_that_breaks_the_run_does_not_break_the_worker(tmp_path: Path, server: OpenAIServer) -> None:
    class Broken:
        alarms = ()

        def __init__(self, *_: object) -> None: ...

        async def outcome(self) -> Any:
            raise ZeroDivisionError("in a user's function")

        def spent(self) -> Any:
            from agentopt.core.budget import Usage

            return Usage()

        def secret_variables(self) -> list[str]:
            return []

    job = Job(Place(tmp_path, server.base_url))
    run = await job.run(body=Broken)
    assert (run.state, run.message) == ("failed", "ZeroDivisionError: in a user's function")
    assert "traceback" in job.log.events()


async def test_a_key_that_a_provider_quotes_is_in_no_log_and_no_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED_KEY", "sk-planted-secret")
    async with OpenAIServer(planted_answer(QUALITY), api_key="another") as server:
        job = Job(Place(tmp_path, server.base_url))
        catalogue = tmp_path / "models.yaml"
        text = catalogue.read_text().replace("    model: small\n", "    model: small\n    api_key_env: PLANTED_KEY\n")
        catalogue.write_text(text)
        run = await job.run()
    assert run.state == "failed"
    assert "401" in run.message
    assert "sk-planted-secret" not in run.message + str(job.log)


async def test_a_champion_that_was_changed_by_hand_meanwhile_is_left_alone(
    tmp_path: Path, server: OpenAIServer
) -> None:
    job = Job(Place(tmp_path, server.base_url, models=["small", "better"]))
    by_hand = b"answer: {model: small, num_samples: 2}\n"

    def log(event: str, **fields: object) -> None:
        if event == "decision":
            job.place.champions.file.write_bytes(by_hand)

    run = await job.work(log)
    assert run.state == "kept"
    assert job.place.champions.file.read_bytes() == by_hand


async def test_a_rollback_during_a_run_is_kept_by_the_next_run(tmp_path: Path, server: OpenAIServer) -> None:
    job = Job(Place(tmp_path, server.base_url, models=["small", "better"]))
    await job.run()
    job.place.prices["small"] = 11.0
    job.change()

    def log(event: str, **fields: object) -> None:
        if event == "run_done":
            put_back = job.place.champions.rollback(1)
            job.store.settle("nightly", None, put_back.candidate.key)

    run = await job.work(log)
    assert (run.state, run.champion, run.message) == (
        "kept",
        1,
        "the champion was changed by hand during the run",
    )
    assert (await job.run()).state == "unchanged"
    assert job.champion == "small"


async def test_a_run_that_was_taken_over_does_not_touch_the_champion(tmp_path: Path, server: OpenAIServer) -> None:
    """The process was suspended past its lease; when it wakes up, the run is another's."""
    job = Job(Place(tmp_path, server.base_url, models=["small", "better"]))
    lines = Log()

    def log(event: str, **fields: object) -> None:
        lines(event, **fields)
        if event == "decision":
            (run,) = job.store.open_runs()
            assert job.store.take_over(run, "another", job.clock.time, 60.0)

    await job.work(log)
    assert lines.events()[-1] == "run_lost"
    assert job.champion == "small"
    (still_open,) = job.store.open_runs()
    assert still_open.owner == "another"


async def test_a_run_that_was_taken_over_makes_no_first_champion_either(tmp_path: Path, server: OpenAIServer) -> None:
    job = Job(Place(tmp_path, server.base_url))

    def log(event: str, **fields: object) -> None:
        if event == "champion":
            (run,) = job.store.open_runs()
            assert job.store.take_over(run, "another", job.clock.time, 60.0)

    await job.work(log)
    assert job.place.champions.current() is None


async def test_an_interrupted_run_is_taken_over_and_resumed(tmp_path: Path, server: OpenAIServer) -> None:
    job = Job(Place(tmp_path, server.base_url, models=["small", "better"]))
    job.clock.time += 2
    with as_owner(job.store, job.place.data, job.clock, log=job.log) as worker:
        task = asyncio.create_task(worker.work(claimed(worker, "nightly")))
        await until(lambda: "trial_done" in job.log.events())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    (left,) = job.store.open_runs()
    assert left.state == "interrupted"
    assert left.spent.calls == server.calls

    with as_owner(job.store, job.place.data, job.clock, log=job.log) as second:
        (orphan,) = second.orphans()
        taken = second.take_over(orphan)
        assert taken is not None
        run = await second.work(taken)
    assert (run.state, run.folder) == ("promoted", left.folder)
    assert run.spent.calls == server.calls
    keys = [
        (str(r.body["messages"]), r.body["model"], r.body["seed"] + i)
        for r in server.requests
        for i in range(r.body.get("n") or 1)
    ]
    assert len(keys) == len(set(keys)), "nothing was requested twice"


async def test_a_run_whose_world_changed_while_it_was_interrupted_searches_anew_and_counts_both(
    tmp_path: Path, server: OpenAIServer
) -> None:
    """With the old search the change would count as answered, although no search considered it."""
    place = Place(tmp_path, server.base_url, models=["small", "better"])
    config = ["strategy=grid", "journal=journal.db", "models=[models.yaml]"]
    job = Job(place, config=[*config, "budget.trials=3"])
    left = await interrupted(job, "trial_done")
    job.change(config=[*config, "budget.trials=4"])
    run = await resumed(job)
    assert run.folders[:-1] == left.folders
    assert len(run.folders) == 2
    assert run.folder is not None
    assert len(load_result(run.folder).trials) == 4
    assert run.spent.calls == server.calls, "what the first search spent counts to the month, too"


class WithPassword(SQLiteDialect_pysqlite):
    """SQLite behind a password, as a database server has."""

    supports_statement_cache = True

    def create_connect_args(self, url: URL) -> ConnectArgsType:
        assert url.password == "s3cret"
        return super().create_connect_args(URL.create("sqlite", database=url.database))


async def test_an_interrupted_run_is_resumed_with_the_password_of_its_journal(
    tmp_path: Path, server: OpenAIServer
) -> None:
    """The job was stored before job files with such URLs were refused."""
    registry.impls["withpassword"] = lambda: WithPassword
    config = ["strategy=grid", "budget.trials=3", "models=[models.yaml]"]
    url = f"journal=withpassword://user:s3cret@/{tmp_path / 'journal.db'}"
    job = Job(Place(tmp_path, server.base_url, models=["small", "better"]), config=config)
    before = read_job(job.place.write(**job.changes)).model_copy(update={"config": (*config, url)})
    job.store.put(before, job.place.folder, job.clock.time)
    left = await interrupted(job, "trial_done")
    run = await resumed(job)
    assert (run.state, run.folders) == ("promoted", left.folders)
    assert run.spent.calls == server.calls, "both sessions have the same journal"
    kept = [file for folder in run.folders for file in folder.rglob("*") if file.is_file()]
    assert [file for file in kept if b"s3cret" in file.read_bytes()] == []


async def test_a_champion_that_does_not_fit_raises_its_alarm_also_where_the_run_was_interrupted(
    tmp_path: Path, server: OpenAIServer
) -> None:
    job = Job(Place(tmp_path, server.base_url, models=["small", "better"]))
    await job.run()
    job.place.models = ["small"]
    job.change()
    await interrupted(job, "run_started")
    run = await resumed(job)
    assert run.alarm is not None
    assert "no longer fits the task" in run.alarm


async def test_no_secret_is_in_the_log_of_a_run(
    tmp_path: Path, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", SECRET)
    monkeypatch.setenv("OTHER_API_KEY", "sk-of-another-provider")

    class Telling(RunOfJob):
        async def outcome(self) -> RunOutcome:
            self.log("champion", f"{SECRET} and sk-of-another-provider")
            return RunOutcome("failed", f"{SECRET} and sk-of-another-provider")

    job = Job(Place(tmp_path, server.base_url), webhook={"url": "http://127.0.0.1:9/", "secret_env": "HOOK"})
    job.changes["webhook"]["events"] = []
    job.change()
    run = await job.run(body=Telling)
    told = run.message + str(job.log)
    assert told.count("[key] and [key]") == 3
    assert SECRET not in told
    assert "another-provider" not in told


def test_the_paths_of_a_configuration_start_at_the_jobs_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon may have been started anywhere."""
    place = Place(tmp_path, "http://127.0.0.1:9/v1")
    settings = ["journal=journal.db", "models=[models.yaml]", "runs=elsewhere", "agent.experience=earlier"]
    job = read_job(place.write(config=settings))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    config = load_snapshot(job, tmp_path, tmp_path / "runs").config
    assert config.journal == str(tmp_path / "journal.db")
    assert (config.runs, config.agent.experience) == (tmp_path / "elsewhere", tmp_path / "earlier")


def test_every_part_of_the_world_is_in_its_hash(tmp_path: Path) -> None:
    place = Place(tmp_path, "http://127.0.0.1:9/v1", models=["small", "better"])

    def snapshot(**changes: Any) -> str:
        return load_snapshot(read_job(place.write(**changes)), tmp_path, tmp_path / "runs").hash

    hashes = [snapshot()]
    assert snapshot() == hashes[0]
    place.prices["better"] = 21.0
    hashes.append(snapshot())
    place.examples += 1
    hashes.append(snapshot())
    place.models = ["small", "twin"]
    hashes.append(snapshot())
    place.served_as = {"small": "small-v2"}
    hashes.append(snapshot())
    hashes.append(snapshot(promotion={"confidence": 0.9}))
    hashes.append(snapshot(caps={"per_run": {"usd": 1}}))
    assert len(set(hashes)) == len(hashes)
    assert snapshot(webhook={"url": "https://x.org", "secret_env": "S"}) == snapshot(), (
        "the webhook is not part of the snapshot"
    )


def test_a_missing_configuration_file_is_reported_with_the_searched_folder(tmp_path: Path) -> None:
    job = read_job(Place(tmp_path, "http://127.0.0.1:9/v1").write(config=["gone.yaml"]))
    with pytest.raises(ConfigError, match=r"no configuration file gone\.yaml"):
        load_snapshot(job, tmp_path, tmp_path / "runs")


async def test_a_run_whose_ledger_cannot_be_read_ends_as_failed(tmp_path: Path) -> None:
    def handler(body: dict[str, Any], _: int) -> Answer:
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(tmp_path / "journal.db")) as journal:
            journal.execute("ALTER TABLE ledger RENAME COLUMN calls TO moved")
        return completion("word")

    async with FreeServer(handler) as free:
        run = await Job(Place(tmp_path, free.base_url)).run()
    assert run.state == "failed"
    assert "calls" in run.message
