"""Trackers: MLflow on a database in a folder, Weights & Biases offline, a scripted sink that fails or hangs."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import agentopt
from agentopt.core.budget import Usage
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.core.events import RunDone, RunStarted, TrialDone
from agentopt.core.plain_text import unstorable
from agentopt.core.records import Trial
from agentopt.core.stop_reason import StopKind, StopReason
from agentopt.core.task import Task
from agentopt.models.catalog import ModelSpec
from agentopt.report.trackers.contents import TrackedRun, flattened, without_secrets
from agentopt.report.trackers.mlflow_sink import MlflowSink, fitting
from agentopt.report.trackers.tracker import MOST_WAITING, Tracker
from agentopt.report.trackers.wandb_sink import WandbSink
from agentopt.runs.config import Config
from agentopt.runs.folder import RunFolder
from agentopt.testing.toy import toy_model, toy_task
from tests.report.pages import HOSTILE, settings

LONG = "x" * 10_000

pytestmark = pytest.mark.filterwarnings("ignore")  # what the trackers' libraries warn about is not ours


class Recorded:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.trials: dict[int, Trial] = {}
        self.values: dict[int, dict[str, float]] = {}
        self.recorded: list[str] = []
        self.ended: list[bool] = []
        self.times: list[tuple[str, float | None]] = []

    def trial(self, trial: Trial, at: float | None) -> None:
        self.trials[trial.number] = trial
        self.times.append((f"trial {trial.number}", at))

    def metrics(self, values: dict[str, float], step: int, at: float) -> None:
        self.values.setdefault(step, {}).update(values)
        self.times.append((f"metrics {step}", at))

    def files(self, run: TrackedRun) -> None:
        self.recorded += ["config.yaml", *(file.name for file in run.files)]

    def close(self, *, is_done: bool, at: float) -> None:
        self.ended.append(is_done)
        self.times.append(("end", at))


class Failing(Recorded):
    """A sink that raises at every trial."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def trial(self, trial: Trial, at: float | None) -> None:
        raise self.error


