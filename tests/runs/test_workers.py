"""Workers evaluate the examples of a run as one process does; one that is killed costs its calls in flight."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml

from agentopt import api
from agentopt.core.candidate import Candidate
from agentopt.core.cost import Unit
from agentopt.core.database import open_engine
from agentopt.core.errors import (
    BudgetExceeded,
    CallsFailError,
    ConfigError,
    EvaluationStopped,
    JournalError,
    TaskError,
)
from agentopt.core.events import Observer
from agentopt.core.records import Evaluation, ExampleResult
from agentopt.core.stopping import StopTest
from agentopt.models.lease import Lease
from agentopt.models.scripted import ScriptedModel
from agentopt.models.session import Session, open_session
from agentopt.runs.config import Config, load_config
from agentopt.runs.evaluators import open_evaluator
from agentopt.runs.workers.chunks import ChunkStore, Work
from agentopt.runs.workers.evaluator import LEAST, MOST, Placement, chunk_size
from agentopt.runs.workers.failures import as_error, as_json
from agentopt.runs.workers.pool import Pool, check_engine
from agentopt.runs.workers.worker import job_of, work
from agentopt.search.from_task import with_fitting_unit
from agentopt.taskfile.loading import load_task
from agentopt.testing.servers import OpenAIServer, planted_answer
from tests.runs.test_crash import (
    QUALITY,
    write_task,
)

WORKERS = ("engine=processes", "workers=2")


class InThisProcess:
    """The placement of workers that a test starts itself."""

    def __init__(self, workers: list[asyncio.Task[None]]) -> None:
        self._workers = workers

    async def started(self, observe: Observer) -> None:
        pass

    def check(self) -> None:
        for worker in self._workers:
            if worker.done() and not worker.cancelled():
                worker.result()

    def interrupt(self) -> None:
        for worker in self._workers:
            worker.cancel()

    async def ended(self) -> None:
        await asyncio.gather(*self._workers, return_exceptions=True)

    def kill(self) -> None:
        pass


class Coordinator:
    """A run with its chunks, as `open_pool` opens it, and the workers that the test starts."""

    def __init__(
        self, session: Session, store: ChunkStore, api_task: api.LoadedTask, config: Config, place: str
    ) -> None:
        self.session, self.store, self.task, self.config, self.place = session, store, api_task.task, config, place
        self.workers: list[asyncio.Task[None]] = []
        self.placement: Placement = InThisProcess(self.workers)

    def start_worker(self) -> asyncio.Task[None]:
        self.workers.append(asyncio.create_task(work(Path(self.place), run=self.session.run)))
        return self.workers[-1]

    async def evaluate(self, workers: int = 2, *, candidate: Candidate | None = None, **options: object) -> Evaluation:
        pool = Pool(self.store, self.session.run, workers, self.placement)
        evaluator = open_evaluator(self.task, self.config, self.session, pool=pool)
        return await evaluator.evaluate(candidate or self.task.baseline, **options)  # type: ignore[arg-type]


@asynccontextmanager
async def coordinating(folder: Path, base_url: str, *settings: str) -> AsyncIterator[Coordinator]:
    task_folder = folder / "task"
    if not task_folder.exists():
        write_task(folder, base_url)
    place = str(folder / "journal.db")
    config = load_config([f"models=[{folder}/models.yaml]", f"journal={place}", *settings])
    loaded = api.load(task_folder, config, agent=False)
    engine = open_engine(Path(place))
    caps = config.budget.caps()
    async with open_session(loaded.specs, "run", caps=caps, journal=place, is_shared=True) as session:
        store = ChunkStore(engine, Lease(engine, session.journal.session))
        store.coordinate("run", job_of(loaded.task, task_folder, config))
        coordinator = Coordinator(session, store, loaded, config, place)
        try:
            yield coordinator
        finally:
            store.retire("run")
            await asyncio.gather(*coordinator.workers, return_exceptions=True)
    engine.dispose()


async def locally(folder: Path) -> Evaluation:
    config = load_config([f"models=[{folder}/models.yaml]", f"journal={folder}/local.db"])
    return await api.aevaluate(folder / "task", config=config, split="validation")


def comparable(results: tuple[ExampleResult, ...]) -> list[tuple[object, ...]]:
    return [(r.id, r.score, r.output, r.feedback, r.error, dict(r.unparsed)) for r in results]


async def test_workers_have_the_results_of_one_process_in_its_order(tmp_path: Path) -> None:
    async with OpenAIServer(planted_answer(QUALITY)) as server:
        seen: list[str] = []
        async with coordinating(tmp_path, server.base_url) as run:
            run.start_worker()
            run.start_worker()
            by_workers = await run.evaluate(on_result=lambda result: seen.append(result.id))
            assert run.session.spent["samples"].calls == len(server.requests)
        by_worker = {(request.key, request.seed) for request in server.requests}
        before = len(server.requests)
        local = await locally(tmp_path)
        assert {(request.key, request.seed) for request in server.requests[before:]} == by_worker
    assert by_workers.state == "complete"
    assert comparable(by_workers.results) == comparable(local.results)
    assert sorted(seen) == sorted(result.id for result in local.results)


async def test_units_of_measured_token_lengths_are_those_of_one_process(tmp_path: Path) -> None:
    """The unit that a pass of the measured length would cost nothing in is replaced after the baseline."""
    async with OpenAIServer(planted_answer(QUALITY)) as server:
        file = write_task(tmp_path, server.base_url) / "task.yaml"
        spec = yaml.safe_load(file.read_text())
        for subtask in spec["subtasks"]:
            del subtask["tokens"]
        spec["cost"] = {"measure": "units", "unit": {"parameters": 1e12, "prompt_tokens": 4000, "completion_tokens": 2}}
        file.write_text(yaml.safe_dump(spec))
        async with coordinating(tmp_path, server.base_url) as run:
            run.start_worker()
            measured, calls = await run.evaluate(), len(server.requests)
            assert run.task.unit == Unit(1e12, 4000, 2)
            assert {use.units for result in measured.results for use in result.subtasks.values()} == {0.0}
            run.task = with_fitting_unit(run.task, run.session.specs, measured)
            by_workers = await run.evaluate()
            by_one = await open_evaluator(run.task, run.config, run.session).evaluate(run.task.baseline)
            assert len(server.requests) == calls
    assert by_workers.per_example("units") >= 1
    units = [
        [{name: use.units for name, use in result.subtasks.items()} for result in evaluation.results]
        for evaluation in (by_workers, by_one)
    ]
    assert units[0] == units[1]


async def test_early_stopping_is_that_of_one_process(tmp_path: Path) -> None:
    leader = {f"validation{i}": 1.0 for i in range(24)}
    async with OpenAIServer(planted_answer(QUALITY)) as server, coordinating(tmp_path, server.base_url) as run:
        run.start_worker()
        stopped = await run.evaluate(stop=StopTest(leader, "trial 0", 0.05))
        direct = open_evaluator(run.task, run.config, run.session)
        local = await direct.evaluate(run.task.baseline, stop=StopTest(leader, "trial 0", 0.05))
    assert stopped.state == local.state == "pruned"
    assert stopped.stopped == local.stopped
    assert comparable(stopped.results) == comparable(local.results)


async def test_a_cap_ends_the_evaluation_and_keeps_what_was_done(tmp_path: Path) -> None:
    async with (
        OpenAIServer(planted_answer(QUALITY)) as server,
        coordinating(tmp_path, server.base_url, "budget.calls=20") as run,
    ):
        run.start_worker()
        run.start_worker()
        with pytest.raises(BudgetExceeded, match="calls cap of 20") as refused:
            await run.evaluate()
        assert isinstance(refused.value.partial, Evaluation)
        assert 0 < len(refused.value.partial.results) < 24
        assert len(server.requests) == 20


async def test_a_worker_logs_what_is_new_once_and_in_words(tmp_path: Path) -> None:
    lines, is_over = list[str](), asyncio.Event()

    def log(line: str) -> None:
        lines.append(line)
        if "no more work" in line:
            is_over.set()

    async with (
        OpenAIServer(planted_answer(QUALITY)) as server,
        coordinating(tmp_path, server.base_url, "budget.calls=20") as run,
    ):
        worker = asyncio.create_task(work(Path(run.place), log=log, idle_seconds=0.05))
        run.workers.append(worker)
        with pytest.raises(BudgetExceeded):
            await run.evaluate(1)
        await asyncio.sleep(2)  # it leaves the run, and returns, more than once
        run.store.retire("run")
        await asyncio.wait_for(is_over.wait(), 60)
        worker.cancel()
    assert lines[0] == "works for run run"
    assert lines[-1] == "run run needs no more work"
    assert "ended: the calls cap of 20" in lines[-2]
    assert all(re.fullmatch(r"chunk \d+ of run run (has \d+ results?|ended: the calls cap .*)", x) for x in lines[1:-1])


async def test_what_is_held_back_is_held_back_from_workers(tmp_path: Path) -> None:
    from agentopt.core.budget import Usage

    async with (
        OpenAIServer(planted_answer(QUALITY)) as server,
        coordinating(tmp_path, server.base_url, "budget.calls=20") as run,
    ):
        run.start_worker()
        with run.session.budget.holding_back(Usage(calls=8)), pytest.raises(EvaluationStopped):
            await run.evaluate()
        assert len(server.requests) == 12


async def test_another_coordinator_uses_the_results_of_the_first(tmp_path: Path) -> None:
    async with OpenAIServer(planted_answer(QUALITY)) as server:
        async with coordinating(tmp_path, server.base_url) as run:
            run.start_worker()
            first = await run.evaluate()
        before = len(server.requests)
        async with coordinating(tmp_path, server.base_url) as run:  # without a worker
            second = await run.evaluate()
        assert len(server.requests) == before
    assert comparable(second.results) == comparable(first.results)


async def test_chunks_of_a_worker_that_stopped_are_run_by_another(tmp_path: Path) -> None:
    async with OpenAIServer(planted_answer(QUALITY), delay=0.05) as server:
        async with coordinating(tmp_path, server.base_url) as run:
            first = run.start_worker()
            evaluating = asyncio.create_task(run.evaluate())
            while not server.requests:  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0.01)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            run.start_worker()
            assert (await evaluating).state == "complete"
        keys = [(received.key, received.seed) for received in server.requests]
        assert len(keys) == len(set(keys))  # its calls in flight were waited for


class Members:
    """Processes that use one database, by one clock."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine, self.now = engine, 0.0

    def add(self, name: str) -> tuple[ChunkStore, Lease]:
        lease = Lease(
            self.engine, name, now=lambda: sa.literal(self.now, sa.Double), clock=lambda: self.now, process=""
        )
        lease.renew()
        return ChunkStore(self.engine, lease), lease


