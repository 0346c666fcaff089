"""What a job's answer depends on, loaded as it is today, and one hash over all of it.

Task, data, catalogue entries with their prices, configuration, rule and agentopt's own code: while the hash and the
champion stay, another run could only find again what the last one found.
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
"""Keys of the configuration that say where things are; what is in the catalogue files is taken by its entries."""


@dataclass(frozen=True)
class World:
    """A job's task and configuration today; paths are absolute. `hash` names all of it."""

    path: Path
    task: Task
    specs: Mapping[str, ModelSpec]
    config: Config
    hash: str


def load_world(job: Job, folder: Path, runs: Path) -> World:
    """Load what `job` names, from `folder` on. Run folders go to `runs` unless its configuration says where.

    Raises `UserError` for what is wrong with any of it.
    """
    config = _absolute(load_config([_source(text, folder) for text in job.config]), folder, runs)
    path = (folder / job.task).absolute()
    task, specs = load(path, config)
    return World(path, task, specs, config, _hash(job, task, specs, config))


def _source(text: str, folder: Path) -> str:
    if "=" in text:
        return text
    path = folder / text
    if not path.is_file():
        raise ConfigError(
            f"there is no configuration file {text}", where=folder, remedy="write its path from this folder on"
        )
    return str(path)


def _absolute(config: Config, folder: Path, runs: Path) -> Config:
    """A daemon may run anywhere: paths start at the job's folder, and its `configs/models.yaml` is read too."""
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
    """The version, and a digest of the source files: between releases the version says too little."""
    package = Path(__file__).parent.parent
    sources = hashlib.sha256()
    for file in sorted([*package.rglob("*.py"), *package.rglob("*.yaml")]):
        sources.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return f"{__version__}+{sources.hexdigest()[:16]}"
