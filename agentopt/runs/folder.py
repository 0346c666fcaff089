"""The folder of a run: its request, the paths of its files, and its lock.

`runs/<task>-<time>/` holds `config.yaml` (the request, without any secret), `prompt_phases.json`
(the spend at their start), `demos.json` (demonstrations), unless a storage has them `trials.db` (Optuna) and
`checkpoints.db` (LangGraph), `record.jsonl` (guidelines, races of prompts, tests, caps that were met), `log.jsonl`
and, once finished, `result.json`, `best.yaml` and `recommended.yaml`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Annotated

from filelock import FileLock, Timeout
from pydantic import BeforeValidator

from agentopt.core.candidate import Candidate
from agentopt.core.database import without_password
from agentopt.core.errors import ConfigError, UserError, larger_cap
from agentopt.core.files import PRIVATE, PRIVATE_FOLDER, private_folder, write_atomically
from agentopt.core.paths import as_path
from agentopt.core.stop_reason import StopReason
from agentopt.core.task import Task
from agentopt.core.yaml_models import Strict, validate
from agentopt.core.yaml_text import load_yaml, to_yaml
from agentopt.models.session import journal_place
from agentopt.prompts.settings import of_earlier_version
from agentopt.runs.config import RECORDED, Config
from agentopt.runs.task_identity import fingerprint, is_bare, is_same_task
from agentopt.search.built_in import CUSTOM

TASK_FILE = "task.yaml"
"""A task folder is named by its path if its task file has this name."""
RECORD = "record.jsonl"
"""The file of a run that `run_record` writes and reads."""
TRACKED = ".tracker"
"""A tracker leaves an empty file of its name with this ending."""


def _of_earlier_version(config: object) -> object:
    """Settings that an earlier version wrote into a run's folder, without those that are gone."""
    if isinstance(config, dict) and isinstance(config.get("prompts"), dict):
        return {**config, "prompts": of_earlier_version(config["prompts"])}
    return config


class _Request(Strict):
    """The content of a run's `config.yaml`."""

    run: str
    task: Path | None
    fingerprint: str
    config: Annotated[Config, BeforeValidator(_of_earlier_version)]
    warm_start: tuple[Candidate, ...] = ()