@pytest.fixture(params=["sqlite", "postgresql"])
def members(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Members]:
    """The processes of a database of each dialect."""
    is_file = request.param == "sqlite"
    engine = open_engine(tmp_path / "journal.db" if is_file else request.getfixturevalue("postgres_url"))
    yield Members(engine)
    engine.dispose()


def two_chunks() -> list[Work]:
    task = load_task("tasks/quickstart")
    return [Work(task.baseline, "test", (str(i),), 0, 0, task.unit, (0, 0, 0.0, 0.0)) for i in range(2)]


def test_a_coordinator_that_was_suspended_changes_nothing_of_a_run_that_another_one_has(members: Members) -> None:
    (first, _), works = members.add("first"), two_chunks()
    first.coordinate("run", {})
    first.add("run", works)
    members.now = 16.0
    second, _ = members.add("second")
    worker, _ = members.add("worker")
    second.coordinate("run", {})
    assert second.add("run", works[:1]) == [0]
    chunk, epoch = worker.claim("run"), second.epoch("run")
    assert chunk
    worker.write(chunk, [ExampleResult("0", 1.0)])
    evaluation = works[0].evaluation
    with pytest.raises(JournalError, match="another process has continued this run"):
        first.add("run", works)
    with pytest.raises(JournalError, match="another process has continued this run"):
        first.forget("run", evaluation, ["0"])
    first.withdraw("run")
    first.retire("run")
    assert list(second.states("run", range(9))) == [0]
    assert second.results("run", evaluation) == {"0": ExampleResult("0", 1.0)}
    assert second.epoch("run") == epoch
    second.forget("run", evaluation, ["0"])
    assert second.results("run", evaluation) == {}


