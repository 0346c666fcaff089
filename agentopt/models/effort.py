"""The reasoning efforts that a task may set."""

from __future__ import annotations

from collections.abc import Mapping

from agentopt.core.axes import values_of
from agentopt.core.errors import TaskError
from agentopt.core.task import Task
from agentopt.core.yaml_models import did_you_mean, listed, shown
from agentopt.models.catalog import ModelSpec

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max", "default")
"""The reasoning efforts of the providers' APIs."""


def check_efforts(task: Task, specs: Mapping[str, ModelSpec], where: str) -> None:
    """Check the reasoning efforts of every subtask.

    Args:
        task: The task.
        specs: Catalogue entries of its models, by name. The `reasoning_effort` of a model's entry is allowed, too.
        where: The place of the subtasks, for messages.

    Raises:
        TaskError: A subtask has an effort, or varies it among efforts, of which one is not known.
    """
    for subtask in task.subtasks:
        own = [effort for model in subtask.models if (effort := specs[model].reasoning_effort)]
        known = list(dict.fromkeys((*EFFORTS, *own)))
        for effort in values_of(subtask.settings, "effort", subtask.effort):
            if effort is not None and effort not in known:
                rule = f"must be one of {listed(known)}, but got {shown(effort)}"
                otherwise = "use one of these, or set `reasoning_effort` in the catalogue entry of a model to it"
                remedy = did_you_mean(effort.lower(), known, otherwise)
                raise TaskError(rule, where=f"{where}.{subtask.name}.effort", remedy=remedy)
