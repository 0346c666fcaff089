"""`agentopt runs list` shows every run, also those that cannot be read."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from agentopt.api import aoptimize
from agentopt.cli.commands.runs import RESULT_COLUMNS, run_table, show_run, show_runs
from agentopt.core.errors import ConfigError
from agentopt.deploy.deployment import find_deployment
from agentopt.runs.config import BudgetConfig, Config
from agentopt.runs.folder import RunFolder, UnreadableRun, find_run, list_runs
from agentopt.runs.result import load_result
from agentopt.testing.toy import toy_model, toy_task

FINISHED = Path(__file__).parent.parent / "data" / "0.1.0" / "finished"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A readable run in the runs folder `tmp_path`."""
    return RunFolder.create(toy_task(), Config(runs=tmp_path))


@pytest.mark.parametrize(
    ("file", "strategy", "resuming"),
    [
        (None, "agent", "agentopt.optimize(task, resume='{run}')"),
        (None, "custom", "agentopt.optimize(task, strategy=..., resume='{run}')"),
        (Path("towns/task.yaml"), "custom", "agentopt.optimize('towns', strategy=..., resume='{run}')"),
        (Path("towns/task.yaml"), "grid", "agentopt optimize --resume {run}"),
        (Path("towns/other.yaml"), "agent", "agentopt optimize --resume {run}"),
    ],
)
def test_the_remedy_resumes_the_run_where_its_task_and_strategy_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Path | None, strategy: str, resuming: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("towns").mkdir()
    for name in ("task", "other"):
        Path(f"towns/{name}.yaml").write_text("")
    run = RunFolder.create(replace(toy_task(), file=file), Config(strategy=strategy, runs=tmp_path))
    assert run.resuming == resuming.format(run=run.path)
    output = io.StringIO()
    show_runs([f"runs={tmp_path}"], Console(file=output, width=1000))
    assert run.resuming in output.getvalue()
    with pytest.raises(ConfigError) as raised:
        find_deployment(run.path)
    assert raised.value.remedy == run.resuming


def test_a_run_is_running_or_stopped_and_only_a_stopped_one_is_resumed(run: RunFolder, tmp_path: Path) -> None:
    def listed() -> str:
        output = io.StringIO()
        show_runs([f"runs={tmp_path}"], Console(file=output, width=1000))
        return output.getvalue()

    with run.locked():
        assert "running" in listed()
        assert run.resuming not in listed()
    assert "stopped" in listed()
    assert run.resuming in listed()


@pytest.mark.parametrize("width", [60, 80, 100, 300])
def test_names_are_never_broken_and_commands_to_resume_are_whole(tmp_path: Path, width: int) -> None:
    named = replace(toy_task(), name="a-task-of-a-long-name")
    runs = [RunFolder.create(named, Config(runs=tmp_path / "runs")).path for _ in range(2)]
    shutil.copytree(FINISHED, finished := tmp_path / "runs" / "finished-of-a-task-of-a-very-long-name-20260101-120000")
    output = io.StringIO()
    show_runs([f"runs={tmp_path / 'runs'}"], Console(file=output, width=width))
    listed, _, commands = output.getvalue().partition("To resume:\n")
    assert commands == "".join(f"  {RunFolder.open(run).resuming}\n" for run in sorted(runs))
    lines = listed.splitlines()
    cells = [line.split("\u2502")[1].strip() for line in lines if "\u2502" in line]
    assert max(map(len, lines[1:])) <= width
    shown = {cell for cell in cells if cell}
    assert len(shown) == 3
    for path in (finished, *runs):
        (cell,) = (cell for cell in shown if cell.endswith(path.name[-10:]))
        assert cell in (str(path), path.name) or cell.partition("\u2026")[0] == path.name[: cell.index("\u2026")]
    assert str(finished) in shown or width < 300
    assert {path.name for path in runs} <= {Path(cell).name for cell in shown} or width < 100


def test_an_unfinished_run_is_listed_with_its_best_score_so_far(
    tmp_path: Path, console_script: Callable[..., tuple[int, str, str]]
) -> None:
    for name in ("a", "damaged", "empty", "missing"):
        shutil.copytree(FINISHED.with_name("unfinished"), tmp_path / name)
    (tmp_path / "damaged" / "trials.db").write_bytes(b"x" * 5_000)
    (tmp_path / "empty" / "trials.db").write_bytes(b"")
    (tmp_path / "missing" / "trials.db").unlink()
    code, out, error = console_script("runs", "list", "-c", f"runs={tmp_path}", "--json")
    found = {Path(line["run"]).name: line for line in json.loads(out)["runs"]}
    assert (code, error) == (0, "")
    assert {name: line["validation"] for name, line in found.items()} == {
        "a": pytest.approx(5 / 6), "damaged": None, "empty": None, "missing": None
    }  # fmt: skip
    assert not any(line["finished"] for line in found.values())
    assert not (tmp_path / "missing" / "trials.db").exists()
    output = io.StringIO()
    show_runs([f"runs={tmp_path}"], Console(file=output, width=1000))
    assert output.getvalue().count("0.833 so far") == output.getvalue().count("so far") == 1