@pytest.mark.parametrize("length", [1, 200, 201, 3000, 20_000])
def test_results_are_stored_whatever_the_id(members: Members, length: int) -> None:
    store, _ = members.add("coordinator")
    ids = ("x" * length, "x" * (length - 1) + "\0", "\u00e9" * length)
    (work,) = (replace(one, ids=ids) for one in two_chunks()[:1])
    store.coordinate("run", {})
    store.add("run", [work])
    chunk = store.claim("run")
    assert chunk
    store.write(chunk, [ExampleResult(name, i / 2) for i, name in enumerate(ids)])
    store.write(chunk, [ExampleResult(ids[0], 1.0)])
    found = store.results("run", work.evaluation)
    assert {name: result.score for name, result in found.items()} == dict(zip(ids, (0.0, 0.5, 1.0), strict=True))
    assert set(store.results("run", work.evaluation, known=ids[:2])) == {ids[2]}
    store.forget("run", work.evaluation, ids[:1])
    assert set(store.results("run", work.evaluation)) == set(ids[1:])


def test_a_chunk_is_claimed_once_and_again_after_its_worker_died(members: Members) -> None:
    coordinator, of_coordinator = members.add("coordinator")
    (one, _), (other, of_other) = members.add("one"), members.add("other")
    coordinator.coordinate("run", {})
    works = two_chunks()
    assert coordinator.add("run", works) == [0, 1]
    claimed = one.claim("run"), other.claim("run")
    assert [chunk and chunk.number for chunk in claimed] == [0, 1]
    assert [chunk and chunk.work for chunk in claimed] == works
    assert coordinator.claim("run") is None
    with pytest.raises(ConfigError, match="another process coordinates"):
        other.coordinate("run", {})
    members.now = 16.0
    of_other.renew()
    of_coordinator.renew()
    again = other.claim("run")
    assert again == claimed[0]
    assert again
    result = ExampleResult("0", 1.0, "x")
    other.write(again, [result])
    one.write(again, [ExampleResult("0", 0.0, "late")])
    other.end(again, 3)
    one.end(again, 9, as_json(ValueError("late")))
    assert coordinator.results("run", again.work.evaluation) == {"0": result}
    assert (coordinator.states("run", [0])[0].state, coordinator.states("run", [0])[0].calls) == ("done", 3)
    coordinator.withdraw("run")
    other.release(claimed[1])  # type: ignore[arg-type]
    assert other.claim("run") is None
    coordinator.retire("run")
    assert other.epoch("run") is None
    assert other.waiting_runs() == []


