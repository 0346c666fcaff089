"""What is put to use: a candidate and its task, found from a run's folder, a `best.yaml` or a champion file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentopt.api import load
from agentopt.core.candidate import Candidate, load_candidate
from agentopt.core.errors import ConfigError
from agentopt.core.task import Task
from agentopt.evaluation.evaluator import check_candidate
from agentopt.models.catalog import ModelSpec
from agentopt.runs.config import BudgetConfig, Config, load_config
from agentopt.runs.folder import RunFolder


@dataclass(frozen=True)
class Deployment:
    """A candidate in `file`, its task in `folder`, and the catalogue entry of every model the task may use."""

    task: Task
    folder: Path
    file: Path
    candidate: Candidate
    specs: Mapping[str, ModelSpec]
    config: Config

    @property
    def title(self) -> str:
        """One line, for the head of files that are made of this, whatever the task is called."""
        name = "".join(c if c.isprintable() and c not in '"\\' else " " for c in self.task.name)
        return f"Task {name}, candidate {self.candidate.key}, written by `agentopt export`"

    def models(self, candidate: Candidate | None = None) -> tuple[str, ...]:
        """The models that the candidate calls, those of fusions included, each once."""
        chosen = candidate or self.candidate
        fusions = (self.task[name].fusion.model for name, choice in chosen.items() if choice.num_samples > 1)
        return tuple(dict.fromkeys([c.model for c in chosen.values()] + [m for m in fusions if m]))


def find_deployment(source: Path, task: Path | None = None, settings: Sequence[str] = ()) -> Deployment:
    """The candidate at `source`, a run's folder (its `best.yaml` then) or a candidate's file, with its task.

    The task is that of the run unless `task` is given; `settings` are on top of the run's, whose budget was the
    search's and is left out. Raises `UserError` for what is not there or does not fit together.
    """
    if not source.exists():
        raise ConfigError("there is no such file or folder", where=source, remedy="see `agentopt runs list`")
    run = _run_of(source)
    file = source / "best.yaml" if source.is_dir() else source
    if source.is_dir() and not file.is_file():
        rule = "the run has no best.yaml: it is not finished"
        raise ConfigError(rule, where=source, remedy=f"agentopt optimize --resume {source}")
    base = run.config.model_copy(update={"budget": BudgetConfig()}) if run else None
    config = load_config(settings, base)
    folder = task or (run.task if run else None)
    if folder is None:
        rule = "the task of a candidate must be known, but the file is in no run of a task folder"
        raise ConfigError(rule, where=source, remedy="add --task with the task's folder")
    return deploy(file, folder, config)


def deploy(file: Path, folder: Path, config: Config) -> Deployment:
    """The candidate in `file` with the task in `folder`. Raises `UserError` where the two do not fit together."""
    loaded, specs = load(folder, config, agent=False)
    candidate = load_candidate(file)
    check_candidate(candidate, loaded)
    return Deployment(loaded, folder, file, candidate, specs, config)


def _run_of(source: Path) -> RunFolder | None:
    """The run that `source` is the folder of, or a file in; None for a file in no run."""
    if source.is_dir():
        return RunFolder.open(source)
    return RunFolder.open(source.parent) if (source.parent / "config.yaml").is_file() else None
