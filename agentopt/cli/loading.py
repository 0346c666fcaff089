"""Loads a task with a progress bar, which shows while a large data file is read."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from agentopt.api import LoadedTask, load
from agentopt.report.bars import reading_bar
from agentopt.runs.config import Config


def load_shown(task: Path, config: Config, console: Console, *, agent: bool = True) -> LoadedTask:
    """Load a task as `api.load` does.

    Args:
        task: The task folder or file.
        config: The settings.
        console: Shows the progress.
        agent: Whether the models of the search agent and of the prompt writer are needed too.

    Raises:
        UserError: As by `api.load`.
    """
    with reading_bar(console) as show:
        return load(task, config, agent=agent, progress=show)