@pytest.mark.parametrize(
    "error",
    [
        BudgetExceeded("agent.usd", cap=1.5, spent=1.4, wanted=0.2, kept=0.1),
        CallsFailError("every further call would fail", remedy="fix the cause and start again"),
        TaskError("no subtask was called", remedy="call one"),
        ValueError("a bug of a scorer"),
    ],
)
def test_a_workers_failure_is_raised_by_the_coordinator(error: Exception) -> None:
    raised = as_error(as_json(error))
    assert str(error).splitlines()[0] in str(raised)
    if isinstance(error, BudgetExceeded | CallsFailError):
        assert (type(raised), str(raised)) == (type(error), str(error))
        assert raised.stopped == error.stopped  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("examples", "workers", "size"), [(5, 4, 2), (24, 4, 6), (100, 2, 25), (2000, 4, 125), (10**6, 4, MOST)]
)
def test_chunks_occupy_all_workers(examples: int, workers: int, size: int) -> None:
    assert chunk_size(examples, workers) == size
    assert size <= LEAST or size <= MOST


async def test_what_workers_cannot_load_is_refused(tmp_path: Path) -> None:
    config, task = Config(engine="processes"), load_task("tasks/quickstart")
    with pytest.raises(ConfigError, match="a provider that exists in this process"):
        check_engine(config, task, ScriptedModel())
    from dataclasses import replace

    with pytest.raises(ConfigError, match="built in Python"):
        check_engine(config, replace(task, file=None), None)
    check_engine(Config(), task, ScriptedModel())


def write_distinct_task(folder: Path, base_url: str) -> Path:
    """The task whose questions on one example are never those on another, which two workers might send at once."""
    task = write_task(folder, base_url)
    text = (task / "task.yaml").read_text()
    (task / "task.yaml").write_text(text.replace("the word behind", "the word of {{ inputs.word }} behind"))
    return task


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []
