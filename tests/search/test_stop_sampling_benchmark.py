"""The replay of stopped votes on recorded samples, and the recording of the samples."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

from agentopt.cli.commands.record import run_recording
from agentopt.core.candidate import Candidate, SubtaskChoice
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.catalog import Catalog
from agentopt.testing.server_process import ServerProcess
from agentopt.testing.toy import LARGE, SMALL, toy_model, toy_task
from benchmarks.stop_sampling import (
    LOSS,
    SAMPLES,
    SHARE,
    STOPS,
    SampleTable,
    bounds_from_rewards,
    lacking,
    main,
    planted,
    record,
    replay,
)
from tests.cli.test_cli import MODELS, rows, spec_of_task

SPECS = {name: Catalog.load()[name] for name in (SMALL, LARGE)}


async def test_recorded_samples_give_the_scores_of_an_evaluation(tmp_path: Path) -> None:
    task = toy_task(validation=12, test=1, num_samples=(1, 7))
    table = await record(task, toy_model(), SPECS, samples=7)
    assert table.settings == tuple(f"{subtask}, {model}" for model in task.models for subtask in ("find", "answer"))
    assert table.votes.shape == table.scores.shape == (4, 12, 7)
    for model in task.models:
        candidate = Candidate.of({s.name: SubtaskChoice(model, 7, s.system_prompt) for s in task.subtasks})
        evaluated = await Evaluator(task, toy_model(), SPECS).evaluate(candidate)
        place = table.settings.index(f"answer, {model}")
        of_answer = SampleTable("", ("",), table.votes[[place]], table.scores[[place]])
        assert replay(of_answer, None).score == pytest.approx(evaluated.score)
    table.save(tmp_path / "new" / "toy.npz")
    again = SampleTable.load(tmp_path / "new" / "toy.npz")
    assert (again.name, again.settings) == (table.name, table.settings)
    assert np.array_equal(again.votes, table.votes)
    assert np.array_equal(again.scores, table.scores)


async def test_the_examples_of_several_splits_are_sampled() -> None:
    task = toy_task(validation=2, test=3, num_samples=(1, 3))
    table = await record(task, toy_model(), SPECS, samples=3, splits=("validation", "test"))
    assert table.votes.shape == (4, 5, 3)


def test_an_earlier_subtasks_sample_is_right_if_it_is_the_winner_of_all() -> None:
    votes, scores = np.array([[[0, 0, 2, 0], [0, 1, 1, 3]]]), np.array([[[1.0, 1, 0, 1], [0, 1, 1, 0]]])
    table = SampleTable("two rows", ("find",), votes, scores)
    assert replay(table, None) == (1.0, 1.0, 1.0, 1.0)
    assert replay(table, "decided") == (1.0, (2 + 4) / 8, (1 + 3) / 2, 1.0)


def test_decided_has_the_score_of_all_samples_and_unparsable_samples_score_nothing() -> None:
    table = planted("mixed", skill=(1, 1), wrong=0.5, samples=9, examples=300)
    blind = SampleTable("none", ("",), np.full((1, 5, 4), -1), np.ones((1, 5, 4)))
    whole, found = replay(table, None), replay(table, "decided")
    assert (found.score, found.same) == (whole.score, 1.0)
    assert found.samples < 0.8
    assert replay(blind, "decided") == (0.0, 1.0, 3.0, 1.0)


def test_the_target_is_reached_on_planted_questions_that_are_easy() -> None:
    table = planted("easy", skill=(4, 1), wrong=0.5, samples=40, examples=400)
    found = replay(table, 0.95)
    assert found.samples <= 0.3
    assert found.score == pytest.approx(replay(table, None).score, abs=0.005)


def test_rewards_without_answers_give_a_lower_and_an_upper_bound(tmp_path: Path) -> None:
    rewards = np.array([[[1, 1, 0, 0, 0], [0, 0, 0, 1, 1]]], dtype=np.uint8)
    np.savez(tmp_path / "some_train.npz", rewards=rewards)
    lower, upper = (replay(table, None).score for table in bounds_from_rewards(tmp_path))
    assert (lower, upper) == (0.0, 1.0)


def test_the_command_lists_what_is_not_recorded_and_prints_every_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted("small", skill=(1, 1), wrong=0.5, samples=4, examples=20).save(tmp_path / "small.npz")
    assert main([str(tmp_path / "small.npz"), "--no-planted"]) == 0
    printed = capsys.readouterr().out
    assert "quickstart" not in lacking()
    assert all(f"{name}: no per-sample answers" in printed for name in lacking())
    assert [printed.count(f"| {stop} |") for stop in STOPS] == [1] * len(STOPS)


def test_the_journal_of_a_landscape_has_all_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "task.yaml").write_text(yaml.safe_dump(spec_of_task() | {"cost": {"max_units": 1000}}))
    for split in ("validation", "test"):
        (tmp_path / "task" / f"{split}.jsonl").write_text(rows(split, 4))
    with ServerProcess(counter=tmp_path / "requests.jsonl", quality={"small": 0.3, "large": 0.9}) as server:
        entries = {
            name: {"base_url": server.base_url, "supports": {"seed": True}, "parameters": size}
            for name, size in MODELS.items()
        }
        (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": entries}))
        settings = [f"models={tmp_path / 'models.yaml'}", f"journal={tmp_path / 'j.db'}"]
        run_recording(tmp_path / "task", tmp_path / "planted.npz", settings, Console(file=io.StringIO()))
        calls, out = len(server.received()), tmp_path / "samples.npz"
        options = [part for setting in settings for part in ("-s", setting)]
        task = str(tmp_path / "task")
        assert main(["--record", task, "--samples", "3", "--out", str(out), "--no-planted", *options]) == 0
        assert len(server.received()) == calls, "the samples are answered by the journal"
    table = SampleTable.load(out)
    assert table.settings == tuple(f"{subtask}, {model}" for model in MODELS for subtask in ("find", "answer"))
    assert table.votes.shape == (4, 4, 3)
    assert "planted, 3 samples (4 settings, 4 examples)" in capsys.readouterr().out


def test_a_landscape_lacks_samples_unless_they_are_recorded(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    for file in ("a.npz", "b.npz", "samples/b.npz", "samples/c.npz"):
        (tmp_path / file).touch()
    assert lacking(tmp_path) == ["a"]


def test_without_a_file_the_recorded_samples_are_replayed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--no-planted"]) == 0
    printed = capsys.readouterr().out
    for file in sorted(SAMPLES.glob("*.npz")):
        table = SampleTable.load(file)
        assert f"{table.name} ({len(table.settings)} settings, {table.votes.shape[1]} examples): all" in printed
        assert file.stat().st_size < 200_000


def test_a_vote_on_the_recorded_quickstart_keeps_its_score_with_three_of_five_samples() -> None:
    table = SampleTable.load(SAMPLES / "quickstart.npz")
    whole, found = replay(table, None), replay(table, 0.95)
    assert found.score >= whole.score - LOSS
    assert found.samples <= SHARE