class Hanging(Recorded):
    """A sink whose trials wait until the test releases them."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def trial(self, trial: Trial, at: float | None) -> None:
        self.released.wait()


def tracker(sink: Recorded, deadline: float = 15.0) -> Tracker:
    return Tracker("mlflow", lambda run: sink, deadline)


START = 1.75e9


def clock() -> Callable[[], float]:
    """A clock that goes on by ten seconds with each look at it."""
    return count(START, 10.0).__next__


def kill_after(trials: int) -> Callable[[agentopt.events.Event], None]:
    def kill(event: agentopt.events.Event) -> None:
        if isinstance(event, TrialDone) and event.trial.number == trials:
            raise KeyboardInterrupt

    return kill


def trials_into(done: list[Trial]) -> Callable[[agentopt.events.Event], None]:
    def follow(event: agentopt.events.Event) -> None:
        if isinstance(event, TrialDone):
            done.append(event.trial)

    return follow


def test_a_sink_receives_every_trial_the_spend_the_result_and_the_files(tmp_path: Path) -> None:
    sink, done = Recorded(), list[Trial]()
    result = agentopt.optimize(
        toy_task(), settings(tmp_path), provider=toy_model(), callbacks=[tracker(sink), trials_into(done)]
    )
    assert list(sink.trials.values()) == done
    assert sink.values[0]["validation_score"] == done[0].evaluation.score
    last = sink.values[len(result.trials)]
    baseline = result.finalist("baseline")
    assert baseline.test is not None
    assert last["test/baseline/score"] == baseline.test.score
    assert last["spent/total/calls"] == sum(result.spent.values(), Usage()).calls
    assert sink.recorded == ["config.yaml", "result.json", "best.yaml", "recommended.yaml"]
    assert sink.ended == [True]


def test_a_tracker_that_is_loaded_late_records_the_times_of_the_events(tmp_path: Path) -> None:
    sink, begun, is_over = Recorded(), list[float](), threading.Event()

    def open_late(run: TrackedRun) -> Recorded:
        is_over.wait()
        begun.append(run.begun)
        return sink

    def release(event: agentopt.events.Event) -> None:
        if isinstance(event, RunDone):
            is_over.set()

    callbacks: list[Callable[[agentopt.events.Event], None]] = [
        Tracker("mlflow", open_late, clock=clock()),
        release,
    ]
    result = agentopt.optimize(toy_task(), settings(tmp_path), provider=toy_model(), callbacks=callbacks)
    trials = len(result.trials)
    of_trials = [(f"{what} {n}", START + 10 * (n + 1)) for n in range(trials) for what in ("trial", "metrics")]
    end = START + 10 * (trials + 1)
    assert begun == [START]
    assert sink.times == [*of_trials, (f"metrics {trials}", end), ("end", end)]


def test_a_resumed_run_records_its_earlier_trials_again(tmp_path: Path) -> None:
    first, second = Recorded(), Recorded()
    with pytest.raises(KeyboardInterrupt):
        agentopt.optimize(
            toy_task(), settings(tmp_path), provider=toy_model(), callbacks=[tracker(first), kill_after(2)]
        )
    assert first.ended == [False]
    run = next((tmp_path / "runs").iterdir())
    agentopt.optimize(toy_task(), resume=run, provider=toy_model(), callbacks=[tracker(second)])
    assert sorted(second.trials) == list(range(6))
    assert [at for what, at in second.times if what in ("trial 0", "trial 1")] == [None, None]
    assert second.ended == [True]


def test_what_resumes_a_run_has_its_trackers(tmp_path: Path) -> None:
    def refuse(run: TrackedRun) -> Recorded:
        raise ConnectionError("nothing listens")

    callbacks: list[Callable[[agentopt.events.Event], None]] = [tracker(Recorded())]
    callbacks += [Tracker("wandb", refuse), kill_after(0)]  # opened late, or not at all
    with pytest.raises(KeyboardInterrupt):
        agentopt.optimize(toy_task(), settings(tmp_path), provider=toy_model(), callbacks=callbacks)
    run = RunFolder.open(next((tmp_path / "runs").iterdir()))
    trackers = "agentopt.trackers.mlflow(), agentopt.trackers.wandb()"
    assert run.resuming == f"agentopt.optimize(task, resume={str(run.path)!r}, callbacks=[{trackers}])"
    of_folder = replace(run, task=tmp_path / "task")
    assert of_folder.resuming == f"agentopt optimize --resume {run.path} --track mlflow --track wandb"
    capped = of_folder.resuming_after(StopReason(StopKind.CAP_REACHED, "trials"))
    assert capped.startswith(f"{of_folder.resuming} -c budget.trials=")


@pytest.mark.parametrize(
    "error", [OSError("no\nnetwork \ud83d"), ValueError(LONG), SystemExit(1), RuntimeError(*HOSTILE)]
)
def test_a_sink_that_raises_is_reported_once_and_the_run_finishes(
    tmp_path: Path, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    result = agentopt.optimize(
        toy_task(), settings(tmp_path), provider=toy_model(), callbacks=[tracker(Failing(error))]
    )
    assert len(result.trials) == 6
    (record,) = [record for record in caplog.records if record.name == "agentopt.trackers"]
    assert f"mlflow does not record this run completely: {type(error).__name__}" in record.getMessage()
    assert len(record.getMessage()) < 500
    assert "\n" not in record.getMessage()


def test_a_sink_that_cannot_be_opened_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(run: TrackedRun) -> Recorded:
        raise ConnectionError("nothing listens")

    agentopt.optimize(toy_task(), settings(tmp_path), provider=toy_model(), callbacks=[Tracker("mlflow", refuse)])
    assert [r.getMessage().count("nothing listens") for r in caplog.records if r.name == "agentopt.trackers"] == [1]


def test_a_sink_that_hangs_holds_back_neither_the_run_nor_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Hanging()
    result = agentopt.optimize(
        toy_task(), settings(tmp_path), provider=toy_model(), callbacks=[tracker(sink, deadline=0.01)]
    )
    assert len(result.trials) == 6
    (record,) = [record for record in caplog.records if record.name == "agentopt.trackers"]
    assert "did not finish within 0.01 s" in record.getMessage()
    sink.released.set()


def test_updates_that_a_hanging_sink_does_not_take_are_bounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink, done = Hanging(), list[Trial]()
    result = agentopt.optimize(toy_task(), settings(tmp_path), provider=toy_model(), callbacks=[trials_into(done)])
    observer = tracker(sink, deadline=0.01)
    observer(RunStarted(Path(result.run)))
    for _ in range(2 * MOST_WAITING):
        observer(TrialDone(done[0], None))
    observer.close()
    (record,) = [record for record in caplog.records if record.name == "agentopt.trackers"]
    assert f"more than {MOST_WAITING:,} updates wait" in record.getMessage()
    sink.released.set()


@pytest.fixture(scope="module")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without a run: creating its tables takes seconds."""
    import mlflow

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def mlflow_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_database: Path) -> Iterator[str]:
    """A database in an empty folder, and its client's own settings as they were."""
    place = tmp_path / "mlflow"
    place.mkdir()
    shutil.copy(mlflow_database, place)
    monkeypatch.chdir(place)
    uri = f"sqlite:///{place}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    levels = {name: logging.getLogger(name).level for name in ("mlflow", "alembic")}
    yield uri
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def mlflow_runs(task: str) -> tuple[Any, Any, list[Any]]:
    """MLflow's client, the run, and the nested runs by name."""
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(task)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == len(runs) - 1
    return client, parent, sorted(children, key=lambda run: int(run.data.params["trial"]))