@dataclass(frozen=True, slots=True)
class StudyPlace:
    """Where a study is.

    Attributes:
        database: An SQLite file of this study alone, or the storage.
        name: Its name in the storage; empty if the file has no other study.
    """

    database: Path | str
    name: str = ""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """An existing run.

    Attributes:
        path: The folder.
        id: The run's key in the journal's ledger.
        task: The task folder or file; None for a task that was built in Python.
        fingerprint: Hash of the task that the run was started with.
        config: The settings, with absolute paths.
        warm_start: Candidates that are tried before the search proposes any.
    """

    path: Path
    id: str
    task: Path | None
    fingerprint: str
    config: Config
    warm_start: tuple[Candidate, ...] = ()

    @classmethod
    def create(cls, task: Task, config: Config, warm_start: Sequence[Candidate] = ()) -> RunFolder:
        """A new folder under `config.runs`, named after the task and the time.

        Paths are kept absolute, so that the run can be resumed from another working directory. Raises `ConfigError`
        when the folder cannot be made.

        Args:
            task: The task.
            config: The settings of the run.
            warm_start: Candidates to try after the baseline.
        """
        # `/` and `?` of a task's name would break the path, or the database URL that contains it.
        name = f"{re.sub(r'[/?]', '-', task.name)}-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}"
        path, of_task = _made(config.runs, name), fingerprint(task, config)
        run = cls(path, uuid.uuid4().hex, _source(task), of_task, config.absolute(), tuple(warm_start))
        try:
            run.save()
        except OSError as error:
            run.discard()
            raise _not_kept(config.runs, error) from error
        return run

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Open an existing run.

        Raises:
            ConfigError: The folder holds no run, or its `config.yaml` breaks a rule.
        """
        path = as_path(path, ConfigError)
        file = path / "config.yaml"
        check_not_task(path)
        if not file.exists():
            raise ConfigError("no run is here", where=path, remedy="see `agentopt runs list`")
        request = validate(_Request, load_yaml(file, ConfigError), file, ConfigError, context=RECORDED)
        return cls(path, request.run, request.task, request.fingerprint, request.config, request.warm_start)

    @classmethod
    def around(cls, file: Path) -> RunFolder | None:
        """The run in whose folder `file` is; None if there is none. A `config.yaml` without a run's keys is no run."""
        return cls.open(file.parent) if _is_request(file.parent / "config.yaml") else None

    @property
    def storage(self) -> Path | str | None:
        """The database that has the run; None if it is in the folder alone."""
        return self.config.storage and journal_place(self.config.storage)

    @property
    def trials(self) -> StudyPlace:
        """The study with the run's trials."""
        place = self.storage
        return StudyPlace(self.path / "trials.db") if place is None else StudyPlace(place, self.id)

    @property
    def checkpoints(self) -> tuple[Path | str, str]:
        """The database with the state of the search, and its key there."""
        return (self.path / "checkpoints.db", "search") if self.storage is None else (self.storage, self.id)

    @property
    def starts(self) -> Path:
        return self.path / "prompt_phases.json"

    @property
    def demos(self) -> Path:
        return self.path / "demos.json"

    @property
    def record(self) -> Path:
        return self.path / RECORD

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def resuming(self) -> str:
        """What resumes the run, for messages: a command, or a call in Python for what exists in Python only."""
        if self.task is not None and self.config.strategy != CUSTOM:
            return f"agentopt optimize --resume {shlex.quote(str(self.path))}{self.tracking}"
        strategy = "strategy=..., " if self.config.strategy == CUSTOM else ""
        task = "task" if self.task is None else repr(str(self.task))
        callbacks = ", ".join(f"agentopt.trackers.{name}()" for name in self._trackers)
        tracked = f", callbacks=[{callbacks}]" if callbacks else ""
        return f"agentopt.optimize({task}, {strategy}resume={str(self.path)!r}{tracked})"

    @property
    def tracking(self) -> str:
        """The options of `agentopt optimize` with which the trackers that recorded the run continue, after a blank."""
        return "".join(f" --track {name}" for name in self._trackers)

    @property
    def _trackers(self) -> list[str]:
        return sorted(file.stem for file in self.path.glob(f"*{TRACKED}"))

    def resuming_after(self, stopped: StopReason) -> str:
        """What resumes the run, for messages, as `resuming`; with a larger cap if one of the run ended it.

        Args:
            stopped: Why it ended.
        """
        if (cap := stopped.budget_cap) is None:
            return self.resuming
        value = larger_cap(getattr(self.config.budget, cap), stopped.enough, stopped.finishes)
        if self.resuming.startswith("agentopt optimize "):
            return f"{self.resuming} -c budget.{cap}={value}"
        return f"{self.resuming[:-1]}, config=config), with {cap}={value} in the budget of config"

    def remedy(self, stopped: StopReason) -> str:
        """The remedy for a run that ended without a result.

        Args:
            stopped: Why it ended.
        """
        if stopped.run_cap:
            return f"`{self.resuming_after(stopped)}`; answers that were paid for are kept"
        return f"fix the cause, then `{self.resuming}`; answers that were paid for are kept"

    def resumed_with(self, task: Task, config: Config) -> RunFolder:
        """The run with `config` and the task's present folder; `save` makes it so from now on.

        Raises `ConfigError` when the task or the responses to be drawn changed since it began: its trials would not
        be comparable.
        """
        if is_bare(self.fingerprint):
            raise ConfigError(
                "this run was made by agentopt 0.1.0, whose record does not show whether the task has changed since",
                where=self.path,
                remedy="start a new run; with temperature: 0.9 and top_p: 1.0, once the defaults, in each subtask that "
                "sets neither, it reuses the responses in the journal",
            )
        if not is_same_task(task, config, self.fingerprint):
            raise ConfigError(
                "a run is resumed only with the task that it was started with, but the task has changed since",
                where=self.path,
                remedy="start a new run; it reuses the responses in the journal that it requests again",
            )
        if config.response_seed != self.config.response_seed:
            raise ConfigError(
                f"a run keeps its response_seed of {self.config.response_seed}, but got {config.response_seed}",
                where=self.path,
                remedy="start a new run",
            )
        return replace(self, task=_source(task) or self.task, config=config.absolute())

    @property
    def request(self) -> str:
        """The content of `config.yaml`: the request, without the passwords of the databases' URLs."""
        places = {"storage": self.config.storage, "journal": self.config.journal}
        request = _Request(
            run=self.id,
            task=self.task,
            fingerprint=self.fingerprint,
            config=self.config.model_copy(
                update={name: place and without_password(place) for name, place in places.items()}
            ),
            warm_start=self.warm_start,
        )
        return to_yaml(request.model_dump(mode="json"))

    def save(self) -> None:
        """Write the request to `config.yaml`."""
        write_atomically(self.path / "config.yaml", self.request)

    def discard(self) -> None:
        """Remove the folder of a run that could not be started."""
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def is_locked(self) -> bool:
        """Whether a process works on this run."""
        try:
            with FileLock(self.path / ".lock", timeout=0, mode=PRIVATE):
                return False
        except Timeout:
            return True
        except OSError:  # a folder that cannot be written
            return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Inside the block, hold the folder's lock.

        Raises:
            ConfigError: Another process holds it.
        """
        owner = self.path / ".lock.pid"  # not in the lock's file, which every attempt to lock it truncates
        try:
            with FileLock(self.path / ".lock", timeout=0, mode=PRIVATE):
                owner.write_text(f"{os.getpid()}")
                try:
                    yield
                finally:
                    owner.unlink(missing_ok=True)
        except Timeout as error:
            try:
                known = owner.read_text()
            except FileNotFoundError:  # it has just finished, or has the lock and has not written its id yet
                known = ""
            rule = f"another process works on this run{f', with the id {known}' if known else ''}"
            raise ConfigError(rule, where=self.path, remedy="wait for it, or stop it") from error


@dataclass(frozen=True, slots=True)
class UnreadableRun:
    """A run whose `config.yaml` cannot be read, for example because a later version wrote it.

    Attributes:
        path: The folder.
        error: The reason, with its remedy.
    """

    path: Path
    error: UserError

    @property
    def is_finished(self) -> bool:
        """Whether it has a result, which is read without the settings."""
        return (self.path / "result.json").is_file()


def check_not_task(path: Path) -> None:
    """Check that a folder that is given as a run is not that of a task.

    Args:
        path: The folder.

    Raises:
        ConfigError: It has a task file, and is not a run's.
    """
    if (path / TASK_FILE).is_file() and not _is_request(path / "config.yaml"):
        raise ConfigError("this is a task folder, not a run", where=path, remedy="see `agentopt runs list`")


def _is_request(file: Path) -> bool:
    """Whether a `config.yaml` is a run's: that of a task folder has the settings of runs to start."""
    content = load_yaml(file, ConfigError) if file.is_file() else None
    return isinstance(content, dict) and "fingerprint" in content


