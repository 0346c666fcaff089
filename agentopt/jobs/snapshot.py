"""Snapshot and hash of a job's inputs: task, data, catalogue entries and prices, configuration, rule, agentopt's code.

While the hash and the champion are unchanged, another run could only repeat the result of the last one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

from agentopt import __version__
from agentopt.api import load, required_models
from agentopt.core.axes import as_axes, escalating, threshold_of
from agentopt.core.candidate import Candidate
from agentopt.core.errors import CandidateError, ConfigError
from agentopt.core.fingerprint import fingerprint as task_fingerprint
from agentopt.core.task import Example, Subtask, Task
from agentopt.evaluation.candidate_check import checked_candidate
from agentopt.jobs.champion import digest
from agentopt.jobs.jobfile import Job
from agentopt.models.catalog import PROJECT_FILE, ModelSpec
from agentopt.runs.config import Config, load_config
from agentopt.runs.task_identity import fingerprint, sources

_NOT_PART = {"runs", "journal", "models", "batch"}
"""Keys of the configuration that are locations, or that change no answer. The catalogue is hashed by its entries."""


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

    def after_alarms(self, alarms: int) -> Snapshot:
        """The snapshot after that many alarms of drift.

        The responses in the journal no longer show how the models answer, so another response seed draws all anew.
        """
        if not alarms:
            return self
        seed = seed_of(self.config.response_seed, "after drift", alarms)
        config = self.config.model_copy(update={"response_seed": seed})
        return replace(self, config=config, hash=_digest([self.hash, alarms]))

    def subject(self, candidate: Candidate) -> str:
        """A hash of a candidate and of everything but the rows that its scores depend on.

        Prices, caps, rows and the models that other candidates may use are not part of it.
        """
        return _digest([candidate.to_dict(), self._scored_by(candidate)])

    def keyed(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Scores of the test split by the content of the row: an id may get another row, and a row another id."""
        return {digest(self._test[row]): score for row, score in scores.items()}

    def recorded(self, scores: Mapping[str, float]) -> dict[str, tuple[str, float]]:
        """Scores by row key as a champion's record has them."""
        keys = {row: digest(example) for row, example in self._test.items()}
        return {row: (key, scores[key]) for row, key in keys.items() if key in scores}

    def misfit(self, candidate: Candidate) -> str | None:
        """Why a candidate does not fit the task; None if it does."""
        try:
            checked_candidate(candidate, self.task)
        except CandidateError as error:
            return error.message
        return None

    @property
    def test_rows(self) -> list[str]:
        """Ids of the test rows, of rows that repeat each other the first."""
        groups = self.task.groups.get("test", {})
        return [row for row in self._test if groups.get(row, row) == row]

    def restricted_to(self, rows: Collection[str]) -> Task:
        """The task with these test rows only."""
        return replace(self.task, splits={"test": tuple(self._test[row] for row in rows)})

    @cached_property
    def _test(self) -> dict[str, Example]:
        return {example.id: example for example in self.task.splits["test"]}

    def _scored_by(self, candidate: Candidate) -> list[object]:
        models = {candidate[subtask.name].model for subtask in self.task.subtasks}
        models |= {subtask.fusion.model for subtask in self.task.subtasks if subtask.fusion.model}
        models |= {model for s in self.task.subtasks if (model := escalating(s, candidate[s.name]))}
        models |= set(required_models(self.task)[len(self.task.models) :])  # the judge
        subtasks = tuple(_only(subtask, candidate) for subtask in self.task.subtasks)
        task = replace(self.task, subtasks=subtasks, splits={}, description="", metrics={}, file=None)
        task = replace(task, cost_measure=None, max_units=None, max_usd=None, max_seconds=None)
        identities = {name: self.specs[name].identity for name in sorted(models)}
        return [
            task_fingerprint(task, sources(self.task)),
            identities,
            self.config.response_seed,
            self.config.failed_examples,
        ]


def seed_of(*parts: object) -> int:
    """A seed that is the same for the same parts."""
    return int(_digest(list(parts))[:8], 16)


def _digest(described: object) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()


def _only(subtask: Subtask, candidate: Candidate) -> Subtask:
    """The subtask without the choices of other candidates, such as the thresholds of a cascade that it does not use."""
    choice = candidate[subtask.name]
    big, below = escalating(subtask, choice), threshold_of(subtask, choice)
    demos = replace(subtask.demos, count=(0, len(choice.demos))) if subtask.demos and choice.demos else None
    return replace(
        subtask,
        models=(choice.model, big) if big else (choice.model,),
        num_samples=(choice.num_samples,),
        system_prompt=choice.system_prompt,
        settings=as_axes({name: (value,) for name, value in choice.settings}),
        cascade=None if below is None or subtask.cascade is None else replace(subtask.cascade, below=(below,)),
        demos=demos,
    )


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
    """The job's configuration with absolute paths; arguments as for `load_snapshot`. Raises `ConfigError`.

    Args:
        job: The job.
        folder: Where its relative paths start.
        runs: Where run folders are made, unless the job's configuration sets `runs`.
    """
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
    return _digest(described)


@cache
def code_version() -> str:
    """The version and a digest of the source files, which may change between releases."""
    package = Path(__file__).parent.parent
    sources = hashlib.sha256()
    for file in sorted([*package.rglob("*.py"), *package.rglob("*.yaml")]):
        sources.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return f"{__version__}+{sources.hexdigest()[:16]}"