def test_mlflow_has_the_run_with_a_nested_run_for_each_trial(tmp_path: Path, mlflow_uri: str) -> None:
    result = agentopt.optimize(
        toy_task(), settings(tmp_path), provider=toy_model(), callbacks=[agentopt.trackers.mlflow()]
    )
    client, parent, children = mlflow_runs("toy")
    assert parent.info.status == "FINISHED"
    assert parent.data.params["budget.trials"] == "6"
    assert parent.data.metrics["spent/total/calls"] == sum(result.spent.values(), Usage()).calls
    assert parent.data.tags["agentopt.run"] == RunFolder.open(result.run).id
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files == {"config.yaml", "result.json", "best.yaml", "recommended.yaml"}
    assert len(children) == len(result.trials)
    for child, trial in zip(children, result.trials, strict=True):
        assert child.data.metrics["validation_score"] == trial.score
        assert child.data.params["find.model"] == trial.candidate["find"].model
        assert child.data.params["answer.num_samples"] == str(trial.candidate["answer"].num_samples)
    history = client.get_metric_history(parent.info.run_id, "best_so_far")
    assert [metric.step for metric in history] == list(range(len(result.trials)))


def test_mlflow_has_the_times_of_the_events(tmp_path: Path, mlflow_uri: str) -> None:
    observer = Tracker("mlflow", lambda run: MlflowSink(run, None), clock=clock())
    result = agentopt.optimize(toy_task(), settings(tmp_path), provider=toy_model(), callbacks=[observer])
    client, parent, children = mlflow_runs("toy")
    ends = [round(1000 * (START + 10 * (n + 1))) for n in range(len(result.trials) + 1)]
    assert (parent.info.start_time, parent.info.end_time) == (round(1000 * START), ends[-1])
    assert [child.info.end_time for child in children] == ends[:-1]
    for child in children:
        seconds = child.data.metrics["seconds"]
        assert child.info.end_time - child.info.start_time == pytest.approx(1000 * seconds, abs=1)
        (score,) = client.get_metric_history(child.info.run_id, "validation_score")
        assert score.timestamp == child.info.end_time
    history = client.get_metric_history(parent.info.run_id, "spent/total/calls")
    assert [metric.timestamp for metric in history] == ends


