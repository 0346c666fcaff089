"""Chooses the search agent's model for `agent.model: auto`."""

from __future__ import annotations

from collections.abc import Mapping

from agentopt.core.task import Task
from agentopt.models.catalog import ModelSpec
from agentopt.models.engine import is_installed
from agentopt.runs.config import Config
from agentopt.search.settings import AUTO

LOCAL_AGENT = "qwen2.5-coder-0.5b"
"""The agent's model for a task whose models are local."""


def with_agent_model(config: Config, task: Task, specs: Mapping[str, ModelSpec]) -> Config:
    """Replace `agent.model: auto` by a model.

    The most expensive hosted model of the task; if all of its models are local, the built-in one if the embedded
    engine is installed; else none, so that the fallback strategy proposes.

    Args:
        config: The settings.
        task: The task.
        specs: Catalogue entries by name, those of the task's models included.
    """
    if config.agent.model != AUTO:
        return config
    hosted = [specs[name] for name in task.models if not specs[name].weights and specs[name].chat_template]
    dearest = max(hosted, key=lambda spec: (spec.prices.worst_usd(1000, 200), spec.parameters or 0.0), default=None)
    local = LOCAL_AGENT if LOCAL_AGENT in specs and is_installed() else None
    is_local = all(specs[name].weights for name in task.models)
    name = dearest.name if dearest else local if is_local else None
    return config.model_copy(update={"agent": config.agent.model_copy(update={"model": name})})
