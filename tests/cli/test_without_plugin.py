"""A run whose strategy came from a plugin is read without it: only the search needs the strategy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agentopt.runs.folder import RunFolder, list_runs
from tests.cli.recorded import SETTINGS, record_run, write_task

Command = Callable[..., tuple[int, str, str]]

GONE = ["gone_pkg.search:annealing", "annealing"]
"""A strategy to import, and a registered name, both of packages that are not installed."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugin")
    return record_run(folder, write_task(folder))


@pytest.fixture(params=GONE)
def run(request: pytest.FixtureRequest, recorded: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run, as if its strategy had been the parameter."""
    monkeypatch.chdir(recorded.parents[1])
    of_run = recorded / "config.yaml"
    of_run.write_text(
        "\n".join(
            f"  strategy: {request.param}" if line.startswith("  strategy:") else line
            for line in of_run.read_text().splitlines()
        )
    )
    return recorded


def test_commands_that_read_a_run_do_not_load_its_strategy(run: Path, console_script: Command, tmp_path: Path) -> None:
    other = tmp_path / "candidate.yaml"
    for command in (
        ["whatif", str(run), "--max-usd-per-1000", "1"],
        ["export", str(run), "--to", "yaml", "--out", str(other)],
        ["report", str(run)],
        ["compare", str(run), str(run)],
        ["inspect", str(run)],
        ["runs", "show", str(run)],
        ["runs", "list"],
    ):
        code, out, err = console_script(*command, *SETTINGS)
        assert code == 0, (command, out, err)
        assert "strategy" not in err, command
    assert other.is_file()


def test_an_unfinished_run_is_listed_and_only_its_resumption_is_refused(
    run: Path, console_script: Command, tmp_path: Path
) -> None:
    stopped = tmp_path / "runs" / "stopped"
    shutil.copytree(run, stopped)
    (stopped / "result.json").unlink()
    (opened,) = list_runs(tmp_path / "runs")
    assert isinstance(opened, RunFolder)
    before = {file.name: file.read_bytes() for file in stopped.iterdir()}
    code, _, err = console_script("optimize", "--resume", str(stopped))
    assert code == 2
    assert "strategy: " in err
    assert "remedy: " in err
    assert {file.name: file.read_bytes() for file in stopped.iterdir()} == before
    code, out, _ = console_script("runs", "list", "-c", f"runs={tmp_path / 'runs'}", "--json")
    assert (code, json.loads(out)["runs"][0]["finished"]) == (0, False)


@pytest.mark.parametrize("settings", ["strategy=gone_pkg.search:other", "strategy=annealed"])
def test_a_strategy_that_a_command_is_given_is_looked_up(run: Path, console_script: Command, settings: str) -> None:
    code, _, err = console_script("whatif", str(run), *SETTINGS, "-c", settings)
    assert code == 2
    assert "strategy: " in err