def _source(task: Task) -> Path | None:
    """The task's folder, or its file if that has another name than `TASK_FILE`; None for a task built in Python."""
    return task.folder if task.file and task.file.name == TASK_FILE else task.file


def list_runs(folder: Path | str) -> list[RunFolder | UnreadableRun]:
    """Return every run in `folder`, oldest first."""
    return [find_run(file.parent) for file in sorted(Path(folder).glob("*/config.yaml"))]


def find_run(path: Path) -> RunFolder | UnreadableRun:
    """Return the run in the folder `path`, or the reason why it cannot be opened."""
    try:
        return RunFolder.open(path)
    except UserError as error:
        return UnreadableRun(path, error)


def _made(runs: Path, name: str) -> Path:
    """A new folder of that name, or with a number appended if it exists already."""
    try:
        private_folder(runs)
        for i in count(1):
            path = runs / (name if i == 1 else f"{name}-{i}")
            with suppress(FileExistsError):
                path.mkdir(mode=PRIVATE_FOLDER)
                return path
    except OSError as error:
        raise _not_kept(runs, error) from error
    raise AssertionError("counting does not end")


def _not_kept(runs: Path, error: OSError) -> ConfigError:
    reason = (error.strerror or str(error)).lower()
    remedy = "set runs to a folder that can be written"
    return ConfigError(f"no run can be kept here: {reason}", where=runs, remedy=remedy)
