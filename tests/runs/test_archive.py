"""The record of a run: what a finished, a stopped and a running one leave, read without a call."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from agentopt.api import aoptimize, load
from agentopt.core.budget import Caps
from agentopt.core.errors import BudgetExceeded, ConfigError
from agentopt.core.events import Event, TrialDone
from agentopt.core.records import Evaluation, ExampleResult
from agentopt.core.stop_reason import StopKind, StopReason
from agentopt.runs.archive import RunArchive, open_archive
from agentopt.runs.config import Config
from agentopt.runs.folder import RunFolder
from agentopt.runs.result import load_result
from agentopt.runs.run_record import GuidelinesEntry, TestEntry, append_entry, as_first_met, read_record
from agentopt.testing.toy import toy_model, toy_task


def config(folder: Path, **changes: object) -> Config:
    given = {
        "runs": folder / "runs",
        "journal": str(folder / "journal.db"),
        "strategy": "random",
        "budget": {"trials": 5},
        "prompts": {"when": "never"},
        **changes,
    }
    return Config.model_validate(given)


def archive_of(path: Path, settings: Config) -> RunArchive:
    task, specs = load(toy_task(), settings, agent=False)
    return open_archive(RunFolder.open(path), task, specs)


async def test_the_archive_of_a_finished_run_has_the_numbers_of_its_result(tmp_path: Path) -> None:
    result = await aoptimize(toy_task(), config(tmp_path), provider=toy_model())
    archive = archive_of(Path(result.run), config(tmp_path))
    assert archive.state == "finished"
    assert archive.result == load_result(result.run)
    assert archive.lines == result.trials
    assert [trial.score for trial in archive.trials] == [line.score for line in result.trials]
    assert [trial.units for trial in archive.trials] == [line.units for line in result.trials]
    assert archive.choice is not None
    assert archive.front == result.pareto == archive.choice.pareto
    assert {f.trial for f in result.finalists} == archive.tests.keys()
    for finalist in result.finalists:
        assert finalist.test is not None
        assert archive.tests[finalist.trial].score == finalist.test.score
    assert sum(usage.calls for usage in archive.spent.values()) == result.total.calls
    assert archive.spend.by_purpose == result.spent
    assert len(archive.evaluations()) == len(result.trials) + len(result.finalists)


async def test_a_killed_run_has_its_trials_and_the_best_so_far(tmp_path: Path) -> None:
    seen: list[Path] = []

    def kill(event: Event) -> None:
        if isinstance(event, TrialDone) and event.trial.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await aoptimize(toy_task(), config(tmp_path), provider=toy_model(), callbacks=[kill])
    seen += (tmp_path / "runs").iterdir()
    archive = archive_of(seen[0], config(tmp_path))
    assert (archive.state, archive.result, len(archive.trials)) == ("stopped", None, 3)
    assert [line.number for line in archive.lines] == [0, 1, 2]
    assert {role for finalist in archive.finalists for role in finalist.roles} == {"baseline", "best", "recommended"}
    assert all(finalist.test is None for finalist in archive.finalists)


async def test_a_run_that_another_process_holds_is_running(tmp_path: Path) -> None:
    result = await aoptimize(toy_task(), config(tmp_path), provider=toy_model())
    with RunFolder.open(result.run).locked():
        assert archive_of(Path(result.run), config(tmp_path)).state == "running"
    assert archive_of(Path(result.run), config(tmp_path)).state == "finished"


def test_a_run_without_a_trial_has_an_archive(tmp_path: Path) -> None:
    run = RunFolder.create(toy_task(), config(tmp_path))
    archive = archive_of(run.path, config(tmp_path))
    assert (archive.state, archive.trials, archive.finalists, archive.front) == ("stopped", (), (), ())


async def test_a_task_that_has_changed_is_refused(tmp_path: Path) -> None:
    result = await aoptimize(toy_task(), config(tmp_path), provider=toy_model())
    task, specs = load(toy_task(validation=15), config(tmp_path), agent=False)
    with pytest.raises(ConfigError, match="the task has changed"):
        open_archive(RunFolder.open(result.run), task, specs)


def test_entries_survive_a_kill_and_count_once(tmp_path: Path) -> None:
    file = tmp_path / "record.jsonl"
    half = Evaluation("test", 2, (ExampleResult("a", 1.0, "\ud83d cut \u2028 here"),), "incomplete")
    whole = Evaluation("test", 2, (ExampleResult("a", 1.0), ExampleResult("b", 0.0)), "complete")
    for entry in (
        GuidelinesEntry("more samples", 4),
        GuidelinesEntry("more samples", 4),
        TestEntry(3, ("best",), half),
        TestEntry(3, ("best",), whole),
        TestEntry(0, ("baseline",), half),
        GuidelinesEntry("", 9),
    ):
        append_entry(file, entry)
    with file.open("ab") as log:
        log.write(b'{"text":"cut by a ki')
    found = read_record(file)
    assert found.guidelines == (GuidelinesEntry("more samples", 4), GuidelinesEntry("", 9))
    assert found.tests[3] == whole
    assert found.tests[0].results[0].output == "? cut \u2028 here"
    assert read_record(tmp_path / "missing.jsonl").guidelines == ()


def test_a_cap_that_a_part_of_a_run_met_is_that_of_the_first_session_until_it_is_raised(tmp_path: Path) -> None:
    file = tmp_path / "record.jsonl"

    def ended(part: Literal["search", "test"], cap: int, spent: int, kind: str = "calls") -> str:
        stopped = BudgetExceeded(kind, cap=cap, spent=spent, wanted=3).stopped
        return as_first_met(file, part, stopped, Caps(calls=cap, usd=5.0)).detail

    assert "54 spent" in ended("search", 90, 54)
    assert "54 spent" in ended("search", 90, 78), "the test of the first session has spent 24"
    assert "88 spent" in ended("test", 90, 88)
    assert "150 spent" in ended("search", 180, 150)
    assert "54 spent" in ended("search", 90, 90)
    assert "150 spent" in ended("search", 180, 180)
    assert "4 spent" in ended("search", 5, 4, "usd")
    assert "7 spent" in ended("search", 8, 7, "agent.calls"), "a cap on one purpose is not one on the run"
    failed = StopReason(StopKind.FAILED, detail="no model answered")
    assert as_first_met(file, "search", failed, Caps()) == failed
    assert [entry.cap for entry in read_record(file).caps] == [90, 90, 180, 5]


GUIDELINES = GuidelinesEntry("use the large model", 3)


@pytest.mark.parametrize(
    "damaged", [b"{", b"[]", b"\xff\xfe", b'{"kind": "other"}', b'{"kind": "guidelines", "text": 1}']
)
def test_unreadable_lines_of_the_record_are_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damaged: bytes
) -> None:
    file = tmp_path / "record.jsonl"
    append_entry(file, GUIDELINES)
    file.write_bytes(damaged + b"\n" + damaged + b"\n\n" + file.read_bytes())
    for _ in range(2):
        assert read_record(file).guidelines == (GUIDELINES,)
    assert caplog.messages == [f"{file}: left out 2 lines, which cannot be read"]


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_last_line_that_a_kill_cut_is_no_remark_and_costs_no_later_entry(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, cut: int
) -> None:
    file = tmp_path / "record.jsonl"
    append_entry(file, GuidelinesEntry("to be cut", 2))
    file.write_bytes(file.read_bytes()[:-1][:cut])
    assert (read_record(file).guidelines, caplog.messages) == ((), [])
    append_entry(file, GUIDELINES)
    assert read_record(file).guidelines == (GUIDELINES,)
