"""Whether a task is still that of a run: only then can the run be resumed, and its record be read with the task."""

from __future__ import annotations

import os
from pathlib import Path

from agentopt.core.errors import ConfigError
from agentopt.core.fingerprint import VERSION, WITH_DESCRIPTIONS
from agentopt.core.fingerprint import fingerprint as core_fingerprint
from agentopt.core.task import Task
from agentopt.runs.config import Config


class TaskChangedError(ConfigError):
    """The task of a run has changed since the run began."""


def fingerprint(task: Task, config: Config, version: str = VERSION) -> str:
    """Hash what makes the trials of a run comparable. Comments and descriptions in the task file do not count.

    Args:
        task: The task.
        config: The configuration, for its changes to the task file.
        version: The form of the fingerprint: `VERSION` or `WITH_DESCRIPTIONS`.

    Returns:
        The fingerprint of `core.fingerprint`, over `sources(task)`. The earlier form counts the task file's text too.
    """
    files = sources(task)
    if version == WITH_DESCRIPTIONS and task.file:
        files = sorted({*files, task.file})
    return core_fingerprint(task, files, config.task, version=version)


def is_bare(recorded: str) -> bool:
    """Whether a recorded fingerprint is of version 0.1.0 and leaves out parts of the task."""
    return not recorded.startswith((VERSION, WITH_DESCRIPTIONS))


def is_same_task(task: Task, config: Config, recorded: str) -> bool:
    """Whether the task has the recorded fingerprint, by the form of that.

    Args:
        task: The task.
        config: The configuration, for its changes to the task file.
        recorded: What `fingerprint` returned when the run began.
    """
    version = WITH_DESCRIPTIONS if recorded.startswith(WITH_DESCRIPTIONS) else VERSION
    return fingerprint(task, config, version) == recorded


def sources(task: Task) -> list[Path]:
    """The Python files in the task's folder, and the files in it that a program's command names."""
    if task.file is None:
        return []
    folder, command = task.file.parent, task.program.command if task.program else ()
    named = [folder / word for word in command if not Path(word).is_absolute()]
    return sorted({*folder.glob("*.py"), *(path for path in named if os.path.isfile(path))} - {task.file})
