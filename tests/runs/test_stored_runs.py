"""A run in a storage is read and resumed from another folder, and one process at a time works on it."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import empty_checkpoint

from agentopt.api import optimize
from agentopt.cli.commands.worker import orphans_of
from agentopt.cli.run_names import run_path
from agentopt.core.database import open_engine, without_password
from agentopt.core.errors import CallbackError, ConfigError, JournalError
from agentopt.core.events import Event, ExampleDone, TestDone, TrialDone
from agentopt.core.records import Evaluation, ExampleResult
from agentopt.evaluation.evaluator import CANARY, Evaluator
from agentopt.models.base import Request, Response
from agentopt.models.catalog import Catalog
from agentopt.models.lease import Lease, members
from agentopt.models.scripted import ScriptedModel
from agentopt.models.session import journal_place
from agentopt.runs.config import load_config
from agentopt.runs.folder import RunFolder
from agentopt.runs.result import load_result
from agentopt.runs.run_lease import Hold, up_to_date
from agentopt.runs.run_store import RunStore, open_store, run_files, stored_runs
from agentopt.runs.studies import remove_study
from agentopt.runs.trial_store import TrialStore
from agentopt.search.base import Proposal
from agentopt.search.checkpoints import open_saver
from agentopt.search.from_task import unlimited_space
from agentopt.taskfile.loading import load_task
from agentopt.testing.postgres import PASSWORD
from agentopt.testing.server_process import ServerProcess
from agentopt.testing.toy import toy_model, toy_task
from tests.cli.recorded import answer, write_task
from tests.runs.test_crash import QUALITY, await_requests, command, lost_in_flight, request_counts
from tests.runs.test_workers import write_distinct_task

Script = Callable[..., tuple[int, str, str]]
SEARCH = ["strategy=grid", "budget.trials=2", "prompts.when=never"]


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A storage of each dialect, which does not exist yet."""
    return str(tmp_path / "storage.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a run begins, with its task."""
    folder = tmp_path / "home"
    folder.mkdir()
    write_task(folder)
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv("AGENTOPT_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def away(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another folder, which is the working directory."""
    folder = home.parent / "away"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def settings(home: Path, storage: str, *more: str) -> list[str]:
    return [f"storage={storage}", f"runs={home / 'runs'}", f"models=[{home / 'models.yaml'}]", *SEARCH, *more]


def run(home: Path, storage: str, *more: str, callback: Callable[[Event], None] = lambda _: None) -> Path:
    """The folder of a run in the storage."""
    config = load_config(settings(home, storage, *more))
    result = optimize(home / "planted", config, provider=ScriptedModel(answer), callbacks=[callback])
    return Path(result.run)


class Stopped(KeyboardInterrupt):
    """What a user does after the first trial."""


def stop(event: Event) -> None:
    if isinstance(event, TrialDone):
        raise Stopped


def stopped(home: Path, storage: str, *more: str) -> Path:
    """The folder of a run that ended after its first trial."""
    with pytest.raises(Stopped):
        run(home, storage, *more, callback=stop)
    return next((home / "runs").iterdir())


def refuse(request: Request, repeat: int) -> str:
    raise AssertionError("nothing is paid for twice")


def test_a_run_is_read_from_another_folder(home: Path, away: Path, storage: str, console_script: Script) -> None:
    folder = run(home, storage)
    assert {file.name for file in folder.iterdir()} >= {"config.yaml", "result.json", "best.yaml", "log.jsonl"}
    assert not list(folder.glob("*.db"))
    assert PASSWORD not in (folder / "config.yaml").read_text()
    shutil.rmtree(home / "runs")
    code, out, _ = console_script("runs", "list", "--storage", storage, "--json")
    assert (code, [(line["run"], line["finished"]) for line in json.loads(out)["runs"]]) == (0, [(folder.name, True)])
    for words in (["runs", "show"], ["report"], ["inspect"], ["whatif"]):
        code, out, error = console_script(*words, folder.name, "-c", f"storage={storage}")
        assert (code, error) == (0, ""), words
        assert PASSWORD not in out
    assert (away / "runs" / folder.name / "report.html").exists()
    code, out, error = console_script("runs", "show", folder.name)  # its settings have the storage now
    assert (code, error) == (0, "")


def test_a_stopped_run_is_resumed_in_another_folder(home: Path, away: Path, storage: str) -> None:
    folder = stopped(home, storage)
    whole = run(home, storage)  # its answers are in the journal, so only the study shows what was done
    shutil.rmtree(folder)
    with open_store(storage) as (store, _):
        found = next(one for one in store.runs() if one.result is None)
        assert (found.name, found.is_running, found.is_orphaned) == (folder.name, False, False)
        fetched = store.fetch(found.run, away / "runs", storage)
    began = []
    result = optimize(
        home / "planted",
        load_config([f"storage={storage}"], RunFolder.open(fetched).config),
        resume=fetched,
        provider=ScriptedModel(refuse),
        callbacks=[lambda event: began.append(event) if isinstance(event, TrialDone) else None],
    )
    expected = load_result(whole)
    assert [t.score for t in result.trials] == [t.score for t in expected.trials]
    assert result.best_candidate == expected.best_candidate
    assert len(began) == 1
    with open_store(storage) as (store, _):
        assert [one.result is not None for one in store.runs()] == [True, True]


CLOCKS = pytest.mark.parametrize("clock", [-1e6, 1e9])
"""Seconds by which the clock of the host that a folder is on is ahead of the others'."""


def set_clock(folder: Path, ahead: float) -> None:
    """Let the files of a folder have been written by a host whose clock is ahead."""
    for file in folder.iterdir():
        os.utime(file, (time.time() + ahead,) * 2)


def held_by(member: str, engine: sa.Engine) -> str:
    """The id of a new run without files, on which a process works."""
    row = {"run": "a", "name": "a-run", "owner": "me", "host": "here", "created": 0.0, "member": member}
    with engine.begin() as connection:
        connection.execute(stored_runs.insert().values(row))
    return str(row["run"])


def continue_elsewhere(home: Path, storage: str, name: str, *changes: str) -> Path:
    """Continue a run from another folder with other settings, until its next trial; returns that folder."""
    with open_store(storage) as (store, _):
        fetched = store.fetch(store.find(name), home.parent / "away" / "runs", storage)
    config = load_config([f"storage={storage}", *changes], RunFolder.open(fetched).config)
    with pytest.raises(Stopped):
        optimize(home / "planted", config, resume=fetched, provider=ScriptedModel(answer), callbacks=[stop])
    return fetched


@CLOCKS
def test_a_folder_gets_what_others_changed_whatever_the_clocks(home: Path, storage: str, clock: float) -> None:
    folder = stopped(home, storage, "budget.trials=4")
    set_clock(folder, clock)
    there = continue_elsewhere(home, storage, folder.name, "budget.trials=3")
    set_clock(there, -clock)
    result = optimize(home / "planted", resume=folder, provider=ScriptedModel(answer))
    assert len(result.trials) == 3
    assert RunFolder.open(folder).config.budget.trials == 3
    with open_store(storage) as (store, _):
        assert (
            "trials: 3" in (store.fetch(store.find(folder.name), home / "third", storage) / "config.yaml").read_text()
        )


@pytest.mark.parametrize("clock", [-1e6, 1e9])
@pytest.mark.parametrize(
    ("known", "is_kept"),
    [(None, True), ("", False), ("{", False), ("[1]", False), ('{"record.jsonl": "of an earlier one"}', False)],
)
def test_a_change_that_was_not_stored_is_kept_unless_another_process_changed_the_file(
    tmp_path: Path, storage: str, clock: float, known: str | None, is_kept: bool
) -> None:
    folder = tmp_path / "run"
    with open_store(storage) as (store, engine):
        run_id = held_by("one", engine)
        assert store.write(run_id, "one", "record.jsonl", "stored\n")
        store.pull(run_id, folder, storage)
        (folder / "record.jsonl").write_text("stored\nand then killed\n")
        set_clock(folder, clock)
        if known is not None:
            (folder / ".stored.json").write_text(known)
        store.pull(run_id, folder, storage)
        kept = (folder / "record.jsonl").read_text()
        assert kept == ("stored\nand then killed\n" if is_kept else "stored\n")
        assert store.write(run_id, "one", "record.jsonl", "of another\n")
        store.pull(run_id, folder, storage)
        assert (folder / "record.jsonl").read_text() == "of another\n"


def test_a_file_is_counted_as_changed_if_its_content_is_another(storage: str) -> None:
    with open_store(storage) as (store, engine):
        run_id = held_by("one", engine)
        with engine.begin() as connection:
            connection.execute(
                run_files.insert().values(run=run_id, name="demos.json", content="{}", changed=1.5e9 + 0.25)
            )
        for content, is_copy, changes in (
            ("a", True, 0),
            ("b", False, 1),
            ("b", False, 1),
            ("c\0", False, 2),
            ("c\0", True, 2),
        ):
            assert store.write(run_id, "one", "best.yaml", content, is_copy=is_copy)
            assert store.changes(run_id)["best.yaml"] == changes
        assert not store.write(run_id, "other", "best.yaml", "d")
        assert store.write(run_id, "one", "demos.json", "{ }")  # of a database that had times
        assert store.changes(run_id)["demos.json"] == 1_500_000_001


def test_the_agents_search_keeps_its_state_in_the_storage(home: Path, storage: str) -> None:
    def stop_later(event: Event) -> None:
        if isinstance(event, TrialDone) and event.trial.number == 1:
            raise Stopped

    with pytest.raises(Stopped):
        run(home, storage, "strategy=agent", "agent.model=", callback=stop_later)
    engine = open_engine(journal_place(storage))
    with engine.connect() as connection:
        threads = connection.execute(sa.text("SELECT DISTINCT thread_id FROM checkpoints")).scalars().all()
        ids = connection.execute(sa.select(stored_runs.c.run)).scalars().all()
    engine.dispose()
    folder = next((home / "runs").iterdir())
    result = optimize(home / "planted", resume=folder, provider=ScriptedModel(answer))
    assert len(result.trials) == 2
    assert threads == ids


def test_one_process_at_a_time_works_on_a_run(home: Path, storage: str) -> None:
    folder = stopped(home, storage)
    engine = open_engine(journal_place(storage))
    store, lease, opened = RunStore(engine), Lease(engine, "other", process=""), RunFolder.open(folder)
    lease.renew()
    store.take(opened, lease)
    for path in (folder, shutil.copytree(folder, home / "copied")):
        with pytest.raises(ConfigError, match=r"another process works on this run, on .*(?s:.)*stop it"):
            optimize(home / "planted", resume=path, provider=ScriptedModel(answer))
    assert [one.is_running for one in store.runs()] == [True]
    with engine.begin() as connection:  # it died, and its lease is over
        connection.execute(members.update().values(until=0))
    assert [(one.is_running, one.is_orphaned) for one in store.runs()] == [(False, True)]
    result = optimize(home / "planted", resume=folder, provider=ScriptedModel(answer))
    assert len(result.trials) == 2
    assert [(one.is_running, one.is_orphaned) for one in store.runs()] == [(False, False)]
    engine.dispose()


def test_a_process_whose_run_was_continued_by_another_stops(home: Path, storage: str) -> None:
    calls: list[int] = []

    def take_over(event: Event) -> None:
        if isinstance(event, TrialDone) and not calls:
            calls.append(1)
            engine = open_engine(journal_place(storage))
            with engine.begin() as connection:
                connection.execute(stored_runs.update().values(member="other"))
            engine.dispose()

    with pytest.raises(JournalError, match="another process has continued this run"):
        run(home, storage, callback=take_over)
    with open_store(storage) as (store, _):
        assert [(one.is_orphaned, one.result) for one in store.runs()] == [(True, None)]


def trials_in(storage: str) -> int:
    with open_store(storage) as (_, engine), engine.connect() as connection:
        return int(connection.execute(sa.text("SELECT COUNT(*) FROM trials")).scalar_one())


@pytest.mark.parametrize("trial", [0, 1])
@pytest.mark.parametrize("lost_at", ["first", "last"])
def test_a_process_whose_run_was_continued_during_a_trial_does_not_store_it(
    home: Path, storage: str, trial: int, lost_at: str
) -> None:
    planned = len((home / "planted" / "validation.jsonl").read_text().splitlines())
    wanted = trial * planned + (1 if lost_at == "first" else planned)
    done: list[Event] = []

    def take_over(event: Event) -> None:
        done.extend([event] if isinstance(event, ExampleDone) else [])
        if len(done) == wanted and isinstance(event, ExampleDone):
            with open_store(storage) as (_, engine), engine.begin() as connection:
                connection.execute(stored_runs.update().values(member="other"))

    with pytest.raises(JournalError, match="another process has continued this run"):
        run(home, storage, callback=take_over)
    assert trials_in(storage) == trial


class OneAtATime:
    """A model that answers one call after the other."""

    def __init__(self) -> None:
        self.sent, self._turn, self._model = 0, asyncio.Lock(), toy_model()

    async def generate(self, request: Request) -> Response:
        async with self._turn:
            self.sent += 1
            await asyncio.sleep(0)
            return await self._model.generate(request)

    async def aclose(self) -> None:
        await self._model.aclose()


@pytest.mark.parametrize("error", [JournalError("another process has it"), CallbackError("failed")])
async def test_nothing_is_sent_after_an_observer_has_failed(error: BaseException) -> None:
    model, done = OneAtATime(), list[int]()

    def fail(_: ExampleResult) -> None:
        done.append(model.sent)
        if len(done) == CANARY + 2:
            raise error

    with pytest.raises(type(error)):
        await Evaluator(toy_task(), model, Catalog.load()).evaluate(toy_task().baseline, on_result=fail)
    assert len(done) == CANARY + 2
    assert model.sent <= done[-1] + 1  # the call in flight


class Held(NamedTuple):
    """A run that a process has worked on, and the process that continues it."""

    folder: RunFolder
    store: RunStore
    engine: sa.Engine
    hold: Hold
    other: Lease
    now: list[float]

    def take_over(self) -> None:
        """The first process is suspended for longer than its lease, and the other one takes the run over."""
        self.now[0] += 60
        self.other.renew()
        self.store.take(self.folder, self.other)


@pytest.fixture
def held(home: Path, storage: str) -> Iterator[Held]:
    folder, now = RunFolder.open(stopped(home, storage)), [0.0]
    with open_store(storage) as (store, engine):

        def lease(member: str) -> Lease:
            def at() -> sa.ColumnElement[float]:
                return sa.literal(now[0], sa.Double)

            # No operating system's process: whether it has a lease is by the clock alone.
            return Lease(engine, member, now=at, clock=lambda: now[0], process="")

        first, other = lease("first"), lease("other")
        first.renew()
        store.take(folder, first)
        with pytest.raises(ConfigError, match="another process works on this run"):
            store.take(folder, other)
        yield Held(folder, store, engine, Hold(folder, store, "first"), other, now)


def save_trial(held: Held) -> None:
    catalog = Catalog.load(*held.folder.config.models)
    task = load_task(held.folder.task or "", catalog=catalog)
    space = unlimited_space(task, {name: catalog[name] for name in task.models})
    store = TrialStore(held.folder.trials, space, held.hold.condition)
    largest = {subtask.name: (subtask.models[-1], subtask.num_samples[-1]) for subtask in space.subtasks}
    results = (ExampleResult("1", 1.0),)
    store.add(Proposal(space.candidate(largest), "grid"), Evaluation("validation", 1, results, "complete"))


def save_checkpoint(held: Held) -> None:
    asyncio.run(_save_state(held, "checkpoint"))


def save_writes(held: Held) -> None:
    asyncio.run(_save_state(held, "writes"))


async def _save_state(held: Held, what: str) -> None:
    place, thread = held.folder.checkpoints
    config: RunnableConfig = {"configurable": {"thread_id": thread, "checkpoint_ns": "", "checkpoint_id": "1"}}
    async with open_saver(place, held.hold.condition) as saver:
        if what == "writes":
            await saver.aput_writes(config, [("channel", "written")], "task")
        else:
            await saver.aput(config, empty_checkpoint(), {}, {})
        assert await saver.aget_tuple({"configurable": {"thread_id": thread}}) is not None or what == "writes"


@pytest.mark.parametrize("what", ["checkpoint", "writes"])
def test_the_event_loop_may_wait_for_the_transaction_of_a_checkpoint(held: Held, what: str) -> None:
    async def check_in_each_turn() -> int:
        saving, turns = asyncio.create_task(_save_state(held, what)), 0
        while not saving.done():
            await asyncio.sleep(0)
            held.hold.check()  # waits, without a turn of the loop, for a transaction that has locked the run
            turns += 1
        await saving
        return turns

    assert asyncio.run(check_in_each_turn()) > 1


def save_result(held: Held) -> None:
    (held.folder.path / "result.json").write_text("{}")
    held.hold.push()


def remove_trials(held: Held) -> None:
    remove_study(held.folder.trials, held.hold.condition)


def rows_of(engine: sa.Engine) -> dict[str, list[Any]]:
    """Everything that a run has in a storage, but its lease."""
    tables, found = sa.MetaData(), {}
    tables.reflect(engine)
    with engine.connect() as connection:
        for name in ("trials", "trial_user_attributes", "checkpoints", "writes", "checkpoint_writes", "run_files"):
            if name in tables.tables:
                found[name] = [tuple(row) for row in connection.execute(sa.select(tables.tables[name]))]
    return found


@pytest.mark.parametrize("save", [save_trial, save_checkpoint, save_writes, save_result, remove_trials])
def test_a_process_that_was_suspended_writes_nothing_of_a_run_that_another_one_has(
    held: Held, save: Callable[[Held], None]
) -> None:
    if save is not remove_trials:
        before = rows_of(held.engine)
        save(held)
        assert rows_of(held.engine) != before
    held.take_over()
    before = rows_of(held.engine)
    (held.folder.path / "result.json").unlink(missing_ok=True)
    with pytest.raises(JournalError, match="another process has continued this run"):
        save(held)
    assert rows_of(held.engine) == before


def test_trials_are_removed_by_the_process_that_has_the_run(held: Held) -> None:
    remove_trials(held)
    assert rows_of(held.engine)["trials"] == []


def test_a_process_whose_run_was_continued_writes_no_result(home: Path, storage: str) -> None:
    def take_over(event: Event) -> None:
        if isinstance(event, TestDone):
            with open_store(storage) as (_, engine), engine.begin() as connection:
                connection.execute(stored_runs.update().values(member="other"))

    with pytest.raises(JournalError, match="another process has continued this run"):
        run(home, storage, callback=take_over)
    (folder,) = (home / "runs").iterdir()
    assert not (folder / "result.json").exists()


def test_a_finished_run_gets_the_result_of_its_continuation_elsewhere(home: Path, away: Path, storage: str) -> None:
    folder = run(home, storage)
    with open_store(storage) as (store, _):
        fetched = store.fetch(store.find(folder.name), away / "runs", storage)
    config = load_config([f"storage={storage}", "budget.trials=4"], RunFolder.open(fetched).config)
    longer = optimize(home / "planted", config, resume=fetched, provider=ScriptedModel(answer))
    assert len(load_result(folder).trials) == 2
    up_to_date(folder, None)
    assert load_result(folder).trials == longer.trials
    assert len(longer.trials) == 4


def test_a_finished_run_is_read_without_its_storage_and_an_unfinished_one_is_not(home: Path, tmp_path: Path) -> None:
    kept = str(tmp_path / "kept" / "storage.db")
    finished = run(home, kept)
    unfinished = stopped_after(finished, home, kept)
    shutil.rmtree(tmp_path / "kept")
    (tmp_path / "kept").write_text("not a folder")
    up_to_date(finished, None)
    assert len(load_result(finished).trials) == 2
    with pytest.raises(ConfigError, match="the storage cannot be used"):
        up_to_date(unfinished, None)


def stopped_after(other: Path, home: Path, storage: str) -> Path:
    """The folder of a run that ended after its first trial, beside another run."""
    with pytest.raises(Stopped):
        run(home, storage, callback=stop)
    return next(folder for folder in (home / "runs").iterdir() if folder != other)


class Inline(Executor):
    """A thread that has done everything at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done = Future[Any]()
        done.set_result(fn(*args, **kwargs))
        return done


def test_the_hold_is_checked_at_most_once_a_second_after_examples(home: Path, storage: str) -> None:
    folder, now = RunFolder.open(stopped(home, storage)), [0.0]
    with open_store(storage) as (store, engine):
        hold = Hold(folder, store, "me", clock=lambda: now[0], thread=Inline())
        example = ExampleDone(ExampleResult("1", 1.0))
        with engine.begin() as connection:
            connection.execute(stored_runs.update().values(member="me"))
        hold(example)
        with engine.begin() as connection:
            connection.execute(stored_runs.update().values(member="other"))
        for later in (0.3, 0.9):
            now[0] = later
            hold(example)
        now[0] = 1.0
        with pytest.raises(JournalError, match="another process"):
            hold(example)
        with pytest.raises(JournalError, match="another process"):
            hold.check()


def test_a_run_that_cannot_begin_leaves_nothing(home: Path, storage: str) -> None:
    with pytest.raises(ConfigError, match=r"budget\.calls"):
        run(home, storage, "budget.calls=0")
    assert not (home / "runs").exists()
    engine = open_engine(journal_place(storage))
    with engine.connect() as connection:
        for table in (stored_runs, run_files):
            assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() == 0
    engine.dispose()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("postgresql://u@127.0.0.1:1/db", "the storage cannot be used"),
        ("folder", r"/folder: a database must be a file, but this is a folder\n.*name a file"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_message(home: Path, place: str, message: str) -> None:
    (home / "folder").mkdir()
    wrong = place if "://" in place else str(home / place)
    with pytest.raises(ConfigError, match=message):
        run(home, wrong)
    assert not (home / "runs").exists()


def test_a_storage_that_fails_during_a_run_is_no_mistake_in_the_settings(storage: str) -> None:
    message = r"failed: [\s\S]*no_such_table[\s\S]*--resume"
    with pytest.raises(JournalError, match=message), open_store(storage) as (_, engine), engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1 FROM no_such_table")


def test_a_worker_looks_again_for_runs_whose_process_died_if_the_storage_is_away(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert orphans_of("postgresql://u@127.0.0.1:9/db") == {}
    assert "cannot be looked for now" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["storage", "journal"])
@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite+pysqlite://"])
def test_a_database_in_memory_is_refused(home: Path, console_script: Script, name: str, url: str) -> None:
    code, out, error = console_script("optimize", "task", "-c", f"{name}='{url}'")
    assert (code, out) == (2, "")
    assert f"the URL of the {name} names no file" in error
    assert "sqlite:///PATH" in error
    assert not (home / "runs").exists()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite+pysqlite://"])
def test_commands_refuse_a_storage_in_memory(
    home: Path, monkeypatch: pytest.MonkeyPatch, console_script: Script, url: str
) -> None:
    monkeypatch.setenv("AGENTOPT_STORAGE", url)
    for words in (["runs", "list", "--storage", url], ["worker", "--storage", url], ["worker"], ["jobs", "list"]):
        code, out, error = console_script(*words)
        assert (code, out) == (2, ""), words
        assert "names no file" in error
        assert "sqlite:///PATH" in error


def test_a_stopped_run_is_listed_with_its_best_score_so_far(home: Path, storage: str, console_script: Script) -> None:
    folder = stopped(home, storage)
    code, out, _ = console_script("runs", "list", "--storage", storage, "--json")
    (line,) = json.loads(out)["runs"]
    assert (code, line["run"], line["finished"]) == (0, folder.name, False)
    assert 0 < line["validation"] < 1
    code, out, _ = console_script("runs", "list", "--storage", storage)
    assert (code, f"{line['validation']:.3f}" in out, "so far" in out) == (0, True, True)
    finished = run(home, storage)
    code, out, _ = console_script("runs", "list", "--storage", storage, "--json")
    assert {one["run"]: one["finished"] for one in json.loads(out)["runs"]} == {folder.name: False, finished.name: True}


def test_the_list_of_a_storage_has_the_commands_that_resume_its_runs(
    home: Path, away: Path, storage: str, console_script: Script
) -> None:
    folder, setting = stopped(home, storage), f"storage={without_password(storage)}"

    def resuming() -> list[list[str]]:
        _, out, _ = console_script("runs", "list", "--storage", storage)
        assert PASSWORD not in out
        return [shlex.split(line) for line in out.partition("To resume:\n")[2].splitlines()]

    assert resuming() == [["agentopt", "optimize", "--resume", folder.name, "-c", setting]]
    with open_store(storage) as (_, engine), engine.begin() as connection:
        (row,) = connection.execute(sa.select(stored_runs)).mappings().all()
        older = {**row, "run": "1" * 32, "created": 1.0}  # begun in the same second, elsewhere
        connection.execute(stored_runs.insert().values(older))
    assert [words[3] for words in resuming()] == ["1" * 32, row["run"]]
    for name in (folder.name, row["run"]):
        assert run_path(Path(name), [setting]) == Path("runs") / folder.name
    result = optimize(home / "planted", resume=Path("runs") / folder.name, provider=ScriptedModel(answer))
    assert len(result.trials) == 2
    assert [words[3] for words in resuming()] == ["1" * 32]


def test_runs_of_others_are_listed_with_all(home: Path, away: Path, storage: str, console_script: Script) -> None:
    folder = run(home, storage)
    with open_store(storage) as (_, engine), engine.begin() as connection:
        connection.execute(stored_runs.update().values(owner="somebody"))
    assert "no runs in" in console_script("runs", "list", "--storage", storage)[1]
    code, out, _ = console_script("runs", "list", "-c", f"storage={storage}", "--all")
    assert (code, folder.name in out, "somebody" in out, "finished" in out) == (0, True, True, True)
    code, _, error = console_script("runs", "list", "--all")
    assert (code, "add --storage URL" in error) == (2, True)
    code, _, error = console_script("runs", "show", f"{folder.name}x", "-c", f"storage={storage}")
    assert (code, "did you mean" in error) == (2, True)


def test_a_run_of_a_folder_is_copied_and_resumed_from_the_copy(
    home: Path, away: Path, storage: str, console_script: Script
) -> None:
    alone = [f"journal={home / 'journal.db'}", *settings(home, storage)[1:], "strategy=agent", "agent.model="]

    def stop_later(event: Event) -> None:
        if isinstance(event, TrialDone) and event.trial.number == 1:
            raise Stopped

    with pytest.raises(Stopped):
        optimize(home / "planted", load_config(alone), provider=ScriptedModel(answer), callbacks=[stop_later])
    folder = next((home / "runs").iterdir())
    copied = []
    for _ in range(2):
        code, out, error = console_script("storage", "copy", str(folder), storage, "--json")
        assert (code, error, PASSWORD in out) == (0, "", False)
        copied.append(json.loads(out)["runs"])
    assert copied[0] == copied[1]
    assert (copied[0][0]["run"], copied[0][0]["trials"]) == (folder.name, 2)
    assert copied[0][0]["checkpoints"] > 0
    with open_store(storage) as (store, _):
        fetched = store.fetch(store.find(folder.name), away / "runs", storage)
    result = optimize(
        home / "planted",
        load_config([f"storage={storage}"], RunFolder.open(fetched).config),
        resume=fetched,
        provider=ScriptedModel(answer),
    )
    assert len(result.trials) == 2
    code, _, error = console_script("storage", "copy", str(folder), storage)
    assert code == 2
    assert "Traceback" not in error


@CLOCKS
def test_a_folder_is_copied_again_unless_its_run_was_resumed_there(
    home: Path, away: Path, storage: str, clock: float, console_script: Script
) -> None:
    alone = [f"journal={home / 'journal.db'}", *settings(home, storage)[1:], "budget.trials=4"]
    with pytest.raises(Stopped):
        optimize(home / "planted", load_config(alone), provider=ScriptedModel(answer), callbacks=[stop])
    folder = next((home / "runs").iterdir())
    assert console_script("storage", "copy", str(folder), storage)[0] == 0
    with pytest.raises(Stopped):
        optimize(home / "planted", resume=folder, provider=ScriptedModel(answer), callbacks=[stop])
    set_clock(folder, clock)
    code, _, error = console_script("storage", "copy", str(folder), storage)
    assert (code, error) == (0, "")
    continue_elsewhere(home, storage, folder.name, "budget.trials=3")
    code, _, error = console_script("storage", "copy", str(folder), storage)
    assert (code, "a later state of the run: config.yaml" in error) == (2, True)


def test_a_storage_is_copied_with_its_runs(home: Path, away: Path, postgres_url: str, console_script: Script) -> None:
    source = str(home / "storage.db")
    folder, half = run(home, source), stopped(home, source)
    code, out, error = console_script("storage", "copy", source, postgres_url)
    assert (code, error) == (0, "")
    assert f"run {folder.name}: 2 trials" in out
    code, out, _ = console_script("runs", "list", "--storage", postgres_url, "--json")
    assert sorted(line["finished"] for line in json.loads(out)["runs"]) == [False, True]
    code, out, error = console_script("inspect", folder.name, "-c", f"storage={postgres_url}")
    assert (code, error) == (0, "")
    assert half.exists()
    assert console_script("storage", "check", postgres_url)[0] == 0
    assert console_script("storage", "copy", source, postgres_url)[0] == 0


def test_a_waiting_worker_continues_a_run_whose_process_died(tmp_path: Path) -> None:
    place, environ = tmp_path / "journal.db", {**os.environ, "AGENTOPT_CACHE": str(tmp_path / "cache")}
    searching = ("strategy=random", "budget.trials=4", "prompts.when=never")
    (tmp_path / "away").mkdir()
    with ServerProcess(counter=tmp_path / "requests.jsonl", quality=QUALITY, delay=0.05) as server:
        task = write_distinct_task(tmp_path, server.base_url)
        begun = command(task, tmp_path, *searching, f"storage={place}")
        process = subprocess.Popen(begun, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await_requests(server, 20)
        process.kill()
        process.wait()
        worker = subprocess.Popen(
            [sys.executable, "-m", "agentopt", "worker", "--storage", str(place)],
            env=environ,
            cwd=tmp_path / "away",
            stderr=subprocess.DEVNULL,
        )
        with open_store(str(place)) as (store, _):
            while not store.runs()[0].result or store.runs()[0].is_running:
                assert worker.poll() is None
                time.sleep(0.2)
        worker.terminate()
        assert worker.wait() == 0
        again = sum(times - 1 for times in request_counts(server).values())
        lost = lost_in_flight(tmp_path)
        print(f"{len(server.received())} requests, {again} choices again, {lost} in flight")
        assert again <= lost * 8
        (continued,) = (tmp_path / "away" / "runs").iterdir()
        before, whole = len(server.received()), tmp_path / "whole"
        config = load_config([f"journal={place}", f"runs={whole}", f"models=[{tmp_path}/models.yaml]", *searching])
        result = optimize(task, config)
        assert len(server.received()) == before  # it used the same answers
    assert result.best_candidate == load_result(continued).best_candidate
    assert [t.score for t in result.trials] == [t.score for t in load_result(continued).trials]