def test_mlflow_continues_the_run_of_a_resumed_one(tmp_path: Path, mlflow_uri: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        agentopt.optimize(
            toy_task(),
            settings(tmp_path),
            provider=toy_model(),
            callbacks=[agentopt.trackers.mlflow(), kill_after(2)],
        )
    _, killed, children = mlflow_runs("toy")
    assert killed.info.status == "KILLED"
    run = next((tmp_path / "runs").iterdir())
    agentopt.optimize(toy_task(), resume=run, provider=toy_model(), callbacks=[agentopt.trackers.mlflow()])
    _, finished, more = mlflow_runs("toy")
    assert (finished.info.run_id, finished.info.status) == (killed.info.run_id, "FINISHED")
    before, after = (
        {child.info.run_id: (child.info.start_time, child.info.end_time) for child in found}
        for found in (children, more)
    )
    assert before.items() < after.items(), "trials of the first session keep their times"
    assert len(more) == 6


def test_mlflow_starts_anew_if_the_server_lost_the_run(tmp_path: Path, mlflow_uri: str) -> None:
    result = agentopt.optimize(
        toy_task(), settings(tmp_path), provider=toy_model(), callbacks=[agentopt.trackers.mlflow()]
    )
    _client, parent, _ = mlflow_runs("toy")
    with sqlite3.connect(mlflow_uri.removeprefix("sqlite:///")) as database:
        database.execute("PRAGMA foreign_keys=OFF")
        database.execute("UPDATE runs SET run_uuid = 'lost' WHERE run_uuid = ?", (parent.info.run_id,))
    more = settings(tmp_path, trials=7)
    agentopt.optimize(
        toy_task(), more, resume=result.run, provider=toy_model(), callbacks=[agentopt.trackers.mlflow("again")]
    )
    _, again, children = mlflow_runs("again")
    assert again.info.run_id != parent.info.run_id
    assert len(children) == 7


def hostile_trial(trial: Trial) -> Trial:
    """A trial whose proposer and prompts no tracker expects; a prompt has no half surrogate pair, which is refused."""
    prompts = [text for text in HOSTILE if not unstorable(text)]
    choice = SubtaskChoice("large", 3, system_prompt="\x01".join([*prompts, LONG]))
    return replace(trial, candidate=Candidate.of({"find": choice}), proposer="\0" + HOSTILE[4])


def test_mlflow_takes_hostile_and_long_values(tmp_path: Path, mlflow_uri: str) -> None:
    task: Task = replace(toy_task(), name="<b>&\u202e%s;'\"")
    done: list[Trial] = []
    result = agentopt.optimize(task, settings(tmp_path), provider=toy_model(), callbacks=[trials_into(done)])
    folder = RunFolder.open(result.run)
    given = {"task": {"a.b": LONG, "a/b": HOSTILE[4], "a?b": "\0", LONG: 1}, "none": None}
    tracked = TrackedRun(folder.id, task.name, folder.path, given, START)
    sink = MlflowSink(tracked, None)
    sink.trial(hostile_trial(done[1]), START)
    sink.files(tracked)
    sink.close(is_done=True, at=START)
    _, parent, (child,) = mlflow_runs(task.name.encode(errors="replace").decode())
    params = parent.data.params
    assert params["task.a.b"].startswith("xxx")
    assert len(params["task.a.b"]) == 6000
    assert {name for name in params if name.startswith("task.a_b")} == {"task.a_b", "task.a_b_2"}
    assert HOSTILE[0] in child.data.params["find.system_prompt"]


def test_names_of_parameters_stay_apart_after_they_are_cut() -> None:
    names = [LONG + "a", LONG + "b", "A", "a", "", "../x", "/x"]
    found = fitting(dict.fromkeys(names, ""))
    assert len({name.lower() for name in found}) == len(names)
    assert all(len(name) <= 250 and not name.startswith((".", "/")) for name in found)


def test_wandb_has_the_run_offline_and_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    task: Task = replace(toy_task(), name=f"{HOSTILE[3]} <b>&")
    observer = Tracker("wandb", lambda run: WandbSink(run, "of a test"), clock=clock())
    result = agentopt.optimize(task, settings(tmp_path), provider=toy_model(), callbacks=[observer])
    assert [r.getMessage() for r in caplog.records if r.name == "agentopt.trackers"] == []
    run = RunFolder.open(result.run)
    (written,) = run.path.glob("wandb/offline-run-*/*.wandb")
    content = written.read_bytes()
    assert run.id in written.name
    for part in (
        b"validation_score",
        b"best_so_far",
        b"spent/total/calls",
        b"test/baseline/score",
        b"recommended.yaml",
        *(f"{START + 10 * (n + 1):.8e}".encode() for n in range(len(result.trials) + 1)),
    ):
        assert part in content


def test_no_secret_is_recorded(tmp_path: Path) -> None:
    keys = {"extra_headers": {"x": "s3cret"}, "extra_body": {"k": "s3cret"}, "query": {"token": "s3cret"}}
    spec = ModelSpec.model_validate(
        {"name": "m", "base_url": "http://localhost:1/v1", "usd_per_1m_prompt": 1, "usd_per_1m_completion": 1, **keys}
    )
    urls = ("postgresql://u:s3cret@h/d", "postgresql://h/d?password=s3cret&user=u", "postgresql://u:s3cret@h:no/d")
    for url in urls:
        config = Config(journal=url, models=(spec,))
        found = dict(flattened(without_secrets(config.model_dump(mode="json"))))
        assert "s3cret" not in str(found)


def test_a_missing_extra_ends_the_command_before_anything_is_spent(
    tmp_path: Path, console_script: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(agentopt.errors.UserError, match=r"pip install 'agentopt\[no_such_tracker\]'"):
        Tracker("no_such_tracker", lambda run: Recorded())
    code, _, errors = console_script("optimize", "tasks/quickstart", "--track", "mlfow")
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert "did you mean 'mlflow'" in errors
