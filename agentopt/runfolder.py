"""A run's folder: what was asked, where its files are, and that only one process works in it at a time.

`runs/<task>-<time>/` holds `config.yaml` (the request; no secret is ever in it), `trials.db` (Optuna),
`checkpoints.db` (LangGraph), `log.jsonl`, and in the end `result.json`, `best.yaml` and `recommended.yaml`.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from agentopt.config import Config
from agentopt.errors import ConfigError
from agentopt.result import write_atomically
from agentopt.task import Task
from agentopt.validation import load_yaml, validate


class _Asked(BaseModel):
    """The content of a run's `config.yaml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    task: Path | None
    fingerprint: str
    config: Config


@dataclass(frozen=True, slots=True)
class RunFolder:
    """An existing run. `id` names it in the ledger, `task` is the path of its task (None: built in Python)."""

    path: Path
    id: str
    task: Path | None
    fingerprint: str
    config: Config

    @classmethod
    def create(cls, task: Task, task_path: Path | None, config: Config) -> RunFolder:
        """A new folder under `config.runs`, named after the task and the time.

        Paths are kept absolute, so that the run can be resumed from another working directory. Raises `ConfigError`
        when the folder cannot be made.
        """
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        run = cls(_unused(config.runs / f"{task.name}-{stamp}"), uuid.uuid4().hex, task_path, fingerprint(task), config)
        try:
            run.path.mkdir(parents=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            remedy = "set runs to a folder that can be written"
            raise ConfigError(f"no run can be kept here: {reason}", where=config.runs, remedy=remedy) from error
        absolute = task_path.absolute() if task_path else None
        asked = _Asked(run=run.id, task=absolute, fingerprint=run.fingerprint, config=_absolute(config))
        write_atomically(run.path / "config.yaml", yaml.safe_dump(asked.model_dump(mode="json"), sort_keys=False))
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run in an existing folder. Raises `ConfigError` when it holds none."""
        file = path / "config.yaml"
        if not file.exists():
            raise ConfigError("no run is here", where=path, remedy="see `agentopt runs list`")
        asked = validate(_Asked, load_yaml(file, ConfigError), file, ConfigError)
        return cls(path, asked.run, asked.task, asked.fingerprint, asked.config)

    @property
    def trials(self) -> Path:
        return self.path / "trials.db"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints.db"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    def check_same(self, task: Task) -> None:
        """Raise `ConfigError` when the task changed since the run began: its trials would not be comparable."""
        if fingerprint(task) != self.fingerprint:
            raise ConfigError(
                "a run goes on only with the task it began with, but the task has changed since",
                where=self.path,
                remedy="start a new run; the journal still holds every answer that is asked for again",
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder. Raises `ConfigError` while another process works in it."""
        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout as error:
            raise ConfigError(
                "another process works on this run", where=self.path, remedy="wait for it, or stop it"
            ) from error


def _absolute(config: Config) -> Config:
    journal = config.journal
    if journal is not None and "://" not in journal:
        journal = str(Path(journal).absolute())
    models = tuple(path.absolute() for path in config.models)
    return config.model_copy(update={"journal": journal, "models": models, "runs": config.runs.absolute()})


def list_runs(folder: Path) -> list[RunFolder]:
    """Every run in `folder`, oldest first."""
    return [RunFolder.open(file.parent) for file in sorted(folder.glob("*/config.yaml"))]


def fingerprint(task: Task) -> str:
    """Changes when the examples, a prompt, or what may be chosen changes."""
    subtasks = [
        [s.name, s.system_prompt, s.models, s.num_samples, s.max_tokens, s.temperature, s.top_p, s.stop]
        for s in task.subtasks
    ]
    first = next(iter(task.splits["validation"]))
    prompts = [s.render(first.inputs, dict.fromkeys(s.reads, "")) for s in task.subtasks]
    rows = {split: [[e.id, dict(e.inputs), e.target] for e in examples] for split, examples in task.splits.items()}
    described = json.dumps([task.name, subtasks, prompts, rows, task.max_units], sort_keys=True, default=str)
    return hashlib.sha256(described.encode()).hexdigest()[:16]


def _unused(path: Path) -> Path:
    names = (path if i == 1 else path.with_name(f"{path.name}-{i}") for i in range(1, 10_000))
    return next(name for name in names if not name.exists())
