"""`agentopt runs list` shows every run, also those that cannot be read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from agentopt.cli.commands.runs import show_run, show_runs
from agentopt.core.errors import ConfigError
from agentopt.runs.config import Config
from agentopt.runs.folder import RunFolder, UnreadableRun, list_runs
from agentopt.testing.toy import toy_task


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A readable run in the runs folder `tmp_path`."""
    return RunFolder.create(toy_task(), Config(runs=tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("strategy: agent", "strategy: annealing", "`strategy` must be one of"),
        ("strategy: agent", "strategy: gone.search:Annealing", "'gone.search' cannot be imported"),
        ("response_seed: 0", "respond_seed: 0", "config.respond_seed: is not a known key"),
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
    assert "unfinished" in output.getvalue()
    assert "cannot be read: " in output.getvalue()
    assert reason in output.getvalue()
    with pytest.raises(ConfigError) as raised:
        show_run(broken, [], Console(file=output))
    assert reason in str(raised.value)
