"""Runs and candidates as arguments of commands: a run is given by its name or its path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agentopt.api import load
from agentopt.core.candidate import Candidate, load_candidate
from agentopt.core.errors import ConfigError
from agentopt.core.yaml_models import did_you_mean
from agentopt.runs.archive import RunArchive, open_archive
from agentopt.runs.candidate_file import find_candidate
from agentopt.runs.config import Config, load_config
from agentopt.runs.folder import RunFolder
from agentopt.runs.run_lease import up_to_date
from agentopt.runs.run_store import open_store

CANDIDATE_FILE = "give the path of a candidate file such as best.yaml"


def run_path(run: Path, settings: Sequence[str], *, otherwise: str = "give the path of a run's folder") -> Path:
    """Return the path of a run given by name or by path. A run in a storage is brought up to date, or fetched from it.

    Args:
        run: A path, or the name of a folder in the runs folder.
        settings: `-c` options; they may set the runs folder, and the storage.
        otherwise: What else may be given, for the message.

    Returns:
        `run` itself if it exists or has a parent folder, otherwise the folder of that name in the runs folder.

    Raises:
        ConfigError: There is neither.
    """
    config = load_config(settings)
    runs = config.runs
    found = run if run.exists() or len(run.parts) > 1 else runs / run
    if found == run or found.exists():
        up_to_date(found, config.storage)
        return found
    if config.storage:
        with open_store(config.storage) as (store, _):
            return store.fetch(store.find(run.name), runs, config.storage)
    rule = f"there is no such file or folder, and no run of this name in {runs}"
    names = [folder.name for folder in runs.iterdir()] if runs.is_dir() else []
    remedy = did_you_mean(run.name, names, f"see `agentopt runs list`, or {otherwise}")
    raise ConfigError(rule, where=run, remedy=remedy)


def archive_of(run: Path, settings: Sequence[str], *, in_python: str) -> RunArchive:
    """Open the record of a run given by name or by path. No model is called.

    Args:
        run: As for `run_path`.
        settings: `-c` options; they override the settings of the run.
        in_python: Remedy for a run whose task was built in Python.

    Raises:
        ConfigError: There is no such run, its task was built in Python or has changed, or a file cannot be read.
    """
    found = RunFolder.open(run_path(run, settings))
    if found.task is None:
        raise ConfigError("the task of this run was built in Python", where=found.path, remedy=in_python)
    config = load_config(settings, found.config)
    located = replace(found, config=found.config.with_places_of(config.absolute()))
    return open_archive(located, *load(found.task, config, agent=False))


def candidate_of(source: Path | None, settings: Sequence[str]) -> tuple[Candidate | None, Config]:
    """Load the candidate of `--candidate` and the configuration to use it with.

    Args:
        source: A file, or the name or path of a run, of which the best candidate is loaded; None for the baseline.
        settings: `-c` options; they override the settings of the run.

    Raises:
        UserError: The candidate cannot be loaded, or the settings break a rule.
    """
    if source is None:
        return None, load_config(settings)
    found = find_candidate(run_path(source, settings, otherwise=CANDIDATE_FILE), settings)
    return load_candidate(found.path), found.config
