"""Run names: the folder name of a run, accepted wherever a command takes a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agentopt.runs.config import load_config


def run_path(run: Path, settings: Sequence[str]) -> Path:
    """Return the path of a run given by name or by path.

    Args:
        run: A path, or the name of a folder in the runs folder.
        settings: `-c` options; they may set the runs folder.

    Returns:
        `run` itself if it exists or has a parent folder, otherwise the folder of that name in the runs folder if it
        exists, otherwise `run`.
    """
    if run.exists() or len(run.parts) > 1:
        return run
    named = load_config(settings).runs / run
    return named if named.exists() else run
