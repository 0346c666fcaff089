"""Chooses the search agent's model for `agent.model: auto`."""

from __future__ import annotations

import math
from collections.abc import Mapping

from agentopt.core.task import Task
from agentopt.models.catalog import ModelSpec
from agentopt.models.engine import is_installed
from agentopt.runs.config import Config
from agentopt.search.settings import AUTO, NOT_FOUND

LOCAL_AGENT = "qwen2.5-coder-0.5b"
"""The agent's model for a task whose models are local."""


SMALL = 7e9
"""Parameters up to which a model is shown the compact prompts."""


def with_agent_model(config: Config, task: Task, specs: Mapping[str, ModelSpec]) -> Config:
    """Replace `agent.model: auto` by a model, and `agent.prompt: auto` by what suits it.

    The most expensive hosted model of the task; if all of its models are local, the built-in one if the embedded
    engine is installed; else none, so that the fallback strategy proposes. Hosted models and large ones are shown
    everything, small ones the compact prompts.

    Args:
        config: The settings.
        task: The task.
        specs: Catalogue entries by name, those of the task's models included.
    """
    agent = config.agent
    name = _automatic(task, specs) if agent.model == AUTO else agent.model
    spec = specs.get(name) if name else None
    prompt = agent.prompt
    if prompt == "auto" and spec:
        unknown = 0.0 if spec.weights else math.inf
        prompt = "full" if (spec.parameters or unknown) > SMALL else "compact"
    return config.model_copy(update={"agent": agent.model_copy(update={"model": name, "prompt": prompt})})


def _automatic(task: Task, specs: Mapping[str, ModelSpec]) -> str:
    hosted = [specs[name] for name in task.models if not specs[name].weights and specs[name].chat_template]
    dearest = max(hosted, key=lambda spec: (spec.prices.worst_usd(1000, 200), spec.parameters or 0.0), default=None)
    local = LOCAL_AGENT if LOCAL_AGENT in specs and is_installed() else NOT_FOUND
    is_local = all(specs[name].weights for name in task.models)
    return dearest.name if dearest else local if is_local else NOT_FOUND
