"""Recording a landscape through the journal, keeping it in a file, and replaying it as a free environment."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from agentopt.cli.commands.record import run_recording
from agentopt.core.budget import Caps
from agentopt.core.errors import AgentoptError, BudgetExceeded, PermanentModelError, UserError
from agentopt.core.task import Task
from agentopt.evaluation.evaluator import Evaluator
from agentopt.models.base import Request
from agentopt.models.catalog import Catalog
from agentopt.models.scripted import ScriptedModel
from agentopt.models.session import open_session
from agentopt.search.base import Proposal, Runner
from agentopt.search.optuna_strategy import OptunaStrategy
from agentopt.search.recorded_landscape import USES, Landscape, LandscapeRunner, record
from agentopt.search.strategy_loop import LoopSearch
from agentopt.testing.server_process import ServerProcess
from agentopt.testing.toy import toy_model, toy_task
from tests.cli.test_cli import MODELS, rows, spec_of_task


def small_task() -> Task:
    return toy_task(validation=6, test=1, num_samples=(1, 2, 4))


async def recorded(folder: Path, model: ScriptedModel, caps: Caps = Caps()) -> Landscape:
    task = small_task()
    specs = {name: Catalog.load()[name] for name in task.models}
    async with open_session(specs, "r", caps=caps, journal=str(folder / "journal.db"), provider=model) as session:
        return await record(task, session)


async def test_a_landscape_gives_the_scores_and_costs_that_an_evaluation_gives(tmp_path: Path) -> None:
    task, model = small_task(), toy_model()
    landscape = await recorded(tmp_path, model)
    specs = {name: Catalog.load()[name] for name in task.models}
    assert len(landscape.scores) == len(landscape.space.candidates()) > 20
    for candidate in landscape.space.candidates()[::5]:
        evaluated = await Evaluator(task, toy_model(), specs).evaluate(candidate)
        replayed = landscape.evaluation(candidate)
        assert replayed.scores == evaluated.scores
        assert landscape.exact(candidate) == evaluated.score
        for measure in ("units", "usd", "prompt_tokens", "completion_tokens"):
            assert replayed.per_example(measure) == pytest.approx(evaluated.per_example(measure))
    assert landscape.optimum == max(landscape.exact(c) for c in landscape.space.candidates())


async def test_recording_needs_little_more_than_the_samples_of_the_largest_points(tmp_path: Path) -> None:
    model = toy_model()
    landscape = await recorded(tmp_path, model)
    drawn = sum(request.n for request in model.requests)
    unshared = 6 * sum(choice.num_samples for c in landscape.space.candidates() for choice in c.values())
    assert drawn < unshared / 4
    first = [r for r in model.requests if r.messages[-1].content.startswith("find|")]
    assert len(first) == 12, "each of two models is called once for each of six examples"


async def test_an_interrupted_recording_resumes(tmp_path: Path) -> None:
    with pytest.raises(BudgetExceeded):
        await recorded(tmp_path, first := toy_model(), Caps(calls=20))
    again = toy_model()
    whole = await recorded(tmp_path, again)
    undisturbed = await recorded(tmp_path / "other", other := toy_model())
    assert len(first.requests) + len(again.requests) == len(other.requests)
    assert np.array_equal(whole.scores, undisturbed.scores)


async def test_an_example_without_a_score_ends_a_recording(tmp_path: Path) -> None:
    refused: list[str] = []

    def reply(request: Request, repeat: int) -> str:
        prompt = request.messages[-1].content
        refused.append(prompt)
        if prompt == refused[0]:
            raise PermanentModelError("refused")
        return "k1"

    with pytest.raises(AgentoptError, match="needs a score of every example"):
        await recorded(tmp_path, ScriptedModel(reply))


async def test_a_landscape_is_read_back_from_its_file_unchanged(tmp_path: Path) -> None:
    landscape = await recorded(tmp_path, toy_model())
    landscape.save(tmp_path / "new" / "toy.npz")
    read = Landscape.load(tmp_path / "new" / "toy.npz")
    assert (read.space, read.examples, read.about) == (landscape.space, landscape.examples, landscape.about)
    assert np.array_equal(read.scores, landscape.scores)
    assert all(np.array_equal(read.uses[name], landscape.uses[name]) for name in landscape.uses)
    assert "6 examples, recorded on smollm2-135m, qwen2.5-coder-0.5b" in read.about


def test_a_file_without_a_landscape_is_rejected_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"No such file(.|\n)*agentopt record TASK"):
        Landscape.load(tmp_path / "missing.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(UserError, match="the file holds no landscape"):
        Landscape.load(tmp_path / "text.npz")
    np.savez(tmp_path / "empty.npz", about=np.array("{}"), scores=np.zeros(1))
    whole = (tmp_path / "empty.npz").read_bytes()
    np.savez_compressed(tmp_path / "large.npz", about=np.arange(9999))
    damaged = bytearray((tmp_path / "large.npz").read_bytes())
    damaged[1000:1100] = bytes(100)
    np.save(tmp_path / "array.npy", np.zeros(1))
    array = (tmp_path / "array.npy").read_bytes()
    for content in (b"", b"junk", whole, whole[:-100], bytes(damaged), array):
        (tmp_path / "none.npz").write_bytes(content)
        with pytest.raises(UserError, match="the file holds no landscape: it is empty, truncated, damaged or of"):
            Landscape.load(tmp_path / "none.npz")
    others: dict[str, Any] = dict.fromkeys(("scores", *USES), np.zeros(1))
    np.savez(tmp_path / "other.npz", about=np.array('{"format": 99}'), **others)
    with pytest.raises(UserError, match="format must be 1, but got 99"):
        Landscape.load(tmp_path / "other.npz")


async def test_resampled_examples_are_noise_that_follows_from_the_seed(tmp_path: Path) -> None:
    landscape = await recorded(tmp_path, toy_model())
    one, same, other = landscape.resampled(1), landscape.resampled(1), landscape.resampled(2)
    assert np.array_equal(one.scores, same.scores)
    assert not np.array_equal(one.scores, other.scores)
    candidate = landscape.space.candidates()[7]
    means = [landscape.resampled(seed).exact(candidate) for seed in range(300)]
    spread = landscape.evaluation(candidate).scores.values()
    assert np.mean(means) == pytest.approx(landscape.exact(candidate), abs=0.05)
    assert np.std(means) == pytest.approx(np.std(list(spread)) / np.sqrt(6), abs=0.05)
    assert len(one.evaluation(candidate).scores) == 6, "an example drawn twice counts twice"


async def test_a_search_runs_on_a_landscape_as_on_a_task(tmp_path: Path) -> None:
    landscape = await recorded(tmp_path, toy_model())
    runner: Runner = LandscapeRunner(landscape, max_trials=12)
    await LoopSearch(OptunaStrategy(0)).run(landscape.space, runner)
    assert len(runner.trials) == 12
    assert runner.trials_left == 0
    known = runner.trials[3]
    assert await runner.run(Proposal(known.candidate, "x")) is known
    assert [t.score for t in runner.trials] == [landscape.exact(t.candidate) for t in runner.trials]


def test_the_example_of_the_docs_finds_the_optimum_of_a_recorded_landscape() -> None:
    root = Path(__file__).parents[2]
    (example,) = re.findall(r"```python\n(.*?)```", (root / "docs" / "search.md").read_text(encoding="utf-8"), re.S)
    done = subprocess.run([sys.executable, "-c", example], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    about, found = done.stdout.splitlines()
    optimum = Landscape.load(root / "benchmarks" / "landscapes" / "quickstart.npz").optimum
    assert about.startswith("validation split of quickstart")
    assert found == f"{optimum:.3f} of {optimum:.3f} after 20 trials"


async def test_a_space_too_large_to_record_is_rejected_before_any_call(tmp_path: Path) -> None:
    task = toy_task(num_samples=tuple(range(1, 2001)))
    specs = {name: Catalog.load()[name] for name in task.models}
    silent = ScriptedModel(script=[])
    async with open_session(specs, "r", journal=str(tmp_path / "journal.db"), provider=silent) as session:
        with pytest.raises(UserError, match="at most 20000 affordable candidates"):
            await record(task, session)


def test_the_command_records_a_task_folder_and_prints_a_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "task").mkdir()
    spec = spec_of_task()
    spec["subtasks"][0]["demos"] = [0, 2, 4]
    (tmp_path / "task" / "task.yaml").write_text(yaml.safe_dump(spec))
    for split in ("validation", "test"):
        (tmp_path / "task" / f"{split}.jsonl").write_text(rows(split, 4))
    printed = io.StringIO()
    with ServerProcess(counter=tmp_path / "requests.jsonl", quality={"small": 0.3, "large": 0.9}) as server:
        entries = {
            name: {"base_url": server.base_url, "supports": {"seed": True}, "parameters": size}
            for name, size in MODELS.items()
        }
        (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": entries}))
        settings = [f"models={tmp_path / 'models.yaml'}", f"journal={tmp_path / 'j.db'}"]
        run_recording(tmp_path / "task", tmp_path / "planted.npz", settings, Console(file=printed, width=200))
        calls = len(server.received())
        run_recording(tmp_path / "task", tmp_path / "again.npz", settings, Console(file=io.StringIO()))
        assert len(server.received()) == calls, "a second recording is answered by the journal"
    said = " ".join(capsys.readouterr().err.split())
    assert "subtask find: demonstrations are not recorded, so candidates with 2, 4 of them are left out" in said
    assert "`agentopt optimize` tries them" in said
    landscape = Landscape.load(tmp_path / "planted.npz")
    assert "validation split of planted, 4 examples, recorded on small, large" in printed.getvalue()
    assert f"best {landscape.optimum:.3f}: find: " in printed.getvalue()
    assert np.array_equal(Landscape.load(tmp_path / "again.npz").scores, landscape.scores)