@pytest.mark.parametrize("width", [80, 100])
def test_a_usual_name_is_whole_in_a_narrow_terminal(width: int) -> None:
    rows = [("runs/tickets-20261127-15152" + str(i), "finished", "0.812", "0.790", "non-inferior") for i in range(3)]
    table = run_table(("run", *RESULT_COLUMNS), rows, width)
    output = io.StringIO()
    Console(file=output, width=width).print(table)
    assert all(cell in output.getvalue() for row in rows for cell in row)


def test_a_candidate_of_a_task_built_in_python_needs_a_task_folder_to_be_deployed(run: RunFolder) -> None:
    (run.path / "best.yaml").write_text("find: {model: m}")
    with pytest.raises(ConfigError, match="needs its task folder, but the task of its run was built in Python"):
        find_deployment(run.path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("strategy: agent", "strategy: 3", "config.strategy: must be a string"),
        ("workers: 2", "workers: none", "config.workers: must be a whole number"),
        ("response_seed: 0", "respond_seed: 0", "config.respond_seed: unknown key"),
        ("run: ", "run: [", "is not valid YAML"),
    ],
)
def test_an_unreadable_run_is_listed_with_the_reason(
    run: RunFolder, tmp_path: Path, old: str, new: str, reason: str
) -> None:
    broken = RunFolder.create(toy_task(), Config(runs=tmp_path)).path
    file = broken / "config.yaml"
    file.write_text(file.read_text().replace(old, new, 1))
    found = {listed.path: listed for listed in list_runs(tmp_path)}
    assert isinstance(found[run.path], RunFolder)
    unreadable = found[broken]
    assert isinstance(unreadable, UnreadableRun)
    assert reason in str(unreadable.error)

    output = io.StringIO()
    show_runs([f"runs={tmp_path}"], Console(file=output, width=1000))
    assert "stopped" in output.getvalue()
    assert "cannot be read: " in output.getvalue()
    assert reason in output.getvalue()
    with pytest.raises(ConfigError) as raised:
        show_run(broken, [], Console(file=output))
    assert reason in str(raised.value)


@pytest.mark.parametrize("name", ["moved", "moved away to/another folder"])
def test_a_run_that_was_moved_is_shown_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    shutil.copytree(FINISHED, moved := tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (moved, Path(name)):
        output = io.StringIO()
        show_run(path, [], Console(file=output, width=1000))
        assert f"; {path}\n" in output.getvalue()
        assert load_result(path).run == str(path)
    stored = json.loads((moved / "result.json").read_text())
    (moved / "result.json").write_text(json.dumps({**stored, "run": name}))
    assert load_result(moved).run == name, "the recorded path is kept if it leads to the folder"


async def test_a_result_of_a_task_built_in_python_is_used_in_python(tmp_path: Path) -> None:
    settings = Config(strategy="random", budget=BudgetConfig(trials=1), journal=f"{tmp_path}/j.db", runs=tmp_path)
    result = await aoptimize(toy_task(validation=2, test=2), settings, provider=toy_model())
    output = io.StringIO()
    show_run(Path(result.run), [], Console(file=output, width=1000))
    assert "Use it:" not in output.getvalue(), "the baseline stays"


def test_a_finished_run_whose_settings_cannot_be_read_is_listed_and_shown(tmp_path: Path) -> None:
    run = tmp_path / "capitals"
    shutil.copytree(FINISHED, run)
    request = run / "config.yaml"
    request.write_text(RunFolder.create(toy_task(), Config(runs=tmp_path)).path.joinpath("config.yaml").read_text())
    request.write_text(request.read_text().replace("response_seed: 0", "respond_seed: 0", 1))
    assert isinstance(find_run(run), UnreadableRun)
    listed, shown = io.StringIO(), io.StringIO()
    show_runs([f"runs={tmp_path}"], Console(file=listed, width=1000))
    assert "cannot be read" not in listed.getvalue()
    assert "finished" in next(line for line in listed.getvalue().splitlines() if str(run) in line).split()
    show_run(run, [], Console(file=shown, width=1000))
    assert "Verdict on the test split: not enough rows" in shown.getvalue()
    assert "The run cannot be used or resumed now: " in shown.getvalue()
