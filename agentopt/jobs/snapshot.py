"""Snapshot and hash of a job's inputs: task, data, catalogue entries and prices, configuration, rule, agentopt's code.

While the hash and the champion are unchanged, another run could only repeat the result of the last one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agentopt import __version__
from agentopt.api import load
from agentopt.core.errors import ConfigError
from agentopt.core.task import Task
from agentopt.jobs.champion import digest
from agentopt.jobs.jobfile import Job
from agentopt.models.catalog import PROJECT_FILE, ModelSpec
from agentopt.runs.config import Config, load_config
from agentopt.runs.folder import fingerprint

_NOT_PART = {"runs", "journal", "models"}
"""Keys of the configuration that are locations. The catalogue is hashed by its entries, not by its files."""


@dataclass(frozen=True)
class Snapshot:
    """A job's inputs at one time, loaded.

    Attributes:
        task: The task.
        specs: Catalogue name -> entry, of every model that the job may call.
        config: The configuration, with absolute paths.
        hash: Changes when any of the inputs changes.
    """

    task: Task
    specs: Mapping[str, ModelSpec]
    config: Config
    hash: str


def load_snapshot(job: Job, folder: Path, runs: Path) -> Snapshot:
    """Load everything that `job` refers to.

    Args:
        job: The job.
        folder: Where its relative paths start.
        runs: Where run folders are made, unless the job's configuration sets `runs`.

    Raises:
        UserError: Something is missing or not valid.
    """
    config = job_config(job, folder, runs)
    task, specs = load((folder / job.task).absolute(), config)
    return Snapshot(task, specs, config, _hash(job, task, specs, config))


def job_config(job: Job, folder: Path, runs: Path) -> Config:
    """The job's configuration with absolute paths; arguments as for `load_snapshot`. Raises `ConfigError`."""
    return _absolute(load_config([_source(text, folder) for text in job.config]), folder, runs)


def _source(text: str, folder: Path) -> str:
    if "=" in text:
        return text
    path = folder / text
    if not path.is_file():
        raise ConfigError(
            f"there is no configuration file {text}", where=folder, remedy="write its path relative to this folder"
        )
    return str(path)


def _absolute(config: Config, folder: Path, runs: Path) -> Config:
    """Resolve paths against the job's folder, because a daemon may run anywhere; include its `configs/models.yaml`."""
    project, absolute = folder / PROJECT_FILE, config.absolute(folder)
    changes = {
        "models": (*([project] if project.is_file() else []), *absolute.models),
        "runs": absolute.runs if "runs" in config.model_fields_set else runs,
    }
    return absolute.model_copy(update=changes)


def _hash(job: Job, task: Task, specs: Mapping[str, ModelSpec], config: Config) -> str:
    described = [
        code_version(),
        fingerprint(task, config),
        {split: [[e.id, digest(e)] for e in rows] for split, rows in task.splits.items()},
        {name: spec.model_dump(mode="json") for name, spec in specs.items()},
        config.model_dump(mode="json", exclude=_NOT_PART),
        job.model_dump(mode="json", include={"caps", "promotion", "warm_start"}),
    ]
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()


@cache
def code_version() -> str:
    """The version and a digest of the source files, which may change between releases."""
    package = Path(__file__).parent.parent
    sources = hashlib.sha256()
    for file in sorted([*package.rglob("*.py"), *package.rglob("*.yaml")]):
        sources.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return f"{__version__}+{sources.hexdigest()[:16]}"
